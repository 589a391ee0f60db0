"""Evaluations of made-up models by the real evaluators, written to folders."""

import dataclasses

import numpy as np
from evals_tools import Data, captioned, table_encoder, variables

from clipjax import results
from clipjax.evals import retrieval, zeroshot
from clipjax.evals.common.inputs import Inputs
from clipjax.types import EvalResult, Metric

IMAGES, CLASSES = 24, 4
# Images have one to four captions, so their weights differ.
COUNTS = np.arange(IMAGES) % 4 + 1
OWNER = np.repeat(np.arange(IMAGES), COUNTS)
# Some images share a caption, as 7 and 23 do.
CAPTIONS = [f"caption {i % 43}" for i in range(len(OWNER))]
NAMES = [f"class {i}" for i in range(CLASSES)]
TONES = ["dark", "light", "pale"]
KINDS = {"kind": NAMES, "tone": TONES}


def embeddings(seed):
    """The variables of a model with ties; captions resemble their images."""
    draw = np.random.default_rng(seed)
    images = draw.integers(-1, 2, (IMAGES, 4))
    texts = images[OWNER] + draw.integers(-1, 2, (len(OWNER), 4))
    prompts = draw.integers(-1, 2, (CLASSES + len(TONES), 4))
    return variables(images, np.concatenate([texts, prompts]))


def evaluators(taken=range(IMAGES), broken=-1, **options):
    labels = (
        {"kind": i * i % CLASSES, **({"tone": i % 3} if i % 2 else {})} for i in taken
    )
    examples = [
        dataclasses.replace(one, labels=own)
        for one, own in zip(
            captioned(taken, OWNER, CAPTIONS, [broken]), labels, strict=True
        )
    ]
    inputs = Inputs(table_encoder([*CAPTIONS, *NAMES, *TONES]), Data(examples, KINDS))
    return {
        "find": retrieval.make(
            inputs, protocols=("standard", "pair_diagonal"), ks=(1, 5), **options
        ),
        "name": zeroshot.make(inputs, templates=("{}",), ks=(1, 2)),
    }


def evaluate(made, seed):
    """By label, an evaluation of the model of this seed."""
    return {label: one.run(embeddings(seed)) for label, one in made.items()}


def write(folder, found, **meta):
    evals = {"find": {"name": "retrieval"}, "name": {"name": "zeroshot"}}
    place, new = results.save(folder, {"": (found, {"step": 2, "evals": evals} | meta)})
    assert new
    return place


def own(values, name="loss", metric=None, keys=None, protocol="", unit=""):
    """An evaluation by an evaluator of the user's own, with a value for each image."""
    values = np.asarray(values, float)
    keys = [f"image {i}" for i in range(len(values))] if keys is None else keys
    metric = metric or Metric(float(values.mean()), unit=unit, higher_is_better=False)
    rows = {"key": keys, name: values}
    return {"own": EvalResult({name: metric}, name, "", rows=rows, protocol=protocol)}
