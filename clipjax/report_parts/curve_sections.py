"""The curves of one run or several, and the phases of the loss."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from clipjax import result_tables
from clipjax.engine.activity import duration
from clipjax.report_parts import curves
from clipjax.report_parts.curves import Level, Line
from clipjax.report_parts.loss_phases import Course
from clipjax.report_parts.page import (
    Chart,
    Charts,
    Columns,
    Fold,
    Section,
    Table,
    Text,
)
from clipjax.report_parts.run_files import RunFiles

_SHOWN = ("loss", "learning_rate", "logit_scale", "grad_norm", "uninformed_loss")
_COUNTS = ("bad_in_row", "bad_total", "replaced_total", "epoch")
MORE = 16  # charts of other metrics
ROWS = 11  # milestones


def curve_section(runs: Sequence[RunFiles]) -> Section:
    """The section of the main curves, and of all others below them."""
    charts = [chart for make in _MAKERS if (chart := make(runs))]
    charts += _evaluation_charts(runs)
    names = [run.name for run in runs]
    blocks: list[object] = [Charts(charts, names)] if charts else []
    if not charts:
        blocks.append(Text("There are no logged numbers to draw.", "gap"))
    known = {chart.title for chart in charts}
    more = [chart for chart in _others(runs) if chart.title not in known]
    if more:
        blocks.append(Fold("More curves", [Charts(more, names)]))
    if charts and len(runs) == 1:
        note = "A faint band shows the lowest and highest of the rows behind a point."
        if len(runs[0].series("train/loss")[0]) > curves.POINTS:
            blocks.insert(1, Text(note))
    return Section("Curves", blocks)


def _lines(
    runs: Sequence[RunFiles],
    names: dict[str, str],
    change: Callable[[np.ndarray], np.ndarray] = lambda x: x,
) -> list[Line]:
    """The lines of metrics, by their words, of all runs."""
    found = []
    for number, run in enumerate(runs):
        for name, words in names.items():
            steps, values = run.series(name)
            if len(steps):
                found.append(Line(steps, change(values), number, words))
    return found


def _chart(
    runs: Sequence[RunFiles],
    title: str,
    unit: str,
    lines: Sequence[Line],
    levels: Sequence[Level] = (),
    *,
    log: bool = False,
) -> Chart | None:
    """A chart of lines of these runs; None if there is nothing to draw."""
    by_run = len(runs) > 1
    return curves.chart(title, unit, lines, levels=levels, by_run=by_run, log=log)


def _loss(runs: Sequence[RunFiles]) -> Chart | None:
    lines = _lines(runs, {"train/loss": "training", "eval/val_loss": "validation"})
    chances = {round(run.last("train/uninformed_loss"), 3) for run in runs}
    chances = {value for value in chances if np.isfinite(value)}
    levels = [Level(value, "chance") for value in chances if len(chances) == 1]
    return _chart(runs, "Loss", "loss", lines, levels)


def _accuracy(runs: Sequence[RunFiles]) -> Chart | None:
    names = {
        "train/image_to_text_accuracy": "image to text",
        "train/text_to_image_accuracy": "text to image",
        "train/accuracy": "classes",
    }
    lines = _lines(runs, names, lambda x: 100 * x)
    batches = {run.section("data").get("batch_size") for run in runs}
    batch = next(iter(batches)) if len(batches) == 1 else None
    paired = "train/accuracy" not in runs[0].log.names()
    levels = [Level(100 / batch, "chance")] if batch and paired else []
    return _chart(runs, "Accuracy in the batch", "%", lines, levels)


def _temperature(runs: Sequence[RunFiles]) -> Chart | None:
    lines = _lines(runs, {"train/logit_scale": ""}, lambda x: 1 / x)
    return _chart(runs, "Temperature", "1 / logit scale", lines)


def _rate(runs: Sequence[RunFiles]) -> Chart | None:
    lines = _lines(runs, {"train/learning_rate": ""}, lambda x: 1000 * x)
    return _chart(runs, "Learning rate", "learning rate x 1,000", lines)


def _norm(runs: Sequence[RunFiles]) -> Chart | None:
    lines = _lines(runs, {"train/grad_norm": ""})
    values = np.concatenate([x.values[np.isfinite(x.values)] for x in lines] or [[]])
    wide = len(values) > 1 and values.min() > 0 and values.max() > 50 * values.min()
    return _chart(runs, "Gradient norm", "norm", lines, log=bool(wide))


def _rank(runs: Sequence[RunFiles]) -> Chart | None:
    names = {
        "train/image_effective_rank": "images",
        "train/text_effective_rank": "texts",
    }
    lines, levels = _lines(runs, names), [Level(1.0, "all alike")]
    return _chart(runs, "Effective rank of embeddings", "dimensions", lines, levels)


def _throughput(runs: Sequence[RunFiles]) -> Chart | None:
    lines = _lines(runs, {"time/images_per_second": ""})
    return _chart(runs, "Throughput", "images per second", lines)


def _wait(runs: Sequence[RunFiles]) -> Chart | None:
    lines = _lines(runs, {"time/data_wait_share": ""}, lambda x: 100 * x)
    return _chart(runs, "Waiting for data", "% of the time", lines)


_MAKERS = (_loss, _accuracy, _rate, _temperature, _norm, _rank, _throughput, _wait)


def _evaluation_charts(runs: Sequence[RunFiles]) -> list[Chart]:
    """A chart per evaluator's primary metric that was logged more than once."""
    labels: dict[str, str] = {}
    chances: dict[str, float | None] = {}
    for run in runs:
        for label, result in run.results.items():
            metric = result.metrics[result.primary]
            labels[f"eval/{label}/{result.primary}"] = metric.unit
            chances[f"eval/{label}/{result.primary}"] = metric.chance
    if not labels:
        labels = {"eval/primary": ""}
    found = []
    for name, unit in labels.items():
        scale = 100 if unit == "fraction" else 1
        lines = _lines(runs, {name: ""}, lambda x, scale=scale: scale * x)
        if max((len(line.steps) for line in lines), default=0) < 2:
            continue
        chance = chances.get(name)
        levels = [Level(scale * chance, "chance")] if chance is not None else []
        title = name.removeprefix("eval/").replace("_", " ").replace("/", " ")
        words = {"fraction": "%", "": "value"}.get(unit, unit)
        chart = _chart(runs, title, words, lines, levels)
        found += [chart] if chart else []
    return found


