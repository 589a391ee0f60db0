"""The parts of a config: the only module that calls the components' factories."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from clipjax import atomic_files, param_paths, registry
from clipjax.config import create
from clipjax.config_parts import is_summary, labels, losses
from clipjax.data.batching import pipeline
from clipjax.data.class_lists import NONE, Classes
from clipjax.data.images.augment import Augment, Chain
from clipjax.data.storage import local
from clipjax.data.text import text_augment as text_augments
from clipjax.data.text.text_augment import TextAugment
from clipjax.encoder import Encoder
from clipjax.engine.checkpoint.saves import Checkpoints
from clipjax.engine.evaluator_set import Evaluators, units
from clipjax.engine.mixing import Mixing
from clipjax.engine.state import variables
from clipjax.evals.common.inputs import Inputs
from clipjax.evals.common.stored_rows import StoredRows
from clipjax.losses.common.combined import CombinedLoss
from clipjax.models.common import lora
from clipjax.types import (
    Announced,
    Config,
    Loss,
    LossSpec,
    Model,
    Source,
    Tokenizer,
    UserError,
    Variables,
)
from clipjax.weights import value_checks


def source(section: Mapping[str, Any], flag: str) -> Source:
    """The source of a `data.train`, `data.eval` or `evals.LABEL.data` section.

    flag: the beginning of its options' flags on this command line, for messages.

    Raises UserError if data are missing or empty.
    """
    with local.set_by_flags(flag):
        result = create("data", section, section["split"])
    if len(result) == 0:
        raise UserError(
            f"data={section['name']}, split={section['split']!r}: the source is empty"
        )
    return result


def new_tokenizer(
    config: Config, train_source: Source, varied: TextAugment | None = None
) -> Tokenizer | None:
    """A new tokenizer, trained if its kind is; None for a model without text.

    varied: the augmentation of captions, whose words the tokenizer is trained on too.
    """
    if "tokenizer" not in config.data:
        return None

    def captions() -> Iterator[str]:
        yield from pipeline.captions(train_source)
        if varied is not None:
            yield from varied.texts()

    return create("tokenizer", config.data.tokenizer, captions, None)


def saved_tokenizer(config: Config, workdir: pathlib.Path) -> Tokenizer | None:
    """The tokenizer saved with a run; None for a model without text.

    Raises UserError if it is missing, damaged or of another kind than the config's.
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
    config: Config, tokenizer: Tokenizer | None, workdir: pathlib.Path
) -> None:
    """Saves a tokenizer's state with the run; None: saves nothing."""
    if tokenizer is not None:
        name = config.data.tokenizer.name
        saved = {"name": name, "state": tokenizer.state()}
        atomic_files.write_json(workdir / "tokenizer.json", saved)


def model(config: Config, tokenizer: Tokenizer | None) -> Model:
    """A config's model; tokenizer: None for a model without text."""
    towers = []
    if "image" in config.model:
        towers.append(create("image", config.model.image, config.data.image_size))
    if tokenizer is not None:
        sizes = tokenizer.vocab_size, tokenizer.context_length
        towers.append(create("text", config.model.text, *sizes))
    return lora.add(create("model", config.model, *towers), **config.lora)


def loss(config: Config, spec: LossSpec, image_output: str) -> Loss:
    """A config's loss, or the sum of its losses.

    image_output: the model's; raises UserError if the loss needs another.
    """
    section = config.loss
    for _, part, _ in losses(config):
        _check_output("loss", part.name, image_output)
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
    model: Model,
    tokenizer: Tokenizer | None,
    mesh: jax.sharding.Mesh | None,
    learnt: Classes = NONE,
    *,
    batch_size: int = 64,
    threads: int = 0,
    prepare: Callable[[Any], np.ndarray] | None = None,
) -> Encoder:
    """The encoder of a run's evaluators.

    learnt: a classifier's classes. batch_size: per device. threads: 0: the run's.
    prepare: in place of the run's preprocessing.
    """
    return Encoder(
        model,
        tokenizer,
        prepare or preprocess(config),
        batch_size=batch_size * (mesh.size if mesh else 1),
        mesh=mesh,
        threads=threads or max(2, config.data.threads, config.data.workers),
        timeout=config.data.timeout,
        classes=learnt,
    )


def preprocess(config: Config) -> Callable[[Any], np.ndarray]:
    """The preprocessing for evaluation: any decodable image -> uint8 [s s 3]."""
    return create("preprocess", config.data.preprocess, config.data.image_size)


def augment(config: Config) -> Augment:
    """The augmentation for training: (any decodable image, generator) -> uint8.

    It turns images upright by EXIF if the preprocessing for evaluation does.
    """
    parts = _chain("augment", config.data.augment, config.data.image_size)
    evaluation = preprocess(config)
    parts = [
        part.as_evaluated(evaluation) if hasattr(part, "as_evaluated") else part
        for part in parts
    ]
    return parts[0] if len(parts) == 1 else Chain(tuple(parts))


