"""`train(config, workdir)`: the only trainer.

The order of each iteration is a contract: step, log (fetched one step late, so that the
device never waits), evaluate, save, check for a request to stop.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import signal
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from rich.console import Console

from clipjax import paths, peers
from clipjax.engine import (
    architecture,
    assemble,
    classes,
    datasets,
    first_state,
    lost_text_report,
    recording,
    resume,
    sharding,
    shared_memory,
    starts,
    step_program,
    writers,
)
from clipjax.engine import state as states
from clipjax.engine.activity import Activity
from clipjax.engine.checkpoint.saves import Checkpoints
from clipjax.engine.compilation import enable_cache
from clipjax.engine.early_stop import EarlyStop
from clipjax.engine.evaluation import Evaluation, best_metric, describe_missing
from clipjax.engine.metrics import MetricWriter
from clipjax.engine.overfit import OverfitAlarm
from clipjax.engine.progress import Progress
from clipjax.engine.run import Run, batches, jit_step, prepare, size
from clipjax.engine.starts import Start
from clipjax.engine.step_log import StepLog, due
from clipjax.multihost import on_primary, same
from clipjax.preempt import StopRequest
from clipjax.pulse import pulse
from clipjax.types import Config, EvalResult, Metric, UserError
from clipjax.weights import write_model

# In a checkpoint's meta: a signal came before the evaluation of this step, which is
# made when the run goes on.
_UNEVALUATED = "unevaluated"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended.

    step: steps done. results: the evaluators' results at the last evaluation.
    stopped_by: the signal that stopped the run, 0 if it is complete.
    stopped_early: why `early_stop` ended it before its last step; "" if it did not.
    best: the step of the best save and its metrics, of which best_metric chose it; None
      and empty if no evaluation did.
    """

    step: int
    total_steps: int
    results: dict[str, EvalResult]
    stopped_by: int = 0
    stopped_early: str = ""
    best: int | None = None
    best_metric: str = ""
    best_metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)


def train(
    config: Config,
    workdir: str | pathlib.Path,
    *,
    extend: bool = False,
    console: Console | None = None,
    start: Start | None = None,
) -> Outcome:
    """Trains to the end of the config's run; resumes a run that workdir holds.

    Precedence, which is printed: resume > start from the weights that `init_from`,
    `init_image_from` and `init_text_from` name > scratch.

    start: the command that calls it, which the run's folder keeps.

    Raises:
      UserError: for anything that the user can fix: bad config, missing data, a run
        of another config in workdir, a loss that stays non-finite.
    """
    workdir = paths.local(workdir, "a run")
    with Activity(console or Console(quiet=jax.process_index() > 0)) as activity:
        return _train(config, workdir, extend, activity, start)


def _train(
    config: Config,
    workdir: pathlib.Path,
    extend: bool,
    activity: Activity,
    command: Start | None,
) -> Outcome:
    say = activity.say
    enable_cache(say)
    config = datasets.resolve(architecture.with_released_settings(config, workdir))
    writers.check(config)
    anew = on_primary(lambda: resume.check(workdir, config, extend, say))
    with pulse.working(), activity.doing("reading the data and preparing the run"):
        run = prepare(config, workdir, anew)
    facts = {
        f"{path}: {key}": value
        for path, fingerprint in run.data.items()
        for key, value in fingerprint.items()
        if key != "of"  # its section, whose paths may differ
    }
    same("their data", facts)
    if not anew:
        on_primary(lambda: datasets.check_training(workdir, run.data, say))
    with pulse.working(), activity.doing("looking through the captions"):
        lost_text_report.tell(run, say)
    for line in run.evaluators.costs():
        say(line)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{workdir} cannot be created ({error.strerror}): give another --workdir"
        ) from error
    saves = Checkpoints(
        workdir,
        keep=config.checkpoint.keep,
        every_keep=config.checkpoint.keep_every,
        keep_best=config.checkpoint.keep_best,
        best_metric=config.checkpoint.best,
        best_mode=config.checkpoint.best_mode,
        warn=activity.warn,
    )
    record = recording.heartbeat(run, activity)
    with StopRequest() as stop, record, saves:
        if group := peers.group():
            group.last_saved = lambda: _last_saved(saves)
            group.ending = record.fail_now
        say(_summary(run))
        say(write_model.describe_limits(run.config, run.model, run.tokenizer))
        with activity.doing("making or reading the first state"):
            state, start, meta = _start(run, saves, say)
        record.position = lambda: (start, None)
        on_primary(lambda: _save_parts(run))
        run.shared_names = shared_memory.begin(workdir, config.data.workers, say)
        early = EarlyStop(config, meta.get("early_stop", {}), activity.warn)
        if complete := early.describe_end(run.workdir, start, run.total_steps):
            say(complete)
            if told := describe_missing(run, start):
                say(told)
            why = early.reason if start < run.total_steps else ""
            record.ended(why=why)
            ended = Outcome(start, run.total_steps, {}, stopped_early=why)
            return _with_best(ended, saves)
        if command is not None:
            added = command
            on_primary(lambda: starts.add(workdir, added, start))
        with contextlib.ExitStack() as stack:
            progress = Progress(
                activity, run.total_steps, start, config.data.batch_size
            )
            record.position = progress.position
            stack.enter_context(activity.doing(progress))
            outcome = _loop(
                run, saves, stop, state, start, meta, early, progress, stack
            )
        with activity.doing(f"finishing the save of step {outcome.step}"):
            saves.wait()
        record.ended(outcome.stopped_by, outcome.stopped_early)
        return _with_best(outcome, saves)


