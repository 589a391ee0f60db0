"""Why a released model is near chance: other settings of it, tried on a few images.

Files of weights do not always say what they were trained with: OpenAI's CLIP needs
quick_gelu, other models other constants for pixels or another resize, and a list of
class names may be in another order than the labels. Each of these leaves a model that
runs and knows nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy import optimize

from clipjax import registry
from clipjax.data.annotations import class_synonyms
from clipjax.encoder import Progress
from clipjax.engine import assemble, sharding
from clipjax.evals import retrieval, zeroshot
from clipjax.evals.common.altered_inputs import SharedTexts
from clipjax.evals.common.inputs import Inputs
from clipjax.evals.common.intervals import Hits, share
from clipjax.evals.common.ranking import spread
from clipjax.evaluation_request import Prepared
from clipjax.models import two_tower
from clipjax.models.common import layers
from clipjax.types import EvalResult, Metric, Rows
from clipjax.weights.tower_description import IMAGENET

IMAGES = 64
_NEAR = 0.05  # of the way from chance to 1
_PER_CLASS = 4  # images, so that an order of the classes can be fitted
_MOST_CLASSES = 2000  # of which one is fitted: the time grows with their cube
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_CONSTANTS = {
    "CLIP's": (layers.MEAN, layers.STD),
    "ImageNet's": IMAGENET,
    "0.5": _HALF,
    "no": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
_WORDS = {
    "activation": "activation",
    "constants": "constants for pixels",
    "preprocess": "resize",
    "order": "order of class names",
}
_FIXES = {
    "activation": "name it in the model's files: hidden_act in transformers' "
    "config.json, quick_gelu in open_clip's",
    "constants": "name them in the model's files: image_mean and image_std in "
    "preprocessor_config.json, mean and std in open_clip's",
    "preprocess": "name the resize in the model's files, or leave it out there and "
    "give --preprocess",
    "order": "put the class names into the order of the labels, by this evaluator's "
    "class_names_file",
}


class Trial(NamedTuple):
    """setting: in words. metric: with it. kind: of _FIXES."""

    setting: str
    metric: Metric
    kind: str


class _Variant(NamedTuple):
    setting: str
    kind: str
    model: two_tower.TwoTowerModel
    preprocess: Callable[[Any], np.ndarray]


def near_chance(metric: Metric) -> bool:
    """Whether a share is at most a twentieth of the way from chance to 1 above it."""
    if metric.chance is None or metric.unit != "fraction":
        return False
    return metric.value <= metric.chance + _NEAR * (1 - metric.chance)


def suspect(ready: Prepared, found: Mapping[str, EvalResult]) -> str:
    """The label of the first zero-shot or retrieval evaluator of a released model whose
    result is near chance; "" if there is none, or its images were not encoded now.
    """
    wanted = ready.wanted
    if wanted.workdir or wanted.stored or wanted.request.base:
        return ""
    if not isinstance(ready.model, two_tower.TwoTowerModel):
        return ""
    for label, evaluator in ready.evaluators.items():
        if not isinstance(evaluator, zeroshot.ZeroShot | retrieval.Retrieval):
            continue
        if label not in found:  # it has failed
            continue
        result = found[label]
        enough = len(evaluator.indices) >= IMAGES // 2
        if enough and near_chance(result.metrics[result.primary]):
            return label
    return ""


def try_others(
    ready: Prepared, label: str, result: EvalResult, progress: Progress | None
) -> tuple[Metric, list[Trial]]:
    """The primary metric of a few images as the model is set, and with other settings,
    none if it is not near chance there, as in a gallery that is very large.

    label, result: of an evaluator that `suspect` names. An order of class names is
    tried on all its images, which are not encoded again for it.
    """
    evaluator: Any = ready.evaluators[label]
    chosen = spread(len(evaluator.indices), IMAGES)
    few = dataclasses.replace(
        evaluator, indices=[evaluator.indices[place] for place in chosen]
    )
    if isinstance(few, zeroshot.ZeroShot):  # a template tells as much, in less time
        few = dataclasses.replace(
            few, prompts={name: texts[:1] for name, texts in few.prompts.items()}
        )
    else:  # what the gallery of another source or protocol would need is left out
        few = dataclasses.replace(few, protocols=("standard",), same=())
    assert isinstance(ready.model, two_tower.TwoTowerModel)  # `suspect` says so
    own = _Variant("", "", ready.model, ready.parts.preprocess)
    variants = [own, *_variants(own, ready.parts.config.data.image_size)]
    variables = jax.device_put(ready.variables, sharding.replicated(ready.mesh))
    tried: list[Trial] = []
    plain: Inputs | None = None
    for number, variant in enumerate(variants):
        if progress is not None:
            progress(number, len(variants))
        same_texts = variant.model.module.text == own.model.module.text
        inputs = _inputs(
            ready, variant, evaluator.inputs, plain if same_texts else None
        )
        plain = plain or inputs
        one = dataclasses.replace(few, inputs=inputs).run(variables)
        tried.append(Trial(variant.setting, one.metrics[one.primary], variant.kind))
        if number == 0 and not near_chance(tried[0].metric):
            return tried[0].metric, []
    if isinstance(evaluator, zeroshot.ZeroShot):
        classes = next(iter(evaluator.classes.values()))
        tried += _orders(result.rows, [class_synonyms.join(own) for own in classes])
    return tried[0].metric, tried[1:]


def told(label: str, base: Metric, trials: Sequence[Trial]) -> list[str]:
    """What to say: the best setting whose interval lies above that of the model's own
    setting and above chance, and how to choose it; or that there is none; nothing if
    none was tried.
    """
    if not trials:
        return []
    least = _high(base)
    better = [x for x in trials if _low(x.metric) > max(least, x.metric.chance or 0.0)]
    what = f"{label} is near chance, {_percent(base)} on a few images"
    if not better:
        kinds = ", ".join(dict.fromkeys(_WORDS[trial.kind] for trial in trials))
        return [f"{what}: none of {len(trials)} other settings ({kinds}) explains it"]
    best = max(better, key=lambda trial: trial.metric.value)
    return [
        f"{what}: with {best.setting} it is {_percent(best.metric)}",
        f"  {_FIXES[best.kind]}",
    ]


def as_meta(label: str, base: Metric, trials: Sequence[Trial]) -> dict[str, Any]:
    """The same as JSON values, for the facts of an evaluation."""
    return {
        "evaluator": label,
        "as it is": dataclasses.asdict(base),
        "trials": {x.setting: dataclasses.asdict(x.metric) for x in trials},
    }


def _percent(metric: Metric) -> str:
    value = f"{100 * metric.value:.1f} %"
    if metric.low is None or metric.high is None:
        return value
    return f"{value} [{100 * metric.low:.1f}, {100 * metric.high:.1f}]"


def _low(metric: Metric) -> float:
    return metric.value if metric.low is None else metric.low


def _high(metric: Metric) -> float:
    return metric.value if metric.high is None else metric.high


def _inputs(
    ready: Prepared, variant: _Variant, given: Inputs, plain: Inputs | None
) -> Inputs:
    parts = ready.parts
    encoder = assemble.encoder(
        parts.config,
        variant.model,
        parts.tokenizer,
        ready.mesh,
        prepare=variant.preprocess,
    )
    if plain is None:
        return Inputs(encoder, given.source)
    return SharedTexts(encoder, plain)


def _variants(own: _Variant, image_size: int) -> Iterator[_Variant]:
    """Each with one setting other than the model's."""
    module = own.model.module
    towers = {"image": module.image, "text": module.text}
    able = [side for side in towers if hasattr(towers[side], "activation")]
    for sides in [able] if len(able) < 2 else [able, *([side] for side in able)]:
        new = {side: _other_activation(towers[side]) for side in sides}
        if new:
            words = " and ".join(
                f"{tower.activation} in the {side} tower" for side, tower in new.items()
            )
            yield own._replace(
                setting=words, kind="activation", model=_with(own.model, **new)
            )
    for name, (mean, std) in _CONSTANTS.items():
        if (mean, std) != (tuple(module.mean), tuple(module.std)):
            yield own._replace(
                setting=f"{name} mean and std of pixels",
                kind="constants",
                model=_with(own.model, mean=mean, std=std),
            )
    for name in ("clip", "squash"):
        made = registry.load("preprocess", name)(image_size)
        if type(made) is not type(own.preprocess):
            words = f"preprocess={name}"
            yield own._replace(setting=words, kind="preprocess", preprocess=made)