def text_augment(config: Config, train_source: Source) -> TextAugment | None:
    """The augmentation of a run's captions; None without one."""
    if "text_augment" not in config.data:
        return None
    parts = _chain("text_augment", config.data.text_augment, train_source)
    return text_augments.Chain(tuple(parts))


def mixing(config: Config) -> Mixing | None:
    """The mixing of a run's examples; None if the config has none.

    Raises UserError if the config has one and the model has no classes.
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
    """The components of a section that names one, or several with their order."""
    if "name" in section:
        return [create(family, section, *args)]
    order = labels(section, f"data.{family}")
    return [create(family, section[label], *args, label=label) for label in order]


def evaluators(
    config: Config,
    encoder: Encoder,
    shared: Source | None,
    own: Mapping[str, Source],
    stored: StoredRows | None = None,
) -> Evaluators:
    """A config's evaluators, each over its source in `own` or over `shared`.

    stored: embeddings of `shared`, which are not made again.

    Raises UserError if an evaluator needs another kind of model.
    """
    evaluators, inputs = {}, {}
    order = labels(config.evals, "evals")
    summaries = [label for label in order if is_summary(config.evals[label])]
    for label in order:
        if label in summaries:
            continue
        section = config.evals[label]
        _check_output("evals", section.name, encoder.image_output)
        source = own.get(label, shared)
        assert source is not None  # `shared` is set if an evaluator needs it
        same_source = (x for x in inputs.values() if x.source is source)
        inputs[label] = next(same_source, None) or Inputs(
            encoder,
            source,
            stored if source is shared else None,
            functools.partial(_other_split, config, label),
        )
        evaluators[label] = create("evals", section, inputs[label])
    data = {id(one): number for number, one in enumerate(inputs.values())}
    others = {
        label: Announced(units(one), data[id(inputs[label])])
        for label, one in evaluators.items()
    }
    ready = {x: create("evals", config.evals[x], others) for x in summaries}
    return Evaluators(evaluators, inputs, ready, order)


def _other_split(config: Config, label: str, split: str) -> Source:
    """Another split of an evaluator's source.

    Raises UserError if it is the evaluated split, or there is none.
    """
    own = "data" in config.evals[label]
    section = config.evals[label].data if own else config.data.eval
    if split == section.split:
        raise UserError(
            f"the evaluation data are the split {split!r} themselves: evaluate another "
            "split, such as by --data.split=test"
        )
    other = {**section.to_dict(), "split": split}
    return source(other, f"--config.evals.{label}.data." if own else "--data.")


def _check_output(family: str, name: str, image_output: str) -> None:
    """Raises UserError if a loss or evaluator needs another kind of model."""
    needed = registry.module_of(registry.load(family, name), "OUTPUT") or "image_embed"
    if image_output not in ((needed,) if isinstance(needed, str) else needed):
        logits = image_output == "logits"
        kind = "a classifier, which has no" if logits else "no classifier: it has"
        fix = "cross_entropy" if family == "loss" else "classification"
        raise UserError(
            f"{family}={name}: this model is {kind} embeddings; choose "
            + (f"{family}={fix}" if logits else "model=classifier")
        )


def find_step(workdir: pathlib.Path, which: str) -> int | None:
    """The step of a run that `load_state` would read, if it is whole; None if the run
    has none.
    """
    if which.isdecimal():
        return int(which)
    with Checkpoints(workdir, read_only=True) as saves:
        found = saves.step_of(which)
        if found is None and which in ("best", "latest"):
            return max(saves.steps(), default=None)
        return found


def load_state(workdir: pathlib.Path, which: str) -> tuple[dict[str, Any], int]:
    """A run's saved state as nested dicts of host arrays, and its step.

    which: "best" (the latest if no best is known), "latest", a step's number, or its
      name in checkpoints/best.

    Raises UserError if there is no such step, or it holds non-finite numbers.
    """
    with Checkpoints(workdir, read_only=True) as saves:
        if which == "best" and saves.best_step() is None:
            which = "latest"
        state, _, step = saves.restore(int(which) if which.isdecimal() else which)
    parts = {key: state.get(key) for key in ("params", "model_state", "ema")}
    value_checks.check_finite(
        param_paths.flatten(parts).items(), f"{workdir}, step {step}"
    )
    return state, step


def load_variables(
    workdir: pathlib.Path, which: str, ema: bool
) -> tuple[Variables, int]:
    """The variables for `model.apply` from a saved state; see `load_state`."""
    state, step = load_state(workdir, which)
    chosen = state["ema"] if ema and state.get("ema") else state
    return variables(chosen["params"], chosen.get("model_state") or {}), step


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """The JSON object in a run's file; raises UserError if it is damaged."""
    try:
        value = atomic_files.parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(atomic_files.describe_os_error(error)) from error
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): restore it") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged (no JSON object): restore it")
    return value


@dataclasses.dataclass(frozen=True)
class EvalPreprocess:
    """The preprocessing for evaluation with an augmentation's signature."""

    preprocess: Callable[[Any], Any]

    def __call__(self, image: Any, rng: Any) -> Any:
        return self.preprocess(image)