def _save_parts(run: Run) -> None:
    """Saves the files that a run needs, besides checkpoints, to resume or be used."""
    resume.save(run.workdir, run.config)
    datasets.save(run.data, run.workdir)
    assemble.save_tokenizer(run.config, run.tokenizer, run.workdir)
    classes.save(run.classes, run.workdir)


def _summary(run: Run) -> str:
    epochs = run.total_steps * run.config.data.batch_size / run.epoch_size
    return (
        f"{size(run)} ({epochs:,.1f} epochs) on {run.mesh.size} x "
        f"{jax.devices()[0].device_kind}"
    )


def _start(
    run: Run, saves: Checkpoints, say
) -> tuple[states.TrainState, int, dict[str, Any]]:
    """The first state, its step, and its checkpoint's meta; {} without one."""
    config = run.config
    restored = saves.restore_latest(run.template)
    if restored is not None:
        state, meta, step = restored
        if meta["epoch_size"] != run.epoch_size:
            raise UserError(
                f"{run.workdir} was trained on epochs of {meta['epoch_size']} "
                f"{config.data.unit}s and the data now have {run.epoch_size}: give the "
                "same data to resume it, or another --workdir"
            )
        say(f"resuming {run.workdir} from step {step} of {run.total_steps}")
        return state, step, meta
    state, taken = first_state.make(run, say)
    if not taken:
        say(f"starting from scratch in {run.workdir}")
    return state, 0, {}


