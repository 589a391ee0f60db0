"""`train(config, workdir)`: the only trainer.

The order of each turn is a contract: step, log (fetched one step late, so that the
device never waits), evaluate, save, check for a request to stop.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import pathlib
import signal
import time

import jax
import numpy as np
from rich.console import Console

from clipjax import paths, peers
from clipjax.engine import (
    assemble,
    classes,
    datasets,
    initial,
    lost_text_report,
    resume,
    sharding,
    shared_memory,
)
from clipjax.engine import state as states
from clipjax.engine.checkpoint.saves import Checkpoints
from clipjax.engine.compilation import enable_cache
from clipjax.engine.evaluation import Evaluation
from clipjax.engine.metrics import MetricWriter
from clipjax.engine.progress import Progress
from clipjax.engine.run import Run, batches, jit_step, prepare
from clipjax.engine.step import check_start
from clipjax.engine.step_log import StepLog, due
from clipjax.multihost import on_primary, same
from clipjax.preempt import StopRequest
from clipjax.pulse import pulse
from clipjax.types import Config, EvalResult, Metric, UserError


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended.

    step: steps done. results: of the evaluators at the last evaluation. stopped_by: the
    signal that asked for the end, 0 if the run is complete.
    """

    step: int
    total_steps: int
    results: dict[str, EvalResult]
    stopped_by: int = 0


def train(
    config: Config,
    workdir: str | pathlib.Path,
    *,
    extend: bool = False,
    console: Console | None = None,
) -> Outcome:
    """Trains to the end of the config's run, or goes on where workdir left off.

    Precedence, said aloud: resume this run > start from what `init_from`,
    `init_image_from` and `init_text_from` name > scratch.

    Raises:
      UserError: for anything the user can mend: bad config, missing data, a run of
        another config in workdir, a loss that stays non-finite.
    """
    workdir = paths.local(workdir, "a run")
    out = console or Console(quiet=jax.process_index() > 0)

    def say(text: str) -> None:
        out.print(text, highlight=False, markup=False, soft_wrap=True)

    enable_cache(say)
    config = datasets.resolved(config)
    anew = on_primary(lambda: resume.check(workdir, config, extend, say))
    with pulse.working():
        run = prepare(config, workdir, anew)
    facts = {
        f"{path}: {key}": value
        for path, found in run.data.items()
        for key, value in found.items()
        if key != "of"  # its section in words, whose paths may differ
    }
    same("their data", facts)
    if not anew:
        on_primary(lambda: datasets.check_training(workdir, run.data, say))
    with pulse.working():
        lost_text_report.tell(run, say)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{workdir} cannot be made a folder ({error.strerror}): give another "
            "--workdir"
        ) from error
    saves = Checkpoints(
        workdir,
        keep=config.checkpoint.keep,
        every_keep=config.checkpoint.keep_every,
        best_metric=config.checkpoint.best,
        best_mode=config.checkpoint.best_mode,
        warn=say,
    )
    with StopRequest() as stop, saves:
        if group := peers.group():
            group.last_saved = lambda: _last_saved(saves)
        say(_summary(run))
        state, start, replaced = _start(run, saves, say)
        on_primary(lambda: _keep(run))
        run.shared_names = shared_memory.begin(workdir, config.data.workers, say)
        if start >= run.total_steps:
            say(f"complete: all {run.total_steps} steps of {workdir} are done")
            return Outcome(start, run.total_steps, {})
        with contextlib.ExitStack() as stack:
            return _loop(run, saves, stop, state, start, replaced, out, stack)


def _keep(run: Run) -> None:
    """Writes what says of the run how to go on with it and how to use it."""
    resume.save(run.workdir, run.config)
    datasets.save(run.data, run.workdir)
    assemble.save_tokenizer(run.config, run.tokenizer, run.workdir)
    classes.save(run.classes, run.workdir)


def _summary(run: Run) -> str:
    parameters = jax.tree.leaves(run.template.params)
    count = sum(math.prod(leaf.shape) for leaf in parameters)
    epochs = run.total_steps * run.config.data.batch_size / run.epoch_size
    return (
        f"{count:,} parameters, {len(run.source):,} training examples, "
        f"{run.total_steps:,} steps of {run.config.data.batch_size} ({epochs:,.1f} "
        f"epochs) on {run.mesh.size} x {jax.devices()[0].device_kind}"
    )


