"""Writes goldens/conv_towers.npz: what PyTorch gives for `conv_towers.CASES`.

    python tests/parity/make_conv_goldens.py

Needs the parity extra. To be run when a case is added or changed, never because our
own model changed.
"""

from __future__ import annotations

import pathlib

import conv_towers
import numpy as np

PATH = pathlib.Path(__file__).parent / "goldens" / "conv_towers.npz"


def main() -> None:
    goldens = {
        f"{name}/{key}": value
        for name, case in conv_towers.CASES.items()
        for key, value in conv_towers.their_results(case).items()
    }
    np.savez_compressed(PATH, **goldens)
    print(f"{PATH}: {len(goldens)} arrays, {PATH.stat().st_size} bytes")


if __name__ == "__main__":
    main()
