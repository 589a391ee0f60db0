"""Writes tests/evals/goldens/recalls.json: what other libraries measure on embeddings.

    PYTHONPATH=tests python tests/parity/make_retrieval_goldens.py

Needs clip-benchmark and open_clip_torch. To be run when a gallery is added, never
because our numbers changed.
"""

from __future__ import annotations

import importlib.metadata
import json
import pathlib

import gallery_tools
import library_recalls

PLACE = pathlib.Path(__file__).parents[1] / "evals" / "goldens" / "recalls.json"


def main() -> None:
    goldens: dict[str, object] = {
        package: importlib.metadata.version(package)
        for package in ("clip-benchmark", "open_clip_torch")
    }
    for name in gallery_tools.GALLERIES:
        gallery = gallery_tools.make(name)
        goldens[name] = found = {
            "CLIP_benchmark": library_recalls.by_clip_benchmark(gallery)
        }
        if len(gallery.owner) == len(gallery.images):
            found["open_clip"] = library_recalls.by_open_clip(gallery)
    PLACE.parent.mkdir(exist_ok=True)
    PLACE.write_text(json.dumps(goldens, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
