"""Writes clip_ids.json: texts with the ids of open_clip's tokenizer.

    PYTHONPATH=tests python tests/parity/make_clip_ids.py

Needs the parity extra. To be run when a kind of text is added, never because our own
tokenizer gives other ids.
"""

from __future__ import annotations

import collections
import importlib.util
import json
import pathlib
from typing import Any

import varied_texts

TESTS = pathlib.Path(__file__).parents[1]
GOLDENS = TESTS / "data" / "tokenizers" / "goldens" / "clip_ids.json"
OF_EACH = 3
LONGEST = 2500
# Later versions of Unicode may make letters of what is none yet.
LEFT_OUT = ("special", "any code point", "any of the first plane", "signs")


def open_clip_tokenizer() -> Any:
    """open_clip's module of tokenizers; the package would import torchvision too."""
    found = importlib.util.find_spec("open_clip")
    if found is None or found.origin is None:
        return None
    path = pathlib.Path(found.origin).with_name("tokenizer.py")
    spec = importlib.util.spec_from_file_location("open_clip_tokenizer", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    kept: dict[str, list[str]] = collections.defaultdict(list)
    for kind, text in varied_texts.made(50 * len(varied_texts.KINDS), seed=1):
        if kind not in LEFT_OUT and len(text) < LONGEST and len(kept[kind]) < OF_EACH:
            kept[kind].append(text)
    texts = [text for found in kept.values() for text in found]
    rows = open_clip_tokenizer().SimpleTokenizer()(texts).tolist()
    ids = [row[: row.index(49407) + 1] for row in rows]
    lines = [json.dumps([text, row]) for text, row in zip(texts, ids, strict=True)]
    GOLDENS.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="ascii")


if __name__ == "__main__":
    main()