def _best(
    config: Config, results: dict[str, EvalResult], found: dict[str, Metric]
) -> tuple[str, str]:
    """The metric that tells the best checkpoint, and its better side ("": not known).

    results, found: of an evaluation.
    """
    best = config.checkpoint.best
    if not best and results:
        # By its name, as a run that goes on may have others before it.
        label, first = next(iter(results.items()))
        best = f"{label}/{first.primary}"
    best = best or "val_loss"
    mode = found[best].mode if best in found else ""
    return best, config.checkpoint.best_mode or mode


def _start(run: Run, saves: Checkpoints, say) -> tuple[states.TrainState, int, int]:
    """The state to begin with, its step, and the replaced examples counted so far."""
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
        return state, step, meta["replaced"]
    given = [
        initial.read(key, config, run.model, run.tokenizer, say)
        for key in initial.starts(config)
    ]
    for weights in given:
        if not weights.side:  # a tower's run has a temperature, which is not taken
            limit = config.train.max_logit_scale
            check_start(weights.what, weights.params, run.optim.frozen, limit)
    state = states.initialise(
        run.model, run.loss, run.optim, config.train.ema > 0, config.seed, run.template
    )
    for weights in given:
        state = initial.take(weights, state, run.template, say)
    if not given:
        say(f"starting from scratch in {run.workdir}")
    return state, 0, 0


def _loop(
    run: Run,
    saves: Checkpoints,
    stop: StopRequest,
    state: states.TrainState,
    start: int,
    replaced: int,
    console: Console,
    stack: contextlib.ExitStack,
) -> Outcome:
    config, total = run.config, run.total_steps
    progress = Progress(console, total, start, config.data.batch_size)
    stack.callback(progress.close)
    train_step = jit_step(run)
    evaluation = Evaluation(run, progress)
    source = batches(run, start)
    stack.callback(source.close)
    if source.left_out:
        progress.say(f"{source.left_out:,} examples without a caption are left out")
    writer = None
    if jax.process_index() == 0:
        writer = MetricWriter(run.workdir, start, tensorboard=config.log.tensorboard)
        stack.callback(writer.close)
    save_every = config.checkpoint.every or run.steps_per_epoch
    # Emulated devices share a thread pool: two steps in flight can wait for each other.
    one_at_a_time = run.mesh.size > 1 and run.mesh.devices.flat[0].platform == "cpu"

    def last_saved() -> str:
        saves.wait()
        return _last_saved(saves)

    log = StepLog(run, source, progress, writer, start, replaced, last_saved)
    several = peers.group() is not None
    results: dict[str, EvalResult] = {}
    for step in range(start + 1, total + 1):
        # 1. Step: dispatched, not awaited.
        asked = time.monotonic()
        with pulse.bounded():  # by data.timeout
            local = dict(next(source))
        pulse.beat(step)
        if several:  # the step itself agrees, so that all stop at the same one
            count = len(next(iter(local.values())))
            local["stop"] = np.full(count, stop.received(step), np.int32)
        if log.device_is_idle():
            progress.wait(time.monotonic() - asked)
        batch = sharding.put_batch(run.mesh, local)
        with jax.transfer_guard("disallow"):  # a step waits for nothing of the host
            state, metrics = train_step(state, batch)
        if one_at_a_time:
            jax.block_until_ready(metrics)
        # 2. Log the step before.
        log.flush()
        log.put(step, metrics)
        asked_to_stop = log.stop if several else stop.received(step)
        # 3. Evaluate, unless asked to stop: who asks may not wait that long.
        found: dict[str, Metric] = {}
        stopping = asked_to_stop and step < total
        if due(step, config.train.eval_every, total) and not stopping:
            log.flush()
            results, found = evaluation.run(state)
            if writer is not None:
                writer.write_scalars(
                    step, {f"eval/{name}": one.value for name, one in found.items()}
                )
        # 4. Save.
        if due(step, save_every, total) or found or asked_to_stop:
            log.flush()
            meta = {"replaced": log.replaced, "epoch_size": run.epoch_size}
            if found:
                saves.follow(*_best(config, results, found))
            saves.save(
                step,
                state,
                meta,
                {name: metric.value for name, metric in found.items()},
                {name: metric.mode for name, metric in found.items()},
            )
        # 5. Check for a request to stop.
        if stopping:
            name = signal.Signals(asked_to_stop).name
            progress.say(f"stopped by {name}; saving step {step}")
            return Outcome(step, total, results, asked_to_stop)
    return Outcome(total, total, results)


def _last_saved(saves: Checkpoints) -> str:
    steps = saves.steps()
    return f"the last checkpoint is step {steps[-1]}" if steps else "none was saved"
