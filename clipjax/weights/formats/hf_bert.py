"""Hugging Face's BertModel, RobertaModel, XLMRobertaModel and DistilBertModel, alone or
inside models with heads.

Source: huggingface/transformers. Files from before 2019, bert-base-uncased's included,
call the two tensors of a normalisation gamma and beta.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from clipjax.models.text.bert import Bert
from clipjax.types import UserError
from clipjax.weights.formats import hf_common
from clipjax.weights.rename_table import Rule, dense, norm, repeat_rules
from clipjax.weights.tower_description import (
    QKV,
    Shapes,
    TowerFormat,
    TowerSettings,
    prefix_of,
)
from clipjax.weights.value_checks import check_depth, check_positive, check_sizes

GAMMA = "gamma"  # the layout of files from before 2019

# Defaults of what a config.json may leave out, from BertConfig and DistilBertConfig.
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
# RobertaConfig and XLMRobertaConfig: the same but for these.
ROBERTA_DEFAULTS = BERT_DEFAULTS | {"vocab_size": 50265, "pad_token_id": 1}
XLM_ROBERTA_DEFAULTS = BERT_DEFAULTS | {"pad_token_id": 1}
# Our option -> key of a config.json.
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
# Settings that clipjax lacks, with the only value that it reads.
PLAIN = {
    "is_decoder": False,
    "add_cross_attention": False,
    "position_embedding_type": "absolute",
}


def _is(*kinds: str) -> Any:
    return lambda config, shapes: (
        config is not None and config.get("model_type") in kinds
    )


def _bert_settings(
    config: Mapping[str, Any] | None, shapes: Shapes, folder: pathlib.Path, origin: str
) -> TowerSettings:
    origin = str(folder / hf_common.CONFIG)
    values = {**BERT_DEFAULTS, **(config or {})}
    options = _bert_options(values, shapes, origin)
    prefix = prefix_of(shapes, "bert.")
    old = f"{prefix}embeddings.LayerNorm.gamma" in shapes
    layout = {GAMMA} if old else set()
    return _settings("bert", "bert", values, options, prefix, layout)


def _roberta_settings(
    config: Mapping[str, Any] | None, shapes: Shapes, folder: pathlib.Path, origin: str
) -> TowerSettings:
    origin, config = str(folder / hf_common.CONFIG), config or {}
    multilingual = config.get("model_type") == "xlm-roberta"
    defaults = XLM_ROBERTA_DEFAULTS if multilingual else ROBERTA_DEFAULTS
    values = {**defaults, **config}
    options = _bert_options(values, shapes, origin)
    check_sizes(values, ["pad_token_id"], origin, least=0)
    # transformers counts a text's tokens from the row after the padding's.
    options["first_position"] = values["pad_token_id"] + 1
    prefix = prefix_of(shapes, "roberta.")
    return _settings("roberta", "bert", values, options, prefix, set())


def _bert_options(
    values: Mapping[str, Any], shapes: Shapes, origin: str
) -> dict[str, Any]:
    for key, value in PLAIN.items():
        if values.get(key, value) not in (value, None):
            raise UserError(
                f"{origin}: {key}={values[key]!r}: clipjax's bert has {value!r} only"
            )
    _check(values, BERT_OPTIONS, shapes, origin)
    options = {name: values[key] for name, key in BERT_OPTIONS.items()}
    return options | {"activation": _activation(values, "hidden_act", origin)}


def _distilbert_settings(
    config: Mapping[str, Any] | None, shapes: Shapes, folder: pathlib.Path, origin: str
) -> TowerSettings:
    origin = str(folder / hf_common.CONFIG)
    values = {**DISTILBERT_DEFAULTS, **(config or {})}
    _check(values, DISTILBERT_OPTIONS, shapes, origin)
    options = {name: values[key] for name, key in DISTILBERT_OPTIONS.items()}
    options["activation"] = _activation(values, "activation", origin)
    prefix = prefix_of(shapes, "distilbert.")
    return _settings("distilbert", "distilbert", values, options, prefix, set())


def _check(
    values: Mapping[str, Any], keys: Mapping[str, str], shapes: Shapes, origin: str
) -> None:
    """Raises UserError for an invalid size or epsilon in a config."""
    sizes = [keys[name] for name in ("width", "heads", "mlp_dim", "max_positions")]
    check_sizes(values, [*sizes, "vocab_size"], origin)
    check_depth(values, keys["depth"], shapes, origin)
    if "token_types" in keys:
        check_sizes(values, [keys["token_types"]], origin, least=0)
        check_positive(values, [keys["norm_epsilon"]], origin)


def _settings(
    kind: str,
    component: str,
    values: Mapping[str, Any],
    options: dict[str, Any],
    prefix: str,
    layout: set[str],
) -> TowerSettings:
    """The settings of a BERT; its context is as long as the position table allows."""
    return TowerSettings(
        format=f"hf_{kind}",
        side="text",
        component=component,
        options=options,
        size=values["max_position_embeddings"] - options.get("first_position", 0),
        vocab_size=values["vocab_size"],
        prefix=prefix,
        layout=frozenset(layout),
    )


def _activation(values: Mapping[str, Any], key: str, origin: str) -> str:
    known = hf_common.ACTIVATIONS
    if values[key] not in known:
        raise UserError(
            f"{origin}: {key}={values[key]!r}: clipjax has {', '.join(known)}"
        )
    return known[values[key]]


def bert_rules(tower: Bert, layout: frozenset[str]) -> list[Rule]:
    """The rules of a BertModel, RobertaModel or XLMRobertaModel."""

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
        *repeat_rules(
            block, tower.depth, "encoder.layer.{i}.", "transformer/block_{i}/"
        ),
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
        *repeat_rules(
            block, tower.depth, "transformer.layer.{i}.", "transformer/block_{i}/"
        ),
    ]


def _embeddings() -> list[Rule]:
    return [
        Rule("embeddings.word_embeddings.weight", "token_embedding"),
        Rule("embeddings.position_embeddings.weight", "positions"),
    ]


# Task layers over the tower, which clipjax does not use.
TASKS = (r"classifier\..*", r"qa_outputs\..*")
BERT = TowerFormat(
    name="hf_bert",
    side="text",
    recognise=_is("bert"),
    settings=_bert_settings,
    rules=bert_rules,
    ignored=(r"(bert\.)?embeddings\.(position_ids|token_type_ids)",),
    heads=(*TASKS, r"(bert\.)?pooler\.dense\..*", r"cls\..*"),
)
ROBERTA = TowerFormat(
    name="hf_roberta",
    side="text",
    recognise=_is("roberta", "xlm-roberta"),
    settings=_roberta_settings,
    rules=bert_rules,
    ignored=(r"(roberta\.)?embeddings\.(position_ids|token_type_ids)",),
    heads=(*TASKS, r"(roberta\.)?pooler\.dense\..*", r"lm_head\..*"),
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
FORMATS = (BERT, ROBERTA, DISTILBERT)
