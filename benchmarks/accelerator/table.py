"""Formats the JSON's content as a short table."""

from __future__ import annotations

from typing import Any

COLUMNS = (
    ("images_per_second", "{:,.0f} images/s"),
    ("per_second", "{:,.0f}/s"),
    ("tflops", "{:,.1f} TFLOP/s"),
    ("gb_per_second", "{:,.0f} GB/s"),
    ("share_of_bfloat16_peak", "{:.1%} of bf16 peak"),
    ("ms", "{:,.3f} ms"),
    ("xla_over_cudnn", "xla/cudnn {:.2f}"),
    ("clipjax_over_it", "clipjax/it {:.2f}"),
    ("peak_bytes", "peak {:.2e} B"),
    ("temporary_bytes", "temporary {:.2e} B"),
    ("compile_seconds", "compiled in {:.0f} s"),
    ("idle_share", "idle {:.2%}"),
    ("recall", "R@1 {:.1%}"),
    ("step", "step {}"),
    ("error", "{:.90}"),
)


def table(found: dict[str, Any]) -> str:
    lines = []
    for name, part in found["parts"].items():
        why = part.get("error") or part.get("reason") or ""
        took = f"{part['seconds']:.0f} s" if "seconds" in part else ""
        lines.append(f"{name:14} {part['status']} {took} {why}".rstrip())
        for label, value in part.get("results", {}).items():
            text = _line(value) if isinstance(value, dict) else str(value)
            lines.append(f"  {label:20} {text}")
    return "\n".join(lines)


def _line(value: dict[str, Any]) -> str:
    numbers = [
        form.format(value[key])
        for key, form in COLUMNS
        if value.get(key) is not None and not isinstance(value[key], dict)
    ]
    inner = [f"{k} {_line(v)}" for k, v in value.items() if isinstance(v, dict)]
    return ", ".join(numbers + inner)