def _others(runs: Sequence[RunFiles]) -> list[Chart]:
    """Metrics that no other chart shows and that change."""
    names = dict.fromkeys(name for run in runs for name in run.log.names())
    found = []
    for name in names:
        part, _, rest = name.partition("/")
        shown = part == "time" or rest in (*_SHOWN, *_COUNTS, "val_loss", "primary")
        if shown or rest.endswith(("accuracy", "effective_rank")):
            continue
        lines = [line for line in _lines(runs, {name: ""}) if len(line.steps) > 1]
        if any(len(set(line.values[np.isfinite(line.values)])) > 1 for line in lines):
            title = rest.replace("_", " ").replace("/", " ")
            chart = _chart(runs, title, "value", lines)
            found += [chart] if chart else []
        if len(found) == MORE:
            break
    return found


def phase_blocks(run: RunFiles, course: Course) -> list[object]:
    """The phases of a run's loss, its milestones, checkpoints and criteria."""
    lines = [
        [
            f"{number}: {phase.kind}",
            f"{phase.first:,} - {phase.last:,}",
            f"{phase.start:.3f}",
            f"{phase.end:.3f}",
            f"{100 * phase.fall:.0f} %",
        ]
        for number, phase in enumerate(course.phases, 1)
    ]
    head = ["phase", "steps", "loss at its start", "at its end", "fall"]
    left: list[object] = [Table(head, lines, "Phases of the loss")]
    left.append(criteria(run, course))
    if run.saves:
        left.append(_checkpoints(run))
    return [Columns([left, [_milestones(run, course)]])]


