"""Writes tests/parity/goldens/single_towers.npz: towers of other libraries, whole.

    PYTHONPATH=tests python tests/parity/make_tower_goldens.py

Needs the parity extra. To be run when a case is added, never because our own towers or
readers changed.
"""

from __future__ import annotations

import numpy as np
import single_towers as towers
from tower_tools import GOLDENS, Case


def cases() -> dict[str, Case]:
    return {
        "bert": towers.bert(0, "BertForPreTraining", pools=("cls", "pooler")),
        "bert_1": towers.bert(1, depth=1, pools=("last",)),
        "distilbert": towers.bert(2, "DistilBertForMaskedLM", 1, ("mean",)),
        "hf_vit": towers.hf_vit(3, classifier=True, depth=1),
        "hf_resnet": towers.hf_resnet(4, width=1),
        "torch_resnet": towers.torch_resnet(5, "timm", "BasicBlock", [1, 2, 1, 1]),
        "timm_vit": towers.timm_vit(6, depth=1, no_embed_class=True),
        "timm_vit_map": towers.timm_vit(
            7, depth=1, class_token=False, global_pool="map", act_layer="gelu_tanh"
        ),
        "timm_vit_clip": towers.timm_vit(
            8, depth=1, pre_norm=True, act_layer="quick_gelu"
        ),
    }


def main() -> None:
    arrays = {
        f"{name}/{key}": value
        for name, case in cases().items()
        for key, value in case.packed().items()
    }
    np.savez_compressed(GOLDENS, allow_pickle=False, **arrays)
    print(f"{GOLDENS}: {len(arrays)} arrays, {GOLDENS.stat().st_size} bytes")


if __name__ == "__main__":
    main()
