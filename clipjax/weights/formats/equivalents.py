"""Towers rewritten as towers that other formats have, with the same embeddings.

Fixed positions become a table. A mean over patches or tokens, and a mask over padding,
become what open_clip's transformers have, at twice the width:

- Every vector x of the stream is written twice, [x, x]. A layer normalisation of both
  halves gives twice that of one, and each product reads the first half.
- A class token and the padding begin with MARK in one place of the first half and -MARK
  in the second. Their halves stay unequal, so one more number per head lets every other
  token give them no attention.
- A mean of texts takes one more block: in it an appended token attends to all tokens
  alike, and collects their mean in the difference of the halves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from clipjax.models.image import vit
from clipjax.models.image.vit import VisionTransformer
from clipjax.models.text.transformer import TextTransformer
from clipjax.models.two_tower import TwoTowerModel
from clipjax.types import UserError, Variables
from clipjax.weights.beside.tokenizer_files import Ends

# Of a hidden token, times the root of the width: what blocks add to it stays small.
MARK = 4.0
# Taken off the attention's logits for a hidden token whose halves differ in one place.
HIDE = 2000.0

Params = dict[str, Any]


def learned_positions(
    model: TwoTowerModel, variables: Variables | None
) -> tuple[TwoTowerModel, Variables]:
    """The model with fixed positions as a table of parameters; others unchanged.

    variables: None for a model without.
    """
    tower = model.module.image
    if not isinstance(tower, VisionTransformer) or tower.positions == "learned":
        return model, variables or {}
    table = vit.sincos(tower.image_size // tower.patch, tower.width)
    table = np.pad(table, ((tower.class_count, 0), (0, 0)))
    return _with(
        model,
        variables,
        image=(
            dataclasses.replace(tower, positions="learned"),
            lambda params: {**params, "positions": table},
        ),
    )


def for_open_clip(
    model: TwoTowerModel, variables: Variables | None, ends: Ends
) -> tuple[TwoTowerModel, Variables]:
    """The model in the transformers that open_clip has, as far as they can hold it.

    A tower that is one of them, or that cannot be written as one, is left as it is.

    variables: None for a model without.

    Raises UserError if padding has to be hidden and its id also begins or ends texts.
    """
    module: Any = model.module
    image, text, heads = module.image, module.text, list(module.heads)
    changes: dict[str, Any] = {}
    if (
        isinstance(image, VisionTransformer)
        and (image.pool, image.class_token) == ("mean", False)
        and not (image.post_norm or image.patch_bias)
        and heads[0] == "linear"
    ):
        tower = dataclasses.replace(image, width=2 * image.width, class_token=True)
        changes["image"] = tower, lambda params: _image(image, params)
        changes["image_projection"] = lambda params, _: {
            "kernel": _first(params["image_projection"]["kernel"])
        }
    if isinstance(text, TextTransformer) and _hides_or_averages(text, heads[1]):
        mean = text.pool == "mean"
        if ends.pad in (ends.begin, ends.end):
            raise UserError(
                f"data.tokenizer pads with token {ends.pad}, which also begins or ends "
                f"texts, and model.text.pool={text.pool!r} hides it in open_clip: it "
                "cannot be exported"
            )
        tower = dataclasses.replace(
            text,
            width=2 * text.width,
            depth=text.depth + mean,
            pool="appended" if mean else text.pool,
            masked=mean,
        )
        changes["text"] = tower, lambda params: _text(text, params, ends.pad)
        if mean:
            changes["text_projection"] = lambda params, old: _of_mean(
                params.get("text_projection"), old["text"]["post_norm"]
            )
            heads[1] = "linear"
        elif heads[1] != "none":
            changes["text_projection"] = lambda params, _: {
                **params["text_projection"],
                "kernel": _first(params["text_projection"]["kernel"]),
            }
    if not changes:
        return model, variables or {}
    return _with(model, variables, heads=tuple(heads), **changes)


def _hides_or_averages(tower: TextTransformer, head: str) -> bool:
    """Whether a text tower is open_clip's only at twice its width."""
    if tower.post_norm or not tower.masked or tower.norm_pooled:
        return False
    if tower.pool == "mean":
        return head in ("linear", "affine", "none")
    hidden = not tower.causal and tower.pool in ("eot", "cls")
    return hidden and head in ("linear", "affine")


