"""A run that clipjax saved before its modules moved still loads and goes on."""

import json
import pathlib
import tarfile

import config_tiny
import numpy as np
import pytest

import clipjax
import run_tools

# The config below, stopped after step 2 of 4 (clipjax of November 2026, jax 0.10.2
# on a CPU); its embeddings then, and what the loss was at step 4.
GOLDENS = pathlib.Path(__file__).with_name("goldens")
EXPECTED = json.loads((GOLDENS / "saved_run.json").read_text())


@pytest.fixture
def saved(tmp_path):
    with tarfile.open(GOLDENS / "saved_run.tar.gz") as file:
        file.extractall(tmp_path, filter="data")
    return tmp_path / "run"


def test_it_loads(saved):
    clip = clipjax.load(str(saved))
    texts = clip.encode_text(EXPECTED["texts"])
    np.testing.assert_allclose(texts, EXPECTED["text_embed"], rtol=1e-4, atol=1e-5)
    picture = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)
    image = clip.encode_image([picture])
    np.testing.assert_allclose(image, EXPECTED["image_embed"], rtol=1e-4, atol=1e-5)


@pytest.mark.thorough
def test_it_goes_on(saved, tmp_path):
    config = config_tiny.get_config("evals=none")
    config.train.steps, config.train.val_batches = 4, 0
    config.checkpoint.every = 2
    config.model.image.width = config.model.text.width = 16
    config.optim.lr = 1e-3
    with run_tools.one_device():
        said = run_tools.train(config, saved)
    assert said.resumed == 2 and said.outcome.step == 4
    loss = dict(run_tools.rows(saved))[4]
    np.testing.assert_allclose(loss, EXPECTED["loss_at_4"], rtol=1e-3)
