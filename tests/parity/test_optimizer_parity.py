"""The golden steps and rates against the PyTorch that is installed."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import torch_optimizers  # noqa: E402

pytestmark = pytest.mark.parity

GOLDEN = pathlib.Path(__file__).parents[1] / "optim" / "torch_steps.json"


def stored(part, name):
    return json.loads(GOLDEN.read_text(encoding="utf-8"))[part][name]


@pytest.mark.parametrize("name", torch_optimizers.CASES)
def test_golden_steps_are_pytorchs(name):
    golden = stored("cases", name)["after"]
    for key, value in torch_optimizers.run(name).items():
        np.testing.assert_allclose(value, golden[key], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", torch_optimizers.SCHEDULES)
def test_golden_rates_are_pytorchs(name):
    golden = stored("rates", name)["rates"]
    np.testing.assert_allclose(torch_optimizers.rates(name), golden, rtol=1e-9)
