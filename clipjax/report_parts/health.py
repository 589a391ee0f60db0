"""Whether a run is healthy: checks of its numbers, each with the mend."""

from __future__ import annotations

import math

import numpy as np

from clipjax.engine import overfit
from clipjax.engine.activity import duration
from clipjax.report_parts.loss_phases import Course
from clipjax.report_parts.page import Check
from clipjax.report_parts.run_files import RunFiles
from clipjax.run_record import status

NEAR_CHANCE = 0.02  # as engine/watch.py: a loss that has learned nothing
SIDES = ("image", "text")
ALIKE = 1.5  # an effective rank below this is a collapse
WAITING = 0.05  # of the time, on data
FALLING = 0.02  # of the loss, over the last tenth: it still falls
WORSE = 0.05  # of the validation loss, above its lowest


def checks(run: RunFiles, course: Course | None) -> list[Check]:
    """The checks that the run's numbers allow, the worst first."""
    found = [
        _end(run),
        _finite(run),
        _learning(run, course),
        _still_falling(run, course),
        _overfitting(run),
        _temperature(run),
        _rank(run),
        _data_wait(run),
        _replaced(run),
        _warnings(run),
    ]
    order = {"bad": 0, "warning": 1, "good": 2}
    return sorted((x for x in found if x), key=lambda check: order[check.level])


def condition(run: RunFiles) -> str:
    """What became of the run, as the word of status.Condition; "" if not known."""
    if run.status is not None:
        return run.status.condition().word
    done = run.log.last_step() or 0
    return status.FINISHED if run.total_steps and done >= run.total_steps else ""


def is_over(run: RunFiles) -> bool:
    """Whether a run has ended; one of an older version, which does not say so, has."""
    if run.status is None:
        return len(run.log) > 0
    return run.status.condition().over


def _end(run: RunFiles) -> Check | None:
    done, total = run.log.last_step() or 0, run.total_steps
    of = f"step {done:,} of {total:,}" if total else f"step {done:,}"
    word = condition(run)
    if run.status is not None and run.status.stopped_early:
        why = f"It ended at {of}: {run.status.reason}."
        return Check("good", "stopped early", why)
    if word == status.FINISHED:
        return Check("good", "complete", f"All {total:,} steps are done.")
    if word == status.RUNNING:
        assert run.status is not None
        left = run.status.seconds_left
        more = f", about {duration(left)} left" if left is not None else ""
        return Check("good", "running", f"It is at {of}{more}.")
    again = "Give the same training command again: it goes on from the last checkpoint."
    if word == status.STOPPED:
        assert run.status is not None
        by = run.status.reason or "a signal"
        return Check("warning", "stopped", f"It was stopped by {by} at {of}.", again)
    if word == status.FAILED:
        assert run.status is not None
        why = f"It ended at {of}: {run.status.reason}"
        return Check("bad", "failed", why, "Mend that error first.")
    if word:  # dead or silent
        why = f"It was last heard of at {of}, and did not say that it ended."
        return Check("bad", word, why, again)
    if not done:
        return Check("bad", "no steps", "It has logged no step.", again)
    return Check("warning", "not complete", f"Its last row is {of}.", again)


def _finite(run: RunFiles) -> Check | None:
    steps, bad = run.series("train/bad_total")
    if not len(bad):
        return None
    if not bad[-1] > 0:
        return Check("good", "finite", "Every step was finite.")
    level = "bad" if run.last("train/bad_in_row") > 0 else "warning"
    why = f"{bad[-1]:,.0f} steps were not finite and changed nothing."
    mend = "Lower --config.optim.lr, or give it more warmup: steps were not finite."
    return Check(level, "non-finite steps", why, mend)


def _learning(run: RunFiles, course: Course | None) -> Check | None:
    uninformed = run.last("train/uninformed_loss")
    if course is None or not math.isfinite(uninformed):
        return None
    share = (uninformed - course.last) / uninformed
    numbers = f"loss {course.last:.3f}, chance {uninformed:.3f}"
    if share < NEAR_CHANCE:
        mend = (
            "Try another --config.optim.lr, and see that captions belong to their "
            "images: it has learned nothing."
        )
        return Check("bad", "at chance", f"It has not learned ({numbers}).", mend)
    return Check("good", "learning", f"The loss is below chance ({numbers}).")


