"""The first commands of docs/fine_tuning.md, with each layout of released weights."""

import dataclasses

import documented
import numpy as np
import pytest
import released_tools
import test_documented_commands as commands

import clipjax
import run_tools
from clipjax import results

PIECES = [p for p in documented.pieces("docs/fine_tuning.md") if p.block == 0]
PLACE = "clip-vit-base-patch32/"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("form", released_tools.FORMS)
def test_from_released_weights_to_a_tuned_model_and_back(form, tmp_path, monkeypatch):
    model = str(released_tools.FORMS[form](tmp_path / "given"))
    assert sum(PLACE in piece.command for piece in PIECES) == 2
    with run_tools.one_device(), commands.reader_at(tmp_path, monkeypatch):
        for piece in PIECES:
            command = piece.command.replace(PLACE, model)
            commands.execute(dataclasses.replace(piece, command=command), None)
        given, tuned, exported = map(clipjax.load, (model, "runs/tuned", "tuned"))
        image, texts = np.arange(300, dtype=np.uint8).reshape(10, 10, 3), ["a", "a b"]
        similarity = tuned.similarity(image, texts)
        np.testing.assert_allclose(
            exported.similarity(image, texts), similarity, atol=1e-5
        )
        assert exported.logit_scale == pytest.approx(tuned.logit_scale)
        assert np.abs(given.similarity(image, texts) - similarity).max() > 1e-6
        # The exported model's results are the tuned one's.
        (run,) = results.folders("runs/tuned")
        released = [at for at in results.folders(".") if at.name.startswith("tuned")]
        one, other = (results.read(at).rows("zeroshot") for at in (run, *released))
        assert one["prediction"].tolist() == other["prediction"].tolist()