def _other_activation(tower: Any) -> Any:
    """The same tower with OpenAI's activation, or without it."""
    return tower.clone(
        activation="gelu" if tower.activation == "quick_gelu" else "quick_gelu"
    )


def _with(model: two_tower.TwoTowerModel, **fields: Any) -> two_tower.TwoTowerModel:
    return dataclasses.replace(model, module=model.module.clone(**fields))


def _orders(rows: Rows, names: Sequence[str]) -> list[Trial]:
    """The accuracy if the names of the classes were in other orders. Chance is the
    share of the most frequent class: a model that always says it needs no order.

    rows: of `result_rows.by_class`; the first label set's are taken. names: of its
      classes.
    """
    sets = np.array(rows["label_set"])
    taken = sets == sets[0]
    label, prediction = (
        np.asarray(rows[name])[taken] for name in ("label", "prediction")
    )
    count = len(names)

    def trial(setting: str, right: np.ndarray, some: np.ndarray) -> Trial:
        hits = (prediction[some] == right[some]) & (prediction[some] >= 0)
        most = np.bincount(label[some], minlength=count).max() / len(hits)
        return Trial(setting, share(Hits(hits.astype(float), None, most)), "order")

    every = np.ones(len(label), bool)
    by_name = np.array(sorted(range(count), key=names.__getitem__))
    rank_of = np.argsort(by_name)
    tried = [
        trial("labels that count from 1", label - 1, every),
        trial("labels that lag by 1", label + 1, every),
        trial("the class names in alphabetical order", by_name[label], every),
        trial(
            "labels in the alphabetical order of the class names",
            rank_of[label],
            every,
        ),
    ]
    if len(label) >= 2 * _PER_CLASS * count and count <= _MOST_CLASSES:
        fit = np.arange(len(label)) % 2 == 0
        seen = fit & (prediction >= 0)
        counts = np.zeros((count, count))
        np.add.at(counts, (label[seen], prediction[seen]), 1)
        order = optimize.linear_sum_assignment(counts, maximize=True)[1]
        words = "another order of the class names, which half of the images show"
        tried.append(trial(words, order[label], ~fit))
    return tried
