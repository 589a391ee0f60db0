"""Writes goldens/hf_clip.npz: what Hugging Face's CLIP gives for `hf_clip.CASES`.

    python tests/parity/make_goldens.py

Needs the parity extra. To be run when a case is added or changed, never because our
own model changed.
"""

from __future__ import annotations

import pathlib

import hf_clip
import numpy as np

PATH = pathlib.Path(__file__).parent / "goldens" / "hf_clip.npz"


def main() -> None:
    goldens = {
        f"{name}/{key}": value
        for name, case in hf_clip.CASES.items()
        for key, value in hf_clip.their_results(case).items()
    }
    np.savez_compressed(PATH, **goldens)
    print(f"{PATH}: {len(goldens)} arrays, {PATH.stat().st_size} bytes")


if __name__ == "__main__":
    main()
