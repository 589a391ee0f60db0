"""A run's parts, created and checked before anything is compiled."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from clipjax import paths
from clipjax.config_check import validate
from clipjax.config_limits import INT
from clipjax.data.batching import buckets, pipeline
from clipjax.data.class_lists import Classes
from clipjax.data.images.augment import Augment
from clipjax.data.text.text_augment import TextAugment
from clipjax.engine import (
    assemble,
    classes,
    datasets,
    early_stop,
    initial,
    memory_check,
    resume,
    sharding,
)
from clipjax.engine import state as states
from clipjax.engine.evaluator_set import Evaluators
from clipjax.engine.mixing import Mixing
from clipjax.engine.step import check_start, make_train_step
from clipjax.models.common import lora, meaning
from clipjax.models.common.frozen import freeze
from clipjax.optim import factory
from clipjax.types import (
    Config,
    Loss,
    LossSpec,
    Model,
    Source,
    Tokenizer,
    UserError,
)
from clipjax.weights import read_model


@dataclasses.dataclass
class Run:
    """The parts of a run, created before anything is compiled."""

    config: Config
    workdir: pathlib.Path
    mesh: jax.sharding.Mesh
    source: Source
    tokenizer: Tokenizer | None
    augment: Augment
    text_augment: TextAugment | None
    mixing: Mixing | None
    classes: Classes
    model: Model
    loss: Loss
    optim: factory.Optim
    template: states.TrainState
    eval_source: Source | None
    evaluators: Evaluators
    data: dict[str, dict[str, Any]]
    text_buckets: buckets.Buckets | None
    epoch_size: int
    steps_per_epoch: int
    total_steps: int
    shared_names: str = ""  # the prefix of its workers' shared memory


def prepare(
    config: Config,
    workdir: pathlib.Path,
    anew: bool,
    mesh: jax.sharding.Mesh | None = None,
) -> Run:
    """Creates every part of a run, evaluation included.

    anew: True if the run starts, with a new tokenizer or with that of the run in
    `init_from`. False if it resumes, with the tokenizer in workdir.
    mesh: None for that of the config's section.

    Raises UserError if the config, the data or the memory do not fit the run.
    """
    validate(config)
    if mesh is None:
        mesh = sharding.make_mesh(config.mesh)
    batch, devices = config.data.batch_size, mesh.size
    if batch % devices:
        raise UserError(
            f"data.batch_size={batch} is not divisible by the {devices} devices; "
            f"use e.g. {max(batch // devices, 1) * devices}"
        )
    parts = config.train.micro_batches
    if batch % (devices * parts):
        raise UserError(
            f"data.batch_size={batch} is not divisible by {parts} micro-batches on "
            f"each of {devices} devices: change train.micro_batches"
        )
    source = assemble.source(config.data.train, "--config.data.train.")
    epoch_size = pipeline.epoch_size(source, config.data.unit)
    steps_per_epoch = pipeline.steps_per_epoch(source, config.data.unit, batch)
    total = total_steps(config, epoch_size)
    if total > INT:
        raise UserError(
            f"train.epochs={config.train.epochs:g}: {total:,} steps, and {INT:,} "
            "are the most"
        )
    for name in initial.starts(config).values() if anew else ():
        if not read_model.is_foreign(name):
            resume.load_config(paths.local(name, "a model"))
    text_augment = assemble.text_augment(config, source)
    if not anew:
        tokenizer = assemble.saved_tokenizer(config, workdir)
    elif text_run := initial.run_of_texts(config):
        tokenizer = assemble.saved_tokenizer(config, text_run)
    else:
        tokenizer = assemble.new_tokenizer(config, source, text_augment)
    learnt = classes.of_data(config, source)
    if not anew:
        classes.check_kept(config, learnt, workdir)
    model = assemble.model(config, tokenizer)
    fresh = jax.eval_shape(lambda: model.init(jax.random.key(0)))
    image = jax.ShapeDtypeStruct((1, *2 * (config.data.image_size,), 3), jnp.uint8)
    encoded = jax.eval_shape(model.encode_image, fresh, image)
    spec = LossSpec(
        num_images=len(source),
        num_texts=len(source) * max(source.max_captions, 1),
        embed_dim=encoded[model.image_output].shape[1],
        global_batch=batch,
        steps_per_epoch=steps_per_epoch,
        total_steps=total,
        mesh=mesh,
    )
    loss = assemble.loss(config, spec, model.image_output)
    if parts > 1 and "batch_stats" in fresh and not config.train.norm_in_parts:
        raise UserError(
            f"train.micro_batches={parts}: batch normalisation would see one part at a "
            "time, which changes the model; allow it by --config.train.norm_in_parts, "
            "or choose towers with layer normalisation"
        )
    parameters = fresh["params"]
    groups = config.optim.groups + (lora.FROZEN if config.lora.rank else ())
    optim = factory.make(
        config.optim, total, steps_per_epoch, parameters, groups=groups
    )
    start = config.model.get("logit_scale_init")
    if anew and not config.init_from and start and "logit_scale" in parameters:
        check_start(
            f"model.logit_scale_init={start}",
            {"logit_scale": math.log(start)},
            optim.frozen,
            config.train.max_logit_scale,
        )
    if optim.averaged is not None and config.train.ema > 0:
        raise UserError(
            f"train.ema={config.train.ema:g}: optim={config.optim.name} has an average "
            "of its own, which is evaluated: set --config.train.ema=0"
        )
    averages = states.has_averages(config)
    template = states.shapes(model, loss, optim, averages, config.seed, mesh)
    memory_check.check(config, template, mesh)
    eval_source = datasets.eval_source(config, config.train.val_batches > 0)
    if eval_source is not None and config.train.val_batches > 0:
        classes.check_validation(config, learnt, eval_source)
        least, count = max(mesh.size, 2), pipeline.epoch_size(eval_source, "image")
        if count < least:
            raise UserError(
                f"data.eval holds {count} images, too few for a validation loss on "
                f"{mesh.size} devices: give {least} or more, or train.val_batches=0"
            )
    own = datasets.own_sources(config, eval_source)
    encoder = assemble.encoder(config, model, tokenizer, mesh, learnt)
    evaluators = assemble.evaluators(config, encoder, eval_source, own)
    evaluators.check_metric(config.checkpoint.best, "checkpoint.best")
    evaluators.check_metric(config.early_stop.metric, "early_stop.metric")
    early_stop.check(config, total)
    return Run(
        config=config,
        workdir=workdir,
        mesh=mesh,
        source=source,
        tokenizer=tokenizer,
        augment=assemble.augment(config),
        text_augment=text_augment,
        mixing=assemble.mixing(config),
        classes=learnt,
        model=freeze(model, optim.frozen),
        loss=loss,
        optim=optim,
        template=template,
        eval_source=eval_source,
        evaluators=evaluators,
        data=datasets.fingerprints(config, source, eval_source, own),
        text_buckets=_buckets(config, model, source, tokenizer),
        epoch_size=epoch_size,
        steps_per_epoch=steps_per_epoch,
        total_steps=total,
    )


def total_steps(config: Config, epoch_size: int) -> int:
    """The steps of a run on epochs of so many images or pairs."""
    # Rounded up, so that an epoch visits every example; 1e-9 is for rounding errors.
    batch = config.data.batch_size
    return config.train.steps or math.ceil(
        config.train.epochs * epoch_size / batch - 1e-9
    )


def _buckets(
    config: Config, model: Model, source: Source, tokenizer: Tokenizer | None
) -> buckets.Buckets | None:
    """The lengths of data.text_buckets, from the token counts of all captions.

    Raises UserError if the model's embeddings depend on the padding.
    """
    if not config.data.text_buckets:
        return None
    if tokenizer is None:
        raise UserError("data.text_buckets: this run's model has no text tower")
    if "text_augment" in config.data:
        raise UserError(
            "data.text_buckets: lengths are counted before training, and text_augment "
            "changes the captions: leave one of the two out"
        )
    if not meaning.ignores_padding(model):
        tower = getattr(meaning.module_of(model), "text", None)
        raise UserError(
            "data.text_buckets: this text tower's outputs depend on the padding "
            f"(model.text.pool={getattr(tower, 'pool', '')}); leave it empty"
        )
    return buckets.make(config.data.text_buckets, source, tokenizer)


def size(run: Run) -> str:
    """A run's parameters, examples and steps as text."""
    parameters = jax.tree.leaves(run.template.params)
    count = sum(math.prod(leaf.shape) for leaf in parameters)
    return (
        f"{count:,} parameters, {len(run.source):,} training examples, "
        f"{run.total_steps:,} steps of {run.config.data.batch_size}"
    )


def jit_step(run: Run):
    """The training step, jitted with a donated state and explicit shardings."""
    config = run.config
    step = make_train_step(
        run.model,
        run.loss,
        run.optim,
        ema=config.train.ema,
        max_logit_scale=config.train.max_logit_scale,
        micro_batches=config.train.micro_batches,
        mixing=run.mixing,
    )
    placement = jax.tree.map(lambda leaf: leaf.sharding, run.template)
    return jax.jit(
        step,
        donate_argnums=0,
        out_shardings=(placement, sharding.replicated(run.mesh)),
    )


def batches(run: Run, start_step: int) -> pipeline.TrainBatches:
    """This process's blocks of the training batches, from start_step on."""
    data = run.config.data
    return pipeline.train_batches(
        run.source,
        run.tokenizer,
        run.augment,
        seed=run.config.seed,
        global_batch=data.batch_size,
        start_step=start_step,
        unit=data.unit,
        label_set=data.label_set,
        text_buckets=run.text_buckets,
        workers=data.workers,
        threads=data.threads,
        timeout=data.timeout,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        on_broken=data.on_broken,
        text_augment=run.text_augment,
        shared_names=run.shared_names,
    )