def _with(
    model: TwoTowerModel,
    variables: Variables | None,
    heads: tuple[str, str] | None = None,
    **changes: Any,
) -> tuple[TwoTowerModel, Variables]:
    """A model with other towers and the parameters that go with them.

    changes: "image" and "text" -> (tower, its parameters from the old ones); another
    part's name -> its parameters from those of the old model.
    """
    towers = {name: changes[name][0] for name in ("image", "text") if name in changes}
    module = dataclasses.replace(
        model.module, **towers, heads=heads or model.module.heads
    )
    made = dataclasses.replace(model, module=module)
    if variables is None:
        return made, {}
    old: Any = _arrays(variables["params"])
    new = dict(old)
    for name, change in changes.items():
        new[name] = change[1](old[name]) if name in towers else change(old, old)
    return made, {**variables, "params": new}


def _arrays(params: Any) -> Any:
    if isinstance(params, Mapping):
        return {name: _arrays(part) for name, part in params.items()}
    return np.asarray(params, np.float32)


def _image(tower: VisionTransformer, params: Params) -> Params:
    """The parameters of the image tower of twice the width."""
    width, place, sign = tower.width, 0, 1.0
    new = {
        "patch_embedding": {"kernel": _twice(params["patch_embedding"]["kernel"])},
        "post_norm": _twice_each(params["post_norm"]),
        "positions": np.pad(_twice(params["positions"]), ((1, 0), (0, 0))),
    }
    if tower.pre_norm:
        # It sets the mark's size, by its scale.
        scale = params["pre_norm"]["scale"]
        place = int(np.abs(scale).argmax())
        sign = float(np.sign(scale[place])) or 1.0
        new["pre_norm"] = _twice_each(params["pre_norm"])
    new["class_token"] = _mark(width, place)
    new["transformer"] = {
        name: _block(block, tower.heads, place, sign)
        for name, block in params["transformer"].items()
    }
    return new


def _text(tower: TextTransformer, params: Params, pad: int) -> Params:
    """The parameters of the text tower of twice the width, and of one more block."""
    width, mean = tower.width, tower.pool == "mean"
    table = _twice(params["token_embedding"])
    table[pad] = _mark(width, 0)
    positions = _twice(params["positions"])
    blocks = {
        name: _block(block, tower.heads, 0, 1.0)
        for name, block in params["transformer"].items()
    }
    if not mean:
        new_norm = _twice_each(params["post_norm"])
        return {
            "token_embedding": table,
            "positions": positions,
            "transformer": blocks,
            "post_norm": new_norm,
        }
    blocks[f"block_{tower.depth}"] = _collect(tower)
    return {
        "token_embedding": table,
        "positions": np.pad(positions, ((0, 1), (0, 0))),
        "class_token": _mark(width, 0),
        "transformer": blocks,
        "post_norm": _plain_norm(width),
    }


def _mark(width: int, place: int) -> np.ndarray:
    token = np.zeros(2 * width, np.float32)
    token[place], token[width + place] = MARK * width**0.5, -MARK * width**0.5
    return token


def _twice(x: np.ndarray) -> np.ndarray:
    return np.concatenate([x, x], axis=-1)


def _twice_each(params: Params) -> Params:
    return {name: _twice(x) for name, x in params.items()}


def _first(kernel: np.ndarray) -> np.ndarray:
    """A kernel that reads the first half of its input: [d e] -> [2d e]."""
    return np.concatenate([kernel, np.zeros_like(kernel)])


def _plain_norm(width: int) -> Params:
    return {
        "scale": np.ones(2 * width, np.float32),
        "bias": np.zeros(2 * width, np.float32),
    }


def _reads(norm: Params, dense: Params) -> Params:
    """A dense layer that takes over the scale and bias of the norm before it."""
    kernel = norm["scale"][:, None] * dense["kernel"]
    return {
        "kernel": _first(kernel),
        "bias": dense["bias"] + norm["bias"] @ dense["kernel"],
    }


