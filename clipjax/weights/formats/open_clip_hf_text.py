"""open_clip's text towers from Hugging Face: RoBERTa and XLM-RoBERTa.

Source: mlfoundations/open_clip, hf_model.py. The settings beside the weights name the
tower ("xlm-roberta-base") and have none of its sizes, so the tensors' shapes give them.
The names below are those after "text.".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from clipjax.models.text.bert import Bert
from clipjax.weights.formats import hf_bert
from clipjax.weights.formats.open_clip_nearest import Unread
from clipjax.weights.rename_table import Rule, rename_rules, transpose
from clipjax.weights.tower_description import Shapes, count, shape_of
from clipjax.weights.value_checks import check_sizes

TOWER = "transformer."
NAMES = re.compile(r"(.*/)?(xlm-)?roberta-(base|large)")
HEAD_WIDTH = 64  # of all of these
PAD_ID = 1
# open_clip's pooler -> ours.
POOLS = {
    "mean_pooler": "mean",
    "cls_pooler": "pooler",
    "cls_last_hidden_state_pooler": "cls",
}
# open_clip's projection -> our head. null is none, if the tower is as wide as the
# embedding.
HEADS = {"linear": "linear", "mlp": "slim_mlp", None: "none"}
IGNORED = (rf"text\.{TOWER}embeddings\.(position_ids|token_type_ids)",)


def options(
    text: Mapping[str, Any], shapes: Shapes, origin: str
) -> tuple[dict[str, Any], str, int]:
    """Returns (options of our bert, its head, size of its vocabulary).

    Raises UserError for another tower, pooling or projection, and if a tensor that
    gives a size is missing.
    """
    path = f"{origin}: text_cfg"
    name = text["hf_model_name"]
    if not isinstance(name, str) or not NAMES.fullmatch(name):
        raise Unread(
            f"{path}.hf_model_name={name!r}: of Hugging Face's text towers clipjax "
            "reads xlm-roberta-base, xlm-roberta-large, roberta-base and roberta-large"
        )
    # As open_clip's own defaults are.
    pool = text.get("hf_pooler_type", "mean_pooler") or "mean_pooler"
    if pool not in POOLS:
        raise Unread(
            f"{path}.hf_pooler_type={pool!r}: clipjax reads {', '.join(POOLS)}"
        )
    proj = text.get("hf_proj_type", "mlp")
    if proj not in HEADS:
        raise Unread(
            f"{path}.hf_proj_type={proj!r}: clipjax reads {', '.join(map(repr, HEADS))}"
        )

    def shape(name: str, dims: int = 2) -> tuple[int, ...]:
        return shape_of(shapes, f"text.{TOWER}{name}", dims, origin)

    vocab_size, width = shape("embeddings.word_embeddings.weight")
    found = {
        "width": width,
        "depth": count(shapes, rf"text\.{TOWER}encoder\.layer\.(\d+)\."),
        "heads": width // HEAD_WIDTH,
        "mlp_dim": shape("encoder.layer.0.intermediate.dense.bias", 1)[0],
        "max_positions": shape("embeddings.position_embeddings.weight")[0],
        "token_types": shape("embeddings.token_type_embeddings.weight")[0],
    }
    check_sizes(found, ("width", "heads"), origin)
    more = {
        "first_position": PAD_ID + 1,
        "pool": POOLS[pool],
        "norm_epsilon": 1e-5,
        "activation": "gelu",
    }
    return found | more, HEADS[proj], vocab_size


def rules(tower: Bert, head: str) -> list[Rule]:
    """The rules of the tower and its head, "text/..." and "text_projection/..."."""
    found = rename_rules(hf_bert.bert_rules(tower, frozenset()), TOWER, "text/")
    ours = "text_projection"
    if head == "linear":
        found.append(Rule("proj.weight", f"{ours}/kernel", transpose))
    elif head == "slim_mlp":
        found.append(Rule("proj.0.weight", f"{ours}/fc1/kernel", transpose))
        found.append(Rule("proj.2.weight", f"{ours}/fc2/kernel", transpose))
    return found
