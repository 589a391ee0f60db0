"""`--dry_run`: describes a config's run from its shapes and compiled program."""

from __future__ import annotations

import itertools
import json
import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from clu import parameter_overview

from clipjax.config import create
from clipjax.config_check import to_dict
from clipjax.data.batching import pipeline
from clipjax.engine import (
    architecture,
    assemble,
    datasets,
    initial,
    lost_text_report,
    resume,
    sharding,
    step_program,
    writers,
)
from clipjax.engine.compilation import enable_cache
from clipjax.engine.run import batches, jit_step, prepare
from clipjax.types import BadExample, Config, MissingData, UserError
from clipjax.weights import read_model, write_model


def describe(config: Config, workdir: pathlib.Path) -> None:
    """Prints config, parameters, batch, FLOPs and memory; trains and saves nothing.

    If workdir holds a run of another config, that is printed too. If the data are
    missing, it prints what does not depend on them, and which data are missing.
    """
    config = datasets.resolve(architecture.with_released_settings(config, workdir))
    writers.check(config)
    print(json.dumps(to_dict(config), indent=1))
    enable_cache(print)
    anew = True
    try:
        anew = resume.check(workdir, config, True, print)
    except UserError as error:
        print(f"training it would be refused: {error}")
    try:
        run = prepare(config, workdir, anew)
    except MissingData as error:
        _without_data(config, error)
        return
    for key in initial.starts(config) if anew else ():
        weights = initial.read(key, config, run.model, run.tokenizer, print)
        initial.check_arrays(weights, run.template)
        print(f"it would start from {weights.origin}")
    lost_text_report.tell(run, print)
    params = run.template.params
    _print_parameters(params)
    print(write_model.describe_limits(config, run.model, run.tokenizer))
    print(
        f"{len(run.source)} examples, {run.steps_per_epoch} steps per epoch, "
        f"{run.total_steps} steps in all"
    )
    source = batches(run, 0)
    if source.left_out:
        print(f"{source.left_out:,} examples without a caption are left out")
    try:
        batch = sharding.put_batch(run.mesh, next(source))
    finally:
        source.close()
    print("global batch:")
    for name, array in batch.items():
        print(f"  {name:<10} {array.dtype}{list(array.shape)}")
    plan = pipeline.plan(
        run.source,
        seed=config.seed,
        global_batch=config.data.batch_size,
        step=0,
        unit=config.data.unit,
    )
    print("first examples:")
    for item in itertools.islice(plan, 4):
        try:
            example = run.source[item.index]
        except BadExample as error:
            print(f"  {item.index}: broken: {error}")
            continue
        caption = example.captions[item.caption] if example.captions else ""
        print(f"  {example.key}: {caption}")
    compiled = jit_step(run).lower(run.template, batch).compile()
    program = step_program.describe(compiled, batch, run.mesh.size)
    if program.flops is not None:
        each, pair = program.flops / run.mesh.size, config.data.batch_size
        print(
            f"one step: {each / 1e9:.3g} GFLOP on each device, "
            f"{program.flops / pair / 1e9:.3g} per image-text pair"
        )
    if program.state is not None and program.temporaries is not None:
        print(
            f"memory on each device: {(program.state + program.batch) / 2**20:,.0f} "
            f"MiB of state and batch, {program.temporaries / 2**20:,.0f} MiB of "
            "temporaries"
        )
    print(f"device: {run.mesh.size} x {jax.devices()[0].device_kind}")
    print(f"dtype of parameters: {jnp.result_type(*jax.tree.leaves(params))}")


def _print_parameters(params: Any) -> None:
    print(parameter_overview.get_parameter_overview(params, include_stats=False))
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    print(f"{count:,} parameters")


def _without_data(config: Config, error: MissingData) -> None:
    """Prints the model, unless its tokenizer is trained on the data."""
    rest = "steps, batches and memory"
    tokenizer, known = None, True
    if "tokenizer" in config.data:
        try:
            tokenizer = create("tokenizer", config.data.tokenizer, None, None)
        except UserError as refusal:
            known, rest = False, f"parameters, {rest}"
            print(f"the model is not described: {refusal}")
    if known:
        model = assemble.model(config, tokenizer)
        shapes = jax.eval_shape(lambda: model.init(jax.random.key(0)))
        _print_parameters(shapes["params"])
        for key, name in initial.starts(config).items():
            if read_model.is_foreign(name):  # its tokenizer needs no run
                initial.read(key, config, model, tokenizer, print)
        print(write_model.describe_limits(config, model, tokenizer))
    print(f"device: {jax.device_count()} x {jax.devices()[0].device_kind}")
    print(f"the data are absent, so {rest} are not known. {error}")
