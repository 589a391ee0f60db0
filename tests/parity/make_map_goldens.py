"""Writes goldens/maps.npz: what PyTorch gives for the cases of `map_references`.

    python tests/parity/make_map_goldens.py

Needs the parity extra. To be run when a case is added or changed, never because our
own maps changed.
"""

from __future__ import annotations

import pathlib

import map_references
import numpy as np

PATH = pathlib.Path(__file__).parent / "goldens" / "maps.npz"


def main() -> None:
    goldens = {
        f"{name}/{key}": value.astype(np.float32)
        for name in map_references.TRANSFORMERS + map_references.CONVOLUTIONS
        for key, value in map_references.their_maps(name).items()
    }
    np.savez_compressed(PATH, **goldens)
    print(f"{PATH}: {len(goldens)} arrays, {PATH.stat().st_size} bytes")


if __name__ == "__main__":
    main()