def _milestones(run: RunFiles, course: Course) -> Table:
    """Rows at tenths of the run, and the best one."""
    steps, times, losses = run.log.series("train/loss")
    places = np.unique(np.linspace(0, len(steps) - 1, ROWS).round().astype(int))
    best = int(np.abs(steps - course.best_step).argmin())
    places = np.unique([*places, best])
    epochs, rates, speeds = (
        dict(zip(*(x.tolist() for x in run.series(name)), strict=True))
        for name in ("train/epoch", "train/learning_rate", "time/images_per_second")
    )
    lines, strong = [], set()
    for at in places.tolist():
        step = int(steps[at])
        if at == best:
            strong.add(len(lines))
        lines.append(
            [
                f"{step:,}",
                _number(epochs.get(step), "{:.2f}"),
                f"{losses[at]:.4f}",
                _number(rates.get(step), "{:.3g}"),
                _number(speeds.get(step), "{:,.0f}"),
                duration(max(times[at] - times[0], 0)) if times[at] > 0 else "",
            ]
        )
    head = ["step", "epoch", "loss", "learning rate", "images/s", "time since row 1"]
    note = "The lowest loss is bold"
    note += f", of means over {course.rows} rows." if course.rows > 1 else "."
    return Table(head, lines, "Milestones", strong=frozenset(strong), note=note)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _checkpoints(run: RunFiles) -> Table:
    """The steps on disk, with what they were evaluated to."""
    names = [f"{label}/{one.primary}" for label, one in run.results.items()]
    known = dict.fromkeys(name for save in run.saves for name in save.metrics)
    names = [name for name in ("val_loss", *names) if name in known][:4]
    units = _units(run)
    lines, strong = [], set()
    for save in run.saves:
        if save.best:
            strong.add(len(lines))
        words = "best" if save.best else ""
        words = f"damaged: {save.damage}" if save.damage else words
        values = [_value(save.metrics.get(name), units.get(name, "")) for name in names]
        size = f"{save.size / 1e6:,.1f} MB"
        lines.append([f"{save.step:,}", words, *values, size])
    head = ["step", "", *(re.sub("[_/]", " ", name) for name in names), "size"]
    return Table(head, lines, "Checkpoints", texts=2, strong=frozenset(strong))


def _units(run: RunFiles) -> dict[str, str]:
    return {
        f"{label}/{name}": metric.unit
        for label, result in run.results.items()
        for name, metric in result.metrics.items()
    }


def _value(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    return result_tables.quantity(result_tables.Metric(value, unit=unit))


# What a run from scratch should reach.
LEAST_FALL, MOST_LOSS, MOST_HOURS = 0.8, 1.0, 12.0


def criteria(run: RunFiles, course: Course) -> Table:
    """Whether a run from scratch went as it should."""
    done, total = run.log.last_step() or 0, run.total_steps
    early = run.status is not None and run.status.stopped_early
    steps = f"{done:,} of {total:,}" + ", stopped early" * early
    bad = run.last("train/bad_total")
    calm = not bad > 0 and course.last <= 2 * max(course.best, 1e-9)
    hours = run.seconds / 3600
    lines = [
        _criterion("all steps done", steps, early or bool(total <= done > 0)),
        _criterion(
            f"the loss falls by more than {100 * LEAST_FALL:.0f} %",
            f"{100 * course.reduction:.1f} %",
            course.reduction > LEAST_FALL,
        ),
        _criterion(
            "no divergence",
            f"{bad:,.0f} steps not finite, last loss {course.last:.3f}",
            calm,
        ),
        _criterion(
            f"lowest loss below {MOST_LOSS:g}",
            f"{course.best:.3f} at step {course.best_step:,}",
            course.best < MOST_LOSS,
        ),
        _criterion(
            f"at most {MOST_HOURS:g} hours", duration_words(run), hours <= MOST_HOURS
        ),
    ]
    return Table(["criterion", "met", "found"], lines, "Success criteria", texts=3)


def duration_words(run: RunFiles) -> str:
    return duration(run.seconds) if np.isfinite(run.seconds) else "not known"


def _criterion(what: str, found: str, met: bool) -> list[str]:
    return [what, "yes" if met else "no", found]