def _still_falling(run: RunFiles, course: Course | None) -> Check | None:
    _, values = run.finite("train/loss")
    if course is None or len(values) < 20:
        return None
    part = max(len(values) // 10, 2)
    before, after = values[-2 * part : -part].mean(), values[-part:].mean()
    fall = (before - after) / abs(before) if before else 0.0
    if course.best < 0.7 * course.last and course.last > 0.5 * course.first:
        why = (
            f"The loss was {course.best:.3f} at step {course.best_step:,} and is "
            f"{course.last:.3f}."
        )
        mend = "Lower --config.optim.lr or clip gradients: the loss has diverged."
        return Check("bad", "diverged", why, mend)
    if fall > FALLING:
        why = f"The loss fell by {100 * fall:.0f} % over the last tenth of the rows."
        mend = "Train for more steps: the loss still falls."
        return Check("warning", "still falling", why, mend)
    why = f"It stays within 5 % of its fall from step {course.settled:,} on."
    return Check("good", "converged", why)


def _overfitting(run: RunFiles) -> Check | None:
    steps, values = run.finite("eval/val_loss")
    if len(values) < 3:
        return None
    mend = f"{overfit.ADVICE}: it learns its training examples by heart."
    if len(values) >= 2 * overfit.WINDOW and len(run.finite("train/loss")[0]):
        if found := _rise(run, steps, values):
            why = (
                f"The validation loss rose from {found.low:.3f} at step "
                f"{found.step:,} to {found.last:.3f}, while the training loss fell "
                f"from {found.train_from:.3f} to {found.train_to:.3f}."
            )
            return Check("warning", "overfitting", why, mend)
        why = "The validation loss does not rise while the training loss falls."
        return Check("good", "no overfitting", why)
    low = int(values.argmin())
    if values[-1] > (1 + WORSE) * values[low]:
        why = (
            f"The validation loss was {values[low]:.3f} at step {steps[low]:,} and is "
            f"{values[-1]:.3f}."
        )
        return Check("warning", "overfitting", why, mend)
    why = f"The validation loss is at its lowest, or near it ({values[-1]:.3f})."
    return Check("good", "no overfitting", why)


def _rise(run: RunFiles, steps: np.ndarray, losses: np.ndarray) -> overfit.Rise | None:
    """The rise of the validation loss at the run's last evaluation."""
    at, values = run.finite("train/loss")
    seen: overfit.Seen = {}
    before = 0
    for step, loss in zip(steps, losses, strict=True):
        between = values[(at > before) & (at <= step)]
        if len(between):  # else rows are rarer than evaluations
            seen = overfit.after(seen, int(step), float(loss), float(between.mean()))
            before = step
    return overfit.rise(seen)


def _temperature(run: RunFiles) -> Check | None:
    scale = run.last("train/logit_scale")
    limit = float(run.section("train").get("max_logit_scale") or 0)
    if not math.isfinite(scale) or not limit:
        return None
    if scale >= 0.99 * limit:
        why = (
            f"The temperature is at its limit ({1 / scale:.3g}): normal for a long "
            "run; early in one it says that the learning rate is too high."
        )
        mend = "Try a lower --config.optim.lr if the temperature met its limit early."
        return Check("warning", "temperature at its limit", why, mend)
    return Check("good", "temperature", f"{1 / scale:.3f}, within its limits.")


def _rank(run: RunFiles) -> Check | None:
    ranks = {side: run.last(f"train/{side}_effective_rank") for side in SIDES}
    ranks = {side: value for side, value in ranks.items() if math.isfinite(value)}
    if not ranks:
        return None
    numbers = ", ".join(f"{side}s {value:.1f}" for side, value in ranks.items())
    if min(ranks.values()) < ALIKE:
        why = f"Embeddings are nearly alike (effective rank of {numbers})."
        mend = "Lower --config.optim.lr or choose another loss: it has collapsed."
        return Check("bad", "collapsed", why, mend)
    return Check("good", "no collapse", f"Effective rank of {numbers}.")


def _data_wait(run: RunFiles) -> Check | None:
    _, values = run.series("time/data_wait_share")
    if not len(values):
        return None
    share = float(np.nanmean(values))
    if share > WAITING:
        why = f"{100 * share:.0f} % of the time went to waiting for data."
        mend = (
            "Give it more --config.data.workers or --config.data.threads, or smaller "
            "images on disk: it waits for data."
        )
        return Check("warning", "waits for data", why, mend)
    return Check("good", "data in time", f"Waiting for data took {100 * share:.1f} %.")


def _replaced(run: RunFiles) -> Check | None:
    count = run.last("train/replaced_total")
    if not math.isfinite(count) or not count:
        return None
    why = f"{count:,.0f} broken examples were replaced by others."
    mend = "Look at the broken examples: python -m clipjax.prepare verify names them."
    return Check("warning", "broken examples", why, mend)


def _warnings(run: RunFiles) -> Check | None:
    if run.status is None or not run.status.warnings:
        return None
    last = run.status.warnings[-1].text
    count = run.status.warnings_total
    why = f"{count} in all, the last: {last}"
    return Check("warning", "the run's warnings", why)