def _block(params: Params, heads: int, place: int, sign: float) -> Params:
    """A block of twice the width. place, sign: of the hidden tokens' mark."""
    width = params["norm_1"]["scale"].shape[0]
    qkv = _reads(params["norm_1"], params["attention"]["qkv"])
    out = params["attention"]["out"]
    fc2 = params["mlp"]["fc2"]
    return {
        "norm_1": _plain_norm(width),
        "norm_2": _plain_norm(width),
        "attention": {
            "qkv": _hiding(qkv, heads, place, sign),
            "out": {
                "kernel": _twice(_value_rows(out["kernel"], heads)),
                "bias": _twice(out["bias"]),
            },
        },
        "mlp": {
            "fc1": _reads(params["norm_2"], params["mlp"]["fc1"]),
            "fc2": {"kernel": _twice(fc2["kernel"]), "bias": _twice(fc2["bias"])},
        },
    }


def _hiding(qkv: Params, heads: int, place: int, sign: float) -> Params:
    """Query, key and value with heads of twice the width.

    The first number of each head's new half is 1 in every query, and in a key far below
    zero if the halves of its token differ at `place`. The query is scaled by the root
    of 2, because attention divides by the root of the heads' width.
    """
    rows = qkv["kernel"].shape[0]
    kernel = qkv["kernel"].reshape(rows, 3, heads, -1)
    bias = qkv["bias"].reshape(3, heads, -1)
    kernel = np.concatenate([kernel, np.zeros_like(kernel)], axis=-1)
    bias = np.concatenate([bias, np.zeros_like(bias)], axis=-1)
    kernel[:, 0] *= 2**0.5
    bias[0] *= 2**0.5
    head, width = bias.shape[-1] // 2, rows // 2
    bias[0, :, head] = 1
    # A mark alone in its half is sqrt(width) after normalisation.
    slope = sign * HIDE * (2 * head) ** 0.5 / (2 * width**0.5)
    kernel[place, 1, :, head] = -slope
    kernel[width + place, 1, :, head] = slope
    return {"kernel": kernel.reshape(rows, -1), "bias": bias.reshape(-1)}


def _value_rows(kernel: np.ndarray, heads: int) -> np.ndarray:
    """The output's kernel [d d] as [2d d], without the new half of each head."""
    by_head = kernel.reshape(heads, -1, kernel.shape[-1])
    by_head = np.concatenate([by_head, np.zeros_like(by_head)], axis=1)
    return by_head.reshape(-1, kernel.shape[-1])


def _collect(tower: TextTransformer) -> Params:
    """The block that adds the mean of the normalised tokens, [mean, -mean]."""
    width, heads, hidden = tower.width, tower.heads, tower.hidden
    kernel = np.zeros((width, 3, width), np.float32)
    kernel[:, 2] = np.eye(width)
    qkv = {
        "kernel": _first(kernel.reshape(width, -1)),
        "bias": np.zeros(3 * width, np.float32),
    }
    rows = _value_rows(np.eye(width, dtype=np.float32), heads)
    return {
        "norm_1": _plain_norm(width),
        "norm_2": _plain_norm(width),
        "attention": {
            "qkv": _hiding(qkv, heads, 0, 1.0),
            "out": {
                "kernel": np.concatenate([rows, -rows], axis=-1),
                "bias": np.zeros(2 * width, np.float32),
            },
        },
        "mlp": {
            "fc1": {
                "kernel": np.zeros((2 * width, hidden), np.float32),
                "bias": np.zeros(hidden, np.float32),
            },
            "fc2": {
                "kernel": np.zeros((hidden, 2 * width), np.float32),
                "bias": np.zeros(2 * width, np.float32),
            },
        },
    }


def _of_mean(head: Params | None, norm: Params) -> Params:
    """The projection of what `_collect` has collected, up to a positive factor.

    Half the difference of the halves is the mark in the first place plus the mean of
    the normalised tokens, whose numbers sum to zero. So its sum is the mark, which
    carries what is added whatever the text: biases.
    """
    width = norm["scale"].shape[0]
    plain = np.eye(width, dtype=np.float32) if head is None else head["kernel"]
    kernel = norm["scale"][:, None] * plain
    added = norm["bias"] @ plain
    if head is not None and "bias" in head:
        added = added + head["bias"]
    kernel = kernel - kernel[:1] + added / (MARK * width**0.5)
    return {"kernel": np.concatenate([kernel, -kernel]) / 2}
