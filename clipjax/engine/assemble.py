"""From a config to its parts: the one place that calls the components' factories."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from clipjax import atomic_files, param_paths, registry
from clipjax.config import create
from clipjax.config_parts import labels, losses
from clipjax.data.batching import pipeline
from clipjax.data.class_lists import NONE, Classes
from clipjax.data.images.augment import Augment, Chain
from clipjax.data.text import text_augment as text_augments
from clipjax.data.text.text_augment import TextAugment
from clipjax.encoder import Encoder
from clipjax.engine.checkpoint.saves import Checkpoints
from clipjax.engine.mixing import Mixing
from clipjax.engine.state import variables
from clipjax.evals.common.inputs import Inputs
from clipjax.losses.common.combined import CombinedLoss
from clipjax.models.common import lora
from clipjax.types import (
    Config,
    EvalResult,
    Evaluator,
    Loss,
    LossSpec,
    Model,
    Source,
    Tokenizer,
    UserError,
    Variables,
)
from clipjax.weights import value_checks


def new_tokenizer(
    config: Config, train_source: Source, varied: TextAugment | None = None
) -> Tokenizer | None:
    """A tokenizer made, and if it is of that kind trained, anew.

    varied: what varies the captions, whose words it is trained on too. None for a model
    without text.
    """
    if "tokenizer" not in config.data:
        return None

    def captions() -> Iterator[str]:
        yield from pipeline.captions(train_source)
        if varied is not None:
            yield from varied.texts()

    return create("tokenizer", config.data.tokenizer, captions, None)


def saved_tokenizer(config: Config, workdir: pathlib.Path) -> Tokenizer | None:
    """The tokenizer kept with a run; None for a model without text.

    Raises UserError if it is absent, damaged or of another kind than the config's.
    """
    if "tokenizer" not in config.data:
        return None
    path = workdir / "tokenizer.json"
    if not path.exists():
        raise UserError(f"{path} is missing: without it the run's texts cannot be read")
    saved = read_json(path)
    name = config.data.tokenizer.name
    if saved.get("name") != name or "state" not in saved:
        raise UserError(
            f"{path} holds the tokenizer {saved.get('name')!r} and the config says "
            f"{name!r}: choose tokenizer={saved.get('name')}"
        )
    return create("tokenizer", config.data.tokenizer, None, saved["state"])


def save_tokenizer(
    config: Config, made: Tokenizer | None, workdir: pathlib.Path
) -> None:
    """Keeps the tokenizer's state with the run, if there is one."""
    if made is not None:
        name = config.data.tokenizer.name
        kept = {"name": name, "state": made.state()}
        atomic_files.write_json(workdir / "tokenizer.json", kept)


def model(config: Config, made: Tokenizer | None) -> Model:
    """The model of a config; made: the tokenizer, of a model with text."""
    towers = []
    if "image" in config.model:
        towers.append(create("image", config.model.image, config.data.image_size))
    if made is not None:
        sizes = made.vocab_size, made.context_length
        towers.append(create("text", config.model.text, *sizes))
    return lora.add(create("model", config.model, *towers), **config.lora)


def loss(config: Config, spec: LossSpec, given: str) -> Loss:
    """The loss of a config, a sum if there are several.

    given: the model's `image_output`; raises UserError if the loss needs another.
    """
    section = config.loss
    for _, part, _ in losses(config):
        _check_output("loss", part.name, given)
    if "name" in section:
        return create("loss", section, spec)
    parts = (
        (
            label,
            section[label].weight,
            create("loss", section[label], spec, label=label),
        )
        for label in section
    )
    return CombinedLoss(tuple(parts))


def encoder(
    config: Config,
    made: Model,
    words: Tokenizer | None,
    mesh: jax.sharding.Mesh | None,
    learnt: Classes = NONE,
) -> Encoder:
    """The encoder of a run's evaluators; learnt: by a classifier."""
    return Encoder(
        made,
        words,
        preprocess(config),
        batch_size=64 * (mesh.size if mesh else 1),
        mesh=mesh,
        threads=max(2, config.data.threads, config.data.workers),
        timeout=config.data.timeout,
        classes=learnt,
    )


def preprocess(config: Config) -> Callable[[Any], np.ndarray]:
    """Images as the run evaluates them: anything decodable -> uint8 [s s 3]."""
    return create("preprocess", config.data.preprocess, config.data.image_size)


def augment(config: Config) -> Augment:
    """Images as the run trains on them: (anything decodable, generator) -> uint8.

    They are upright by EXIF, or not, as those of its evaluation are.
    """
    parts = _chain("augment", config.data.augment, config.data.image_size)
    evaluation = preprocess(config)
    parts = [
        part.as_evaluated(evaluation) if hasattr(part, "as_evaluated") else part
        for part in parts
    ]
    return parts[0] if len(parts) == 1 else Chain(tuple(parts))


