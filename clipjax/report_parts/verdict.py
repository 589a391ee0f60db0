"""A run in plain words: what was trained, how good it is, what to try next."""

from __future__ import annotations

import math

from clipjax import result_tables
from clipjax.report_parts import parameter_counts
from clipjax.report_parts.page import Check, Tile
from clipjax.report_parts.run_files import RunFiles
from clipjax.types import EvalResult, Metric

CEILING = 0.97  # of a fraction: little is left to win


def trained(run: RunFiles) -> str:
    """What was trained, in a sentence."""
    if not run.config:
        return f"{run.name}: what was trained is not known, as its config is missing."
    model, data = run.section("model"), run.section("data")
    towers = [
        f"{_named(model[side])} for {what}"
        for side, what in (
            ("image", f"images of {data.get('image_size', '?')} pixels"),
            ("text", "texts"),
        )
        if isinstance(model.get(side), dict)
    ]
    kind = {"two_tower": "A CLIP", "classifier": "A classifier"}.get(
        str(model.get("name")), f"A model {model.get('name')}"
    )
    size = parameter_counts.total(run)
    of_size = f" of {parameter_counts.words(size)} parameters" if size else ""
    starts = [
        str(run.config[key])
        for key in ("init_from", "init_image_from", "init_text_from")
        if run.config.get(key)
    ]
    how = f"tuned from {' and '.join(starts)}" if starts else "trained from scratch"
    losses = run.section("loss")
    loss = losses.get("name") or " + ".join(losses)
    optim = run.section("optim").get("name", "?")
    train = run.section("data", "train")
    count = run.data.get("data.train", {}).get("examples")
    count = count or (train.get("size") if train.get("name") == "scenes" else None)
    images = f"{count:,} images" if count else "images"
    done = run.log.last_step() or 0
    epochs = run.last("train/epoch")
    passes = f", {epochs:.3g} epochs" if math.isfinite(epochs) else ""
    return (
        f"{kind}{of_size} ({', '.join(towers)}), {how} on {images} of "
        f"{_data_name(train)} with the loss {loss} and the optimizer {optim} for "
        f"{done:,} steps of {data.get('batch_size', '?')}{passes}."
    )


def how_good(run: RunFiles) -> list[str]:
    """A sentence per evaluator: its primary metric in words."""
    found = []
    for label, result in run.results.items():
        metric = result.metrics[result.primary]
        found.append(f"{_achieved(label, result, metric)}{_beside(metric)}.")
    return found


def tiles(run: RunFiles, most: int = 0) -> list[Tile]:
    """The main numbers of a run. most: how many, with the run's name; 0: all of it."""
    found = []
    for label, result in run.results.items():
        metric = result.metrics[result.primary]
        interval = result_tables.interval(metric)
        parts = [f"95 %: {interval}"] if interval else []
        if chance := result_tables.chance(metric):
            parts.append(f"chance {chance}")
        what = f"{label} {result.primary}".replace("_", " ")
        what = f"{run.name}: {what}" if most else what
        found.append(Tile(result_tables.quantity(metric), what, ", ".join(parts)))
    return found[: most or 6]


def try_next(run: RunFiles, checks: list[Check]) -> list[str]:
    """What to try next, the most promising first."""
    found = [check.mend for check in checks if check.mend]
    metrics = [
        (label, result.metrics[result.primary]) for label, result in run.results.items()
    ]
    for label, metric in metrics:
        if metric.unit != "fraction" or not metric.higher_is_better:
            continue
        if metric.value >= CEILING:
            found.append(
                f"{label} is near its ceiling ({result_tables.quantity(metric)}): a "
                "larger or harder gallery says more."
            )
        elif metric.chance and metric.low is not None and metric.low <= metric.chance:
            found.append(
                f"{label} is not above chance: python -m clipjax.testing checks the "
                "components, and a longer run on more data comes first."
            )
    if not metrics:
        found.append("Evaluate it: without an evaluation nobody knows how good it is.")
    if len(metrics) and metrics[0][1].n and metrics[0][1].n < 400:
        found.append(
            f"The evaluation has {metrics[0][1].n} queries, so its interval is wide: "
            "evaluate on more."
        )
    if not found:
        found.append(
            "Nothing is amiss. Compare it with another choice of loss, optimizer or "
            "towers on the same examples by python -m clipjax.compare."
        )
    return found[:6]


def _achieved(label: str, result: EvalResult, metric: Metric) -> str:
    value = result_tables.quantity(metric)
    name = result.primary
    if name.endswith("recall@1"):
        side = {
            "image_to_text": "Images find one of their captions",
            "text_to_image": "Captions find their image",
        }.get(name.removesuffix("_recall@1"), "Images and captions find each other")
        return f"{side} first in {value} of the searches ({label}: {result.size})"
    if name.endswith("top1"):
        return f"It names the right class in {value} ({label}: {result.size})"
    return f"{label}: {name.replace('_', ' ')} {value} ({result.size})"


def _beside(metric: Metric) -> str:
    parts = []
    if ends := result_tables.interval(metric):
        parts.append(f"95 % interval {ends}")
    if chance := result_tables.chance(metric):
        ratio = result_tables.times_chance(metric)
        parts.append(
            f"{ratio} times chance ({chance})" if ratio else f"chance {chance}"
        )
    return f": {', '.join(parts)}" if parts else ""


def _named(section: dict) -> str:
    name = str(section.get("name"))
    name = {"vit": "ViT", "resnet": "ResNet", "convnext": "ConvNeXt"}.get(name, name)
    variant = section.get("variant")
    return f"{name} {variant}" if variant else name


def _data_name(section: dict) -> str:
    name, split = section.get("name", "?"), section.get("split")
    path = str(section.get("path") or section.get("data_dir") or "")
    where = f" in {path.rstrip('/').rpartition('/')[2]}" if path else ""
    words = {"scenes": "drawn scenes"}.get(name, f"the source {name}{where}")
    return f"{words} (split {split})" if split else words
