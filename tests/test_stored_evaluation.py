"""Evaluators on stored embeddings: the same numbers, and no other model's."""

import json
import pathlib
import shutil

import numpy as np
import pyarrow.parquet
import pytest
from command_tools import failure
from embedding_tools import SCENES, embed, run, shards

import clipjax
from clipjax import evaluate, identity, library, registry, stored_evaluation
from clipjax.embeddings.stored import read_embeddings
from clipjax.encoder import Encoder
from clipjax.evals.common.inputs import Inputs
from clipjax.evals.common.stored_rows import StoredRows
from clipjax.types import BadExample, UserError

pytestmark = [pytest.mark.usefixtures("on_one_device"), pytest.mark.thorough]
FLAGS = ("--evals=retrieval",)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a run, `model`, and its embeddings of scenes, `emb`."""
    folder = tmp_path_factory.mktemp("place")
    run(folder).rename(folder / "model")
    outputs = ("embed", "features")
    embed(folder / "model", folder / "emb", outputs=outputs, batch_size=5)
    return folder


@pytest.fixture
def encoded(monkeypatch):
    """Counts what encoders encode."""
    counts = {"images": 0, "texts": 0}
    images, texts = Encoder.images, Encoder.read_texts

    def counted_images(self, variables, examples, indices=None, **options):
        counts["images"] += len(examples if indices is None else indices)
        return images(self, variables, examples, indices, **options)

    def counted_texts(self, variables, given, **options):
        counts["texts"] += len(given)
        return texts(self, variables, given, **options)

    monkeypatch.setattr(Encoder, "images", counted_images)
    monkeypatch.setattr(Encoder, "read_texts", counted_texts)
    return counts


def values(results):
    return {
        f"{label}/{name}": metric.value
        for label, result in results.items()
        for name, metric in result.metrics.items()
    }


def test_the_same_numbers_without_encoding(place, encoded):
    evals = {"evals": "retrieval+zeroshot"}
    data = {"data": "scenes", "data_options": SCENES}
    expected = clipjax.evaluate_model(place / "model", **evals, **data)
    assert encoded["images"] == 10
    prompts = encoded["texts"] - 30  # of its captions
    encoded.update(images=0, texts=0)
    for more in ({}, data):
        found = clipjax.evaluate_model(
            place / "model", embeddings=place / "emb", **evals, **more
        )
        assert values(found) == pytest.approx(values(expected))
        assert found["retrieval"].rows["key"] == expected["retrieval"].rows["key"]
        assert encoded["images"] == 0
    assert encoded["texts"] == 2 * prompts > 0


def test_training_images_are_encoded_beside_stored_ones(place, encoded):
    few = {"max_train_samples": 90, "label_sets": ("shape",)}
    options = {"evals": "knn", "evals_options": {"knn": few}}
    data = {"data": "scenes", "data_options": SCENES}
    expected = clipjax.evaluate_model(place / "model", **options, **data)
    assert encoded["images"] == 10 + 90
    encoded.update(images=0)
    found = clipjax.evaluate_model(place / "model", embeddings=place / "emb", **options)
    assert values(found) == pytest.approx(values(expected))
    assert found["knn"].protocol == expected["knn"].protocol
    assert encoded["images"] == 90


def test_rows_are_of_unit_norm_in_float32(place, tmp_path):
    half = tmp_path / "half"
    embed(place / "model", half, dtype="float16")
    examples = StoredRows(read_embeddings(half), "half").examples([3, 0])
    assert examples.embed.dtype == np.float32
    norms = np.linalg.norm(examples.embed, axis=1)
    np.testing.assert_allclose(norms, 1, atol=1e-6)
    full = read_embeddings(place / "emb").images[[3, 0]]
    np.testing.assert_allclose(examples.embed, full, atol=2e-3)


def test_inputs_take_what_is_stored(place, encoded, tmp_path):
    """A broken image, its facts, pooled features, and texts that are not stored."""
    model, folder = place / "model", shards(tmp_path / "data")
    options = {"data": "webdataset", "data_options": {"path": str(folder)}}
    outputs = ("embed", "features")
    embed(model, tmp_path / "emb", outputs=outputs, **options)
    source = registry.load("data", "webdataset")("val", path=str(folder))
    clip = clipjax.load(model)
    stored = StoredRows(read_embeddings(tmp_path / "emb"), "emb")
    fresh, kept = Inputs(clip.encoder, source), Inputs(clip.encoder, source, stored)
    for inputs in (fresh, kept):
        inputs.need_pooled("image", "text")
        inputs.need_digests()
    order = [5, 4, 0]
    one = fresh.images(clip.variables, order)
    encoded["images"] = 0
    two = kept.images(clip.variables, order)
    assert encoded["images"] == 0
    for name in ("embed", "pooled"):
        np.testing.assert_allclose(
            getattr(two, name), getattr(one, name), rtol=1e-4, atol=1e-5
        )
    assert two.valid.tolist() == one.valid.tolist() == [True, False, True]
    assert two.broken == one.broken and two.keys == one.keys
    assert two.captions == one.captions and two.labels == one.labels
    assert two.digests == one.digests and one.digests[1] == "" != one.digests[0]
    texts = ["a prompt", "two stars 5", "another", "a large red circle 5"]
    for name in ("texts", "pooled_texts"):
        expected = getattr(fresh, name)(clip.variables, texts)
        encoded["texts"] = 0
        seen: list[int] = []
        found = getattr(kept, name)(
            clip.variables, texts, progress=lambda done, _, to=seen: to.append(done)
        )
        assert seen  # a long evaluation shows that it goes on
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        assert encoded["texts"] == (2 if name == "texts" else 0)  # cached then


def test_an_image_that_is_gone_since_has_no_digest(place, monkeypatch):
    source = registry.load("data", "scenes")("val", **SCENES)
    read = type(source).__getitem__

    def gone(self, index):
        if index == 1:
            raise BadExample("is gone")
        return read(self, index)

    monkeypatch.setattr(type(source), "__getitem__", gone)
    clip = clipjax.load(place / "model")
    stored = StoredRows(read_embeddings(place / "emb"), "emb")
    inputs = Inputs(clip.encoder, source, stored)
    assert inputs.images(clip.variables, [0, 1]).digests is None
    inputs.need_digests()
    seen = inputs.images(clip.variables, [0, 1, 2])
    assert seen.broken == {1: ("scenes/val/1", "is gone")}
    assert seen.valid.tolist() == [True, False, True] and not seen.embed[1].any()
    assert [len(digest) for digest in seen.digests] == [32, 0, 32]


def test_features_that_are_not_stored(place, tmp_path):
    embed(place / "model", tmp_path / "emb")
    clip = clipjax.load(place / "model")
    source = registry.load("data", "scenes")("val", **SCENES)
    inputs = Inputs(
        clip.encoder, source, StoredRows(read_embeddings(tmp_path / "emb"), "e")
    )
    with pytest.raises(UserError, match="make it with --outputs embed,features"):
        inputs.need_pooled("image")
    assert not inputs.has_pooled("image")
    assert Inputs(clip.encoder, source).has_pooled("image")


def changed_config(old, new):
    def make(place):
        copied = shutil.copytree(place / "model", pathlib.Path("copy"))
        text = (copied / "config.json").read_text()
        assert old in text
        (copied / "config.json").write_text(text.replace(old, new, 1))
        return [f"--model={copied}"]

    return make


def another_tokenizer(place):
    copied = shutil.copytree(place / "model", pathlib.Path("copy"))
    saved = json.loads((copied / "tokenizer.json").read_text())
    state = json.loads(saved["state"])
    state["words"][0], state["words"][1] = state["words"][1], state["words"][0]
    saved["state"] = json.dumps(state)
    (copied / "tokenizer.json").write_text(json.dumps(saved))
    return [f"--model={copied}"]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (changed_config('"name": "clip"', '"name": "squash"'), "other preprocessing"),
        (changed_config('"heads": 2', '"heads": 1'), "other model settings"),
        (another_tokenizer, "other tokenizer"),
    ],
)
def test_another_model(model, words, place, tmp_path, monkeypatch, capsys, encoded):
    monkeypatch.chdir(tmp_path)
    argv = [*model(place), f"--embeddings={place / 'emb'}", *FLAGS]
    told = failure(capsys, evaluate.main, *argv)
    assert f"--embeddings={place / 'emb'} is of a model with {words} (model, " in told
    assert encoded == {"images": 0, "texts": 0}


def test_other_weights(place):
    parts = library.read(str(place / "model"), "best", True)
    now = identity.identity(*parts[:4])
    stored = read_embeddings(place / "emb")
    source = registry.load("data", "scenes")("val", **SCENES)
    assert now.items() <= stored.header.model.items()
    with pytest.raises(UserError, match="e is of a model with other weights"):
        stored_evaluation.check_stored(
            stored, "e", {**now, "weights": "1"}, None, source
        )


def fewer_rows(folder):
    path = folder / "part-00002-of-00004" / "rows.parquet"
    table = pyarrow.parquet.read_table(path)
    pyarrow.parquet.write_table(table.slice(1), path)


def missing_part(folder):
    shutil.rmtree(folder / "part-00003-of-00004")


@pytest.mark.parametrize(
    ("damage", "flags", "words"),
    [
        (fewer_rows, [], "rows.parquet has 2 rows and its part 3 examples"),
        (missing_part, [], "part-00003-of-00004 of 4 parts missing"),
        (None, ["--data.split=heldout"], "split 'val' there, 'heldout' here"),
        (None, ["--data.eval_size=12"], "10 examples -> 12"),
        (None, ["--data=scenes"], "10 examples -> 32"),
        (None, ["--data=scenes"], "name its data by --data, or if they have changed"),
        (None, ["--interpolate=MODEL"], "leave --interpolate out"),
    ],
)
def test_what_is_refused(damage, flags, words, place, tmp_path, capsys, encoded):
    folder = place / "emb"
    if damage is not None:
        folder = shutil.copytree(folder, tmp_path / "emb")
        damage(folder)
    flags = [flag.replace("MODEL", str(place / "model")) for flag in flags]
    argv = [f"--model={place / 'model'}", f"--embeddings={folder}", *FLAGS, *flags]
    told = failure(capsys, evaluate.main, *argv)
    assert words in told and str(folder) in told
    assert encoded == {"images": 0, "texts": 0}


def test_texts_alone_are_no_images(place, tmp_path, capsys):
    (tmp_path / "texts.txt").write_text("a\nb\n")
    embed(place / "model", tmp_path / "emb", texts=tmp_path / "texts.txt")
    argv = [f"--model={place / 'model'}", f"--embeddings={tmp_path / 'emb'}", *FLAGS]
    assert "of a file of texts" in failure(capsys, evaluate.main, *argv)
