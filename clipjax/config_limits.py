"""Limits and choices of a config's values, checked at the start."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from clipjax import registry
from clipjax.types import UserError

INT = 2**31 - 1  # the device counts in 32 bits
FLOAT = 3.4e38  # and computes in float32
MOST = 2**16  # a layer's size; larger ones are typing errors

# (pattern, least, most): the first match with a number's or tuple's dotted path counts.
# Options of a user's own component match only the last.
LIMITS: tuple[tuple[str, float, float], ...] = (
    (r"seed", 0, 2**32 - 1),
    (r".*\.seed", 0, 2**63 - 1),
    (r".*\.subset_seed", -1, 2**63 - 1),
    (r"data\.image_size", 1, 2**14),
    (r".*\.resolution", 8, 2**14),
    (r"data\.batch_size", 1, 2**24),
    (r"data\.(workers|threads)", 0, 1024),
    (r"data\.timeout", 0, threading.TIMEOUT_MAX),
    (r"data\.(mixup|cutmix)", 0, 1),
    (r"data\.text_buckets", 1, MOST),
    (r"train\.(max_bad_steps|micro_batches)", 1, INT),
    (r"train\.max_logit_scale", 0, math.inf),
    (r"train\.(eval_every|val_batches|steps)", 0, INT),
    (r"train\.epochs", 0, 1e9),
    (r"early_stop\.patience", 0, INT),
    (r"early_stop\.min_delta", 0, math.inf),
    (r"checkpoint\.keep(_best)?", 1, INT),
    (r"checkpoint\.(every|keep_every)", 0, INT),
    (r"log\.every", 1, INT),
    (r"mesh\.data", -1, INT),
    (r"mesh\.fsdp", 1, INT),
    (r"mesh\.timeout", 0, threading.TIMEOUT_MAX),
    (r"lora\.rank", 0, MOST),
    (r"optim\.(clip_norm|lr|weight_decay)", 0, math.inf),
    (r"optim\.schedule\.(warmup|warmup_start|floor|cooldown)", 0, math.inf),
    # Blocks are traced one by one; more of them take minutes.
    (r"model\.(image|text)\.(depth|depths)", 1, 256),
    (r"model\.(image|text)\.(heads|pool_heads)", 1, 1000),
    (r"model\.(image|text)\.(width|mlp_dim|pool_width|output_dim)", 1, MOST),
    (r"model\.(image|text)\.(max_positions|token_types)", 1, MOST),
    (r"model\.image\.layer_scale", 0, math.inf),
    (r"model\.(.*\.)?(\w*dropout|drop_path)", 0, 1),
    (r"model\.(embed_dim|expander|latent_dim|memory_size|heads|top_k)", 1, MOST),
    (r"model\.num_classes", 1, INT),
    (r"model\.feedback_steps", 0, 64),
    (r"model\.logit_scale_init", 1e-6, 1e6),
    (r"model\.std", 1e-6, math.inf),
    (r"data\.tokenizer\.context_length", 1, MOST),
    (r"data\.tokenizer\.vocab_size", 1, 2**20),  # some allocate memory for all ids
    (r"data\.tokenizer\.min_count", 1, INT),
    (r"data\.(text_)?augment\.(\w+\.)?p", 0, 1),
    (r".*\.max_(samples|classes|samples_per_class)", 0, INT),
    (r".*\.val_fraction", 0, 1),
    (r".*\.(block|size|eval_size)", 0, INT),
    (r"evals\.\w+\.ks", 1, INT),
    (r".*", -INT - 1, math.inf),
)

ONE_OF = {
    "data.unit": ("image", "pair"),
    "data.on_broken": ("replace", "raise"),
    "checkpoint.best_mode": ("", "max", "min"),
}


def check(values: Mapping[str, Any]) -> None:
    """Checks a config's values by their dotted paths, from `config_check.flat`.

    Raises UserError with one line naming the first key outside its limits.
    """
    # data.eval comes last: its values copied from data.train are reported there.
    for path in sorted(values, key=lambda path: path.startswith("data.eval.")):
        value = values[path]
        for number in _numbers(value):
            if isinstance(number, float) and not math.isfinite(number):
                raise UserError(f"{path}={number}: must be a finite number")
            _check_number(path, number)
    for path, allowed in ONE_OF.items():
        if values[path] not in allowed:
            hint = registry.suggest(str(values[path]), allowed)
            raise UserError(
                f"{path}={values[path]!r}: must be one of {', '.join(allowed)}.{hint}"
            )


def _numbers(value: Any) -> Iterator[int | float]:
    if isinstance(value, list | tuple):
        for entry in value:
            yield from _numbers(entry)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def _check_number(path: str, value: int | float) -> None:
    low, high = next(
        (low, high) for keys, low, high in LIMITS if re.fullmatch(keys, path)
    )
    if high == math.inf:
        high = INT if isinstance(value, int) else FLOAT
    shown = f"{path}={registry.short_repr(value)}"
    if value < low:
        raise UserError(f"{shown}: must be at least {low:g}")
    if value > high:
        raise UserError(f"{shown}: must be at most {_number(high)}")


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"
