"""What comparable results share, as the short texts of EvalResult.protocol."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence


def digest(texts: Sequence[str]) -> str:
    """Eight hexadecimal digits that tell lists of texts apart, and their orders too."""
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()[:8]


def of_classes(
    label_set: str,
    names: Sequence[str],
    templates: Sequence[str] = (),
    same_name: str = "",
) -> str:
    """One choice among classes.

    Args:
      names: of the classes, in their order. templates: of their prompts; () if none.
      same_name: how classes that share a name are counted; "" if none do.

    >>> of_classes("flower", ["rose", "tulip"], ["a {}."])
    'flower: 2 classes 28991f8e, 1 template 8d95e67d'
    """
    parts = [f"{label_set}: {len(names)} classes {digest(names)}"]
    if templates:
        plural = "s" if len(templates) > 1 else ""
        parts.append(f"{len(templates)} template{plural} {digest(templates)}")
    if same_name:
        parts.append(f"same_name={same_name}")
    return ", ".join(parts)


def of_sample(max_samples: int) -> str:
    """A part of the source's images; "" for all."""
    return f"at most {max_samples} images, evenly spread" if max_samples else ""


def joined(*parts: str) -> str:
    """The parts that say something, in one line."""
    return "; ".join(part for part in parts if part)
