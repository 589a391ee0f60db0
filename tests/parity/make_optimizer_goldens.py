"""Writes tests/optim/torch_steps.json: what PyTorch's optimizers and schedules do.

    python tests/parity/make_optimizer_goldens.py

Needs the parity extra. To be run when a case is added, never because our optimizers
changed.
"""

from __future__ import annotations

import json
import pathlib

import torch_optimizers

PATH = pathlib.Path(__file__).parents[1] / "optim" / "torch_steps.json"


def main() -> None:
    cases = {}
    for name, (_, _, options) in torch_optimizers.CASES.items():
        cases[name] = {"options": options, "after": torch_optimizers.run(name)}
    keys = torch_optimizers.START
    gradients = [
        {key: torch_optimizers.gradient(key, step) for key in keys}
        for step in range(torch_optimizers.STEPS)
    ]
    section = {"lr": torch_optimizers.LR, "weight_decay": torch_optimizers.DECAY}
    golden = {
        "section": section,
        "start": torch_optimizers.START,
        "gradients": gradients,
        "cases": cases,
        "rates": {
            name: {"options": options, "rates": torch_optimizers.rates(name)}
            for name, (*_, options) in torch_optimizers.SCHEDULES.items()
        },
    }
    PATH.write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
