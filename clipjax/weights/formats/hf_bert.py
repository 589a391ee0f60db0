"""Hugging Face's BertModel and DistilBertModel, also inside their models with heads.

huggingface/transformers. Files of before 2019 call a normalisation's two tensors gamma
and beta; bert-base-uncased's still do.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from clipjax.models.text.bert import Bert
from clipjax.types import UserError
from clipjax.weights.formats import hf_common
from clipjax.weights.rename_table import Rule, dense, norm, repeated
from clipjax.weights.tower_description import (
    QKV,
    Shapes,
    TowerFormat,
    TowerSettings,
    prefix_of,
)
from clipjax.weights.value_checks import check_depth, check_positive, check_sizes

GAMMA = "gamma"  # the layout of old files

# What a config.json may leave out, as BertConfig and DistilBertConfig have it.
BERT_DEFAULTS = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
}
DISTILBERT_DEFAULTS = {
    "vocab_size": 30522,
    "dim": 768,
    "n_layers": 6,
    "n_heads": 12,
    "hidden_dim": 3072,
    "activation": "gelu",
    "dropout": 0.1,
    "max_position_embeddings": 512,
}
# Option of ours -> key of a config.json.
BERT_OPTIONS = {
    "width": "hidden_size",
    "depth": "num_hidden_layers",
    "heads": "num_attention_heads",
    "mlp_dim": "intermediate_size",
    "max_positions": "max_position_embeddings",
    "token_types": "type_vocab_size",
    "norm_epsilon": "layer_norm_eps",
    "dropout": "hidden_dropout_prob",
}
DISTILBERT_OPTIONS = {
    "width": "dim",
    "depth": "n_layers",
    "heads": "n_heads",
    "mlp_dim": "hidden_dim",
    "max_positions": "max_position_embeddings",
    "dropout": "dropout",
}
# What we do not do, and the value of it that we can read.
PLAIN = {
    "is_decoder": False,
    "add_cross_attention": False,
    "position_embedding_type": "absolute",
}


def _is(kind: str) -> Any:
    return lambda config, shapes: (
        config is not None and config.get("model_type") == kind
    )


def _bert_settings(
    config: Mapping[str, Any] | None, shapes: Shapes, folder: pathlib.Path, place: str
) -> TowerSettings:
    place = str(folder / hf_common.CONFIG)
    given = {**BERT_DEFAULTS, **(config or {})}
    for key, value in PLAIN.items():
        if given.get(key, value) not in (value, None):
            raise UserError(
                f"{place}: {key}={given[key]!r}: clipjax's bert has {value!r} only"
            )
    _check(given, BERT_OPTIONS, shapes, place)
    options = {name: given[key] for name, key in BERT_OPTIONS.items()}
    options["activation"] = _activation(given, "hidden_act", place)
    prefix = prefix_of(shapes, "bert.")
    old = f"{prefix}embeddings.LayerNorm.gamma" in shapes
    return _settings("bert", given, options, prefix, {GAMMA} if old else set())


def _distilbert_settings(
    config: Mapping[str, Any] | None, shapes: Shapes, folder: pathlib.Path, place: str
) -> TowerSettings:
    place = str(folder / hf_common.CONFIG)
    given = {**DISTILBERT_DEFAULTS, **(config or {})}
    _check(given, DISTILBERT_OPTIONS, shapes, place)
    options = {name: given[key] for name, key in DISTILBERT_OPTIONS.items()}
    options["activation"] = _activation(given, "activation", place)
    prefix = prefix_of(shapes, "distilbert.")
    return _settings("distilbert", given, options, prefix, set())


def _check(
    given: Mapping[str, Any], keys: Mapping[str, str], shapes: Shapes, place: str
) -> None:
    """Raises UserError for a config's value that is no size, or no epsilon."""
    sizes = [keys[name] for name in ("width", "heads", "mlp_dim", "max_positions")]
    check_sizes(given, [*sizes, "vocab_size"], place)
    check_depth(given, keys["depth"], shapes, place)
    if "token_types" in keys:
        check_sizes(given, [keys["token_types"]], place, least=0)
        check_positive(given, [keys["norm_epsilon"]], place)