def _loop(
    run: Run,
    saves: Checkpoints,
    stop: StopRequest,
    state: states.TrainState,
    start: int,
    meta: Mapping[str, Any],
    early: EarlyStop,
    progress: Progress,
    stack: contextlib.ExitStack,
) -> Outcome:
    """meta: of the checkpoint that the run resumes from; {} if it has none."""
    config, total, activity = run.config, run.total_steps, progress.activity
    train_step = jit_step(run)
    evaluation = Evaluation(run, progress)
    source = batches(run, start)
    stack.callback(source.close)
    if source.left_out:
        progress.say(f"{source.left_out:,} examples without a caption are left out")
    writer = None
    if jax.process_index() == 0:
        files = MetricWriter(run.workdir, start, tensorboard=config.log.tensorboard)
        opens = writers.check(config)
        writer = writers.Writers(files, opens, run.workdir, config, progress.say)
        stack.callback(writer.close)
    save_every = config.checkpoint.every or run.steps_per_epoch
    # Emulated devices share a thread pool: two steps in flight could deadlock.
    one_at_a_time = run.mesh.size > 1 and run.mesh.devices.flat[0].platform == "cpu"

    def last_saved() -> str:
        saves.wait()
        return _last_saved(saves)

    replaced = meta.get("replaced", 0)
    log = StepLog(run, source, progress, writer, start, replaced, last_saved)
    overfit = OverfitAlarm(meta.get("overfit", {}), progress.warn)

    def evaluate(
        step: int, state: states.TrainState
    ) -> tuple[dict[str, EvalResult], dict[str, Metric]]:
        results, evaluated = evaluation.run(state)
        if writer is not None:
            values = {f"eval/{k}": metric.value for k, metric in evaluated.items()}
            writer.write_scalars(step, values)
        if evaluated:
            best = best_metric(config, results, evaluated)
            saves.follow(*best)
            early.look(step, evaluated, best[0])
            overfit.look(step, evaluated, log.mean_loss())
        return results, evaluated

    several = peers.group() is not None
    results: dict[str, EvalResult] = {}
    step = start
    if meta.get(_UNEVALUATED):
        results, _ = evaluate(step, state)
    while step < total and not early.reason:
        step += 1
        first = step == start + 1
        progress.at(step)
        # 1. Step: dispatched, not awaited.
        begin = time.monotonic()
        # data.timeout bounds it
        with pulse.pause(), _doing(activity, first, "reading the first batch"):
            local = dict(next(source))
        pulse.beat(step)
        if several:  # the step spreads the signal, so that all stop at the same step
            count = len(next(iter(local.values())))
            local["stop"] = np.full(count, stop.signal_number(step), np.int32)
        if log.device_is_idle():
            progress.wait(time.monotonic() - begin)
        batch = sharding.put_batch(run.mesh, local)
        with (
            jax.transfer_guard("disallow"),  # a step never waits for the host
            _doing(activity, first, "compiling the training step"),
        ):
            if first:  # the call below takes what this has compiled
                program = train_step.lower(state, batch).compile()
                if jax.process_index() == 0:
                    devices = run.mesh.size
                    stack.callback(
                        step_program.record(run.workdir, program, batch, devices)
                    )
            state, metrics = train_step(state, batch)
        if one_at_a_time:
            jax.block_until_ready(metrics)
        # 2. Log the previous step.
        log.flush()
        log.put(step, metrics)
        stop_signal = log.stop if several else stop.signal_number(step)
        # 3. Evaluate, unless asked to stop, because the sender may not wait that long.
        evaluated: dict[str, Metric] = {}
        stopping = stop_signal and step < total
        is_due = due(step, config.train.eval_every, total)
        if is_due and not stopping:
            log.flush()
            results, evaluated = evaluate(step, state)
        # 4. Save.
        if due(step, save_every, total) or evaluated or stop_signal:
            log.flush()
            meta = {
                "replaced": log.replaced,
                "epoch_size": run.epoch_size,
                "early_stop": early.seen,
                "overfit": overfit.seen,
                _UNEVALUATED: bool(is_due and stopping),
            }
            with activity.doing(f"saving step {step}"):
                saves.save(
                    step,
                    state,
                    meta,
                    {name: metric.value for name, metric in evaluated.items()},
                    {name: metric.mode for name, metric in evaluated.items()},
                )
        # 5. Check for a request to stop.
        if stopping:
            name = signal.Signals(stop_signal).name
            progress.say(f"stopped by {name}; saving step {step}")
            return Outcome(step, total, results, stop_signal)
    why = early.reason if step < total else ""
    if why:
        progress.say(f"stopped early at step {step} of {total}: {why}")
    saves.wait()
    evaluation.keep(state, results)
    return Outcome(step, total, results, stopped_early=why)


def _with_best(outcome: Outcome, saves: Checkpoints) -> Outcome:
    """The outcome with the best save, which process 0 knows."""
    if jax.process_index() > 0 or (best := saves.best_step()) is None:
        return outcome
    return dataclasses.replace(
        outcome,
        best=best,
        best_metric=saves.best_metric()[0],
        best_metrics=saves.metrics(best),
    )


def _doing(
    activity: Activity, first: bool, what: str
) -> contextlib.AbstractContextManager:
    """Shows what takes time at the first step alone."""
    return activity.doing(what) if first else contextlib.nullcontext()


def _last_saved(saves: Checkpoints) -> str:
    steps = saves.steps()
    return f"the last checkpoint is step {steps[-1]}" if steps else "none was saved"
