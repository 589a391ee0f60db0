"""Ratios between the measurements of several parts."""

from __future__ import annotations

from typing import Any


def add(parts: dict[str, Any]) -> None:
    """Adds each rate's share of the bfloat16 peak, and clipjax / transformers."""
    peak = _at(parts, "peaks", "bfloat16", "tflops")
    for part in parts.values():
        for value in part.get("results", {}).values():
            if isinstance(value, dict) and "model_tflops" in value and peak:
                value["share_of_bfloat16_peak"] = round(value["model_tflops"] / peak, 4)
    theirs = parts.get("transformers", {}).get("results", {})
    sizes = {_result(parts, name, "parameters") for name in ("step", "transformers")}
    if len(sizes) > 1:  # the models differ
        return
    for value in theirs.values():
        if isinstance(value, dict) and "images_per_second" in value:
            same = f"batch_{value['batch']}"
            if ours := _at(parts, "step", same, "images_per_second"):
                ratio = ours / value["images_per_second"]
                value["clipjax_over_it"] = round(ratio, 3)


def _at(parts: dict[str, Any], part: str, result: str, key: str) -> float | None:
    value = _result(parts, part, result)
    return value.get(key) if isinstance(value, dict) else None


def _result(parts: dict[str, Any], part: str, name: str) -> Any:
    return parts.get(part, {}).get("results", {}).get(name)