def _settings(
    component: str,
    given: Mapping[str, Any],
    options: dict[str, Any],
    prefix: str,
    layout: set[str],
) -> TowerSettings:
    """The context is as long as the position table; a shorter one does as well."""
    return TowerSettings(
        format=f"hf_{component}",
        side="text",
        component=component,
        options=options,
        size=given["max_position_embeddings"],
        vocab_size=given["vocab_size"],
        prefix=prefix,
        layout=frozenset(layout),
    )


def _activation(given: Mapping[str, Any], key: str, place: str) -> str:
    known = hf_common.ACTIVATIONS
    if given[key] not in known:
        raise UserError(
            f"{place}: {key}={given[key]!r}: clipjax has {', '.join(known)}"
        )
    return known[given[key]]


def _bert_rules(tower: Bert, layout: frozenset[str]) -> list[Rule]:
    def layer_norm(theirs: str, ours: str) -> list[Rule]:
        if GAMMA not in layout:
            return norm(f"{theirs}.LayerNorm", ours)
        return [
            Rule(f"{theirs}.LayerNorm.gamma", f"{ours}/scale"),
            Rule(f"{theirs}.LayerNorm.beta", f"{ours}/bias"),
        ]

    block = [
        *dense([f"attention.self.{x}" for x in QKV], "attention/qkv"),
        *dense("attention.output.dense", "attention/out"),
        *layer_norm("attention.output", "norm_1"),
        *dense("intermediate.dense", "mlp/fc1"),
        *dense("output.dense", "mlp/fc2"),
        *layer_norm("output", "norm_2"),
    ]
    rules = [
        *_embeddings(),
        *layer_norm("embeddings", "pre_norm"),
        *repeated(block, tower.depth, "encoder.layer.{i}.", "transformer/block_{i}/"),
    ]
    if tower.token_types:
        rules.append(Rule("embeddings.token_type_embeddings.weight", "token_types"))
    if tower.pool == "pooler":
        rules += dense("pooler.dense", "pooler")
    return rules


def _distilbert_rules(tower: Bert, layout: frozenset[str]) -> list[Rule]:
    block = [
        *dense([f"attention.{x}_lin" for x in "qkv"], "attention/qkv"),
        *dense("attention.out_lin", "attention/out"),
        *norm("sa_layer_norm", "norm_1"),
        *dense("ffn.lin1", "mlp/fc1"),
        *dense("ffn.lin2", "mlp/fc2"),
        *norm("output_layer_norm", "norm_2"),
    ]
    return [
        *_embeddings(),
        *norm("embeddings.LayerNorm", "pre_norm"),
        *repeated(
            block, tower.depth, "transformer.layer.{i}.", "transformer/block_{i}/"
        ),
    ]


def _embeddings() -> list[Rule]:
    return [
        Rule("embeddings.word_embeddings.weight", "token_embedding"),
        Rule("embeddings.position_embeddings.weight", "positions"),
    ]


# Layers over the tower for tasks that it does not serve here.
TASKS = (r"classifier\..*", r"qa_outputs\..*")
BERT = TowerFormat(
    name="hf_bert",
    side="text",
    recognise=_is("bert"),
    settings=_bert_settings,
    rules=_bert_rules,
    ignored=(r"(bert\.)?embeddings\.(position_ids|token_type_ids)",),
    heads=(*TASKS, r"(bert\.)?pooler\.dense\..*", r"cls\..*"),
)
DISTILBERT = TowerFormat(
    name="hf_distilbert",
    side="text",
    recognise=_is("distilbert"),
    settings=_distilbert_settings,
    rules=_distilbert_rules,
    ignored=(r"(distilbert\.)?embeddings\.position_ids",),
    heads=(*TASKS, r"pre_classifier\..*", r"vocab_.*"),
)
FORMATS = (BERT, DISTILBERT)
