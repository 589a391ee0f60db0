import json

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.engine import step_program


def compiled():
    def step(state, batch):
        return state + batch["x"].T @ jnp.tanh(batch["x"] @ state)

    state, batch = jnp.ones((64, 64)), {"x": np.ones((128, 64), np.float32)}
    return jax.jit(step, donate_argnums=0).lower(state, batch).compile(), batch


def test_numbers_are_those_of_the_program():
    program = step_program.describe(*compiled(), 1)
    assert program.state == 4 * 64 * 64 and program.batch == 4 * 128 * 64
    # Two products of matrices, and a few operations per element.
    products = 2 * 2 * 128 * 64 * 64
    assert products <= program.flops < 1.05 * products
    # The first product's result lies somewhere.
    assert 4 * 128 * 64 <= program.temporaries < 10 * 4 * 128 * 64


def test_the_file_gets_the_peak_at_the_end(tmp_path):
    ended = step_program.record(tmp_path, *compiled(), 1)
    path = tmp_path / "program.json"
    assert json.loads(path.read_text())["peak"] is None
    ended()
    peak = json.loads(path.read_text())["peak"]
    assert 50 * 2**20 < peak < 100 * 2**30  # a process with jax takes more than that
