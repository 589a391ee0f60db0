"""The table of docs/optimizers.md says what the code does."""

import pathlib
import re

import jax
import jax.numpy as jnp
import pytest
from marks import mostly

from clipjax import config, registry
from clipjax.optim import factory

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "optimizers.md"
ROWS = {
    cells[0].strip("` "): [cell.strip() for cell in cells]
    for line in PAGE.read_text(encoding="utf-8").splitlines()
    if line.startswith("| `") and "=`" not in (cells := line[1:-1].split("|"))[0]
}
MATRIX = {"kernel": jax.ShapeDtypeStruct((512, 512), jnp.float32)}


def test_every_optimizer_and_schedule_has_a_row():
    names = {*registry.names("optim"), *registry.names("schedule")}
    assert names == {name for name in ROWS if not name.endswith("+")}
    wrappers = {name.rstrip("+") for name in ROWS if name.endswith("+")}
    assert wrappers == set(registry.wrappers("optim"))


@pytest.mark.parametrize("name", mostly(registry.names("optim"), ["adamw", "soap"]))
def test_a_rows_numbers(name):
    *_, memory, lr, weight_decay, kind = ROWS[name]
    section = config.base(f"optim={name}").optim
    assert (float(lr), float(weight_decay)) == (section.lr, section.weight_decay)
    tx = factory.make(section, 1000, 100, MATRIX).tx
    state = jax.tree.leaves(jax.eval_shape(tx.init, MATRIX))
    floats = sum(leaf.size * leaf.dtype.itemsize for leaf in state) / 4 / 512**2
    assert round(floats) == float(memory)
    text = registry.load("optim", name).__doc__ or ""
    meant = "times the learning rate" in text or "times the estimated" in text
    assert meant == (kind in ("decoupled", "times the estimated rate"))


@pytest.mark.parametrize("name", registry.names("schedule"))
def test_a_schedules_options(name):
    told = {*re.findall(r"`(\w+)`", ROWS[name][-1])}
    known = {*registry.options(registry.load("schedule", name))}
    assert told == known - {"warmup", "warmup_start"}
