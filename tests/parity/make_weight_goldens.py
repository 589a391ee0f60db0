"""Writes goldens/foreign_models.npz: what some of `foreign_models.CASES` give.

    python tests/parity/make_weight_goldens.py

Needs the parity extra. To be run when a case is added or changed, never because our
own model changed.
"""

from __future__ import annotations

import json
import pathlib
import tempfile

import foreign_models
import numpy as np
from hf_clip import import_torch

from clipjax.models.common import layers

GOLDENS = pathlib.Path(__file__).parent / "goldens"
PATH = GOLDENS / "foreign_models.npz"
POSITIONS = GOLDENS / "positions.npz"

# The other cases differ little from these, and are compared live.
OFTEN = (
    *("hf_clip_legacy", "hf_siglip", "vit_custom_text", "coca", "eva02"),
    *("eva02_enormous", "xlm_roberta"),
)


def results(name: str) -> dict[str, np.ndarray]:
    """The shapes of a case's tensors as JSON, and what its live model gives."""
    case = foreign_models.CASES[name]
    with tempfile.TemporaryDirectory() as folder:
        model = foreign_models.live(case, pathlib.Path(folder))
    shapes = foreign_models.shapes_of(model)
    if case.is_open_clip:
        size = case.config["model_cfg"]["vision_cfg"]["image_size"]
    else:
        size = case.config["vision_config"]["image_size"]
    siglip = case.config.get("model_type") == "siglip"
    mean, std = ((0.5,) * 3,) * 2 if siglip else (layers.MEAN, layers.STD)
    given = foreign_models.inputs(size, case.pad)
    found = foreign_models.their_results(
        model, given["image"], given["text"], mean, std
    )
    return {"shapes": np.array(json.dumps(shapes)), **found}


def positions() -> dict[str, np.ndarray]:
    """A table, and as open_clip resizes it to "image/SIDE" and "text/ROWS"."""
    torch = import_torch()
    resize = torch.nn.functional.interpolate
    table = foreign_models.uniform("positions", (50, 3))
    found = {"table": table}
    grid = torch.tensor(table[1:].reshape(1, 7, 7, 3)).permute(0, 3, 1, 2)
    for side in (3, 5, 9, 14):
        new = resize(grid, (side, side), mode="bicubic", antialias=True)
        found[f"image/{side}"] = new[0].permute(1, 2, 0).reshape(-1, 3).numpy()
    line = torch.tensor(table).T[None]
    for length in (51, 77, 100):
        found[f"text/{length}"] = resize(line, length, mode="linear")[0].T.numpy()
    return found


def main() -> None:
    goldens = {
        f"{name}/{key}": value for name in OFTEN for key, value in results(name).items()
    }
    for path, arrays in ((PATH, goldens), (POSITIONS, positions())):
        np.savez_compressed(path, **arrays)
        print(f"{path}: {len(arrays)} arrays, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