def text_augment(config: Config, train_source: Source) -> TextAugment | None:
    """What varies the captions of a run; None if nothing does."""
    if "text_augment" not in config.data:
        return None
    parts = _chain("text_augment", config.data.text_augment, train_source)
    return text_augments.Chain(tuple(parts))


def mixing(config: Config) -> Mixing | None:
    """How examples are mixed, None if they are not.

    Raises UserError if they are to be and the model has no classes.
    """
    data = config.data
    key = "mixup" if data.mixup else "cutmix"
    if not data[key]:
        return None
    if "num_classes" not in config.model:
        raise UserError(
            f"data.{key}={data[key]}: it mixes the classes of a classifier, and "
            f"model={config.model.name} has none; choose model=classifier, or set it "
            "to 0"
        )
    shares = data.mixup, data.mixup_alpha, data.cutmix, data.cutmix_alpha
    return Mixing(config.model.num_classes, *shares)


def _chain(family: str, section: Mapping[str, Any], *args: Any) -> list[Any]:
    """The components of a section that names one, or several and their order."""
    if "name" in section:
        return [create(family, section, *args)]
    order = labels(section, f"data.{family}")
    return [create(family, section[label], *args, label=label) for label in order]


class Evaluators(dict[str, Evaluator]):
    """Evaluators by label.

    inputs: of each; those of one source share theirs.
    """

    def __init__(self, made: Mapping[str, Evaluator], inputs: Mapping[str, Inputs]):
        super().__init__(made)
        self.inputs = inputs

    def run(
        self,
        variables: Variables,
        progress: Callable[[str], Callable[[int, int], None]] | None = None,
    ) -> dict[str, EvalResult]:
        """Runs them in turn; `progress(label)` gives each its callback."""
        try:
            return {
                label: evaluator.run(variables, progress(label) if progress else None)
                for label, evaluator in self.items()
            }
        finally:
            for inputs in self.inputs.values():
                inputs.forget()


def evaluators(
    config: Config, made: Encoder, shared: Source | None, own: Mapping[str, Source]
) -> Evaluators:
    """Each over its own source or `shared`, the run's.

    Raises UserError for one that needs another kind of model.
    """
    found, inputs = {}, {}
    for label in labels(config.evals, "evals"):
        section = config.evals[label]
        _check_output("evals", section.name, made.image_output)
        source = own.get(label, shared)
        assert source is not None  # the run has one for evaluators without their own
        same = (one for one in inputs.values() if one.source is source)
        inputs[label] = next(same, None) or Inputs(made, source)
        found[label] = create("evals", section, inputs[label])
    return Evaluators(found, inputs)


def _check_output(family: str, name: str, given: str) -> None:
    """Raises UserError if a loss or evaluator needs another kind of model."""
    module = registry.module_of(registry.load(family, name), "OUTPUT")
    if (module or "image_embed") != given:
        logits = given == "logits"
        kind = "a classifier, which has no" if logits else "no classifier: it has"
        fix = "cross_entropy" if family == "loss" else "classification"
        raise UserError(
            f"{family}={name}: this model is {kind} embeddings; choose "
            + (f"{family}={fix}" if logits else "model=classifier")
        )


def load_state(workdir: pathlib.Path, which: str) -> tuple[dict[str, Any], int]:
    """A saved state of a run as nested dicts of host arrays, and its step.

    which: "best" (the latest if none is best), "latest" or a step's number.
    Raises UserError if there is none such, or it holds numbers that are not finite.
    """
    with Checkpoints(workdir, read_only=True) as saves:
        if which == "best" and saves.best_step() is None:
            which = "latest"
        state, _, step = saves.restore(int(which) if which.isdecimal() else which)
    parts = {key: state.get(key) for key in ("params", "model_state", "ema")}
    value_checks.check_finite(
        param_paths.named(parts).items(), f"{workdir}, step {step}"
    )
    return state, step


def load_variables(
    workdir: pathlib.Path, which: str, ema: bool
) -> tuple[Variables, int]:
    """What `model.apply` takes, from a saved state; see `load_state`."""
    state, step = load_state(workdir, which)
    kept = state["ema"] if ema and state.get("ema") else state
    return variables(kept["params"], kept.get("model_state") or {}), step


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """The JSON object in a file of a run; raises UserError if it is damaged."""
    try:
        value = atomic_files.parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(atomic_files.told(error)) from error
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): restore it") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged (no JSON object): restore it")
    return value


@dataclasses.dataclass(frozen=True)
class EvalPreprocess:
    """An evaluation preprocess in place of an augmentation: draws nothing."""

    preprocess: Callable[[Any], Any]

    def __call__(self, image: Any, rng: Any) -> Any:
        return self.preprocess(image)
