"""The synthetic image-text-audio source, and how its audio gets into batches."""

import dataclasses
import pickle

import numpy as np
import pytest

from clipjax import registry
from clipjax.data.batching import pipeline
from clipjax.data.sources import multimodal
from clipjax.data.tokenizers import words
from clipjax.types import Source, UserError


@pytest.fixture(scope="module")
def source():
    return multimodal.make("train")


def test_an_example_is_a_function_of_seed_and_index(source):
    assert isinstance(source, Source)
    assert len(source) == 2000 and len(multimodal.make("val")) == 500
    later = source[7]
    copy = pickle.loads(pickle.dumps(source))
    for other in (copy, multimodal.make("train", size=8)):
        again = other[7]
        np.testing.assert_array_equal(again.image, later.image)
        np.testing.assert_array_equal(again.others["audio"], later.others["audio"])
        assert (again.captions, again.labels) == (later.captions, later.labels)
        assert other.captions_of(7) == later.captions
    seen = {
        np.asarray(multimodal.make(split, seed=seed)[7].image).tobytes()
        for split in multimodal.SPLITS
        for seed in (0, 1)
    }
    assert len(seen) == 4
    for index in (-1, 2000):
        with pytest.raises(IndexError):
            source[index]


def test_pixels_and_audio_show_the_class(source):
    x, y = np.meshgrid(np.arange(64), np.arange(64))
    for i in range(40):
        example = source[i]
        c = example.labels["class"]
        assert example.image.shape == (64, 64, 3) and example.image.dtype == np.uint8
        expected = (
            0.3
            * np.sin(x * (c + 1) * 2 * np.pi / 63)
            * np.cos(y * (c + 1) * 2 * np.pi / 63)
        )
        channels = [np.clip(expected + 0.8 * (k == c % 3), 0, 1) for k in range(3)]
        residue = example.image / 255 - np.stack(channels, axis=-1)
        inside = (example.image > 0) & (example.image < 255)
        assert abs(residue[inside].mean()) < 0.03
        assert 0.05 < residue.std() < 0.11
        audio = example.others["audio"]
        assert audio.shape == (64, 64) and audio.dtype == np.float32
        assert 0 <= audio.min() and audio.max() <= 1
        waves = 0.5 * (np.sin(3 * y * (c + 1) / 10) + np.cos(3 * x * (c + 1) / 15))
        assert np.corrcoef(waves.ravel(), audio.ravel())[0, 1] > 0.9


@pytest.mark.thorough
def test_captions_are_the_class_with_a_fifth_of_noise(source):
    kept, classes, words_seen = [], [], set()
    for i in range(len(source)):
        (caption,) = source.captions_of(i)
        numbers = [int(word[1:]) for word in caption.split()]
        assert len(numbers) == 16 and max(numbers) < 1000
        prototypes = [name.split() for name in source.class_names["class"]]
        same = [
            np.mean([a == b for a, b in zip(p, caption.split(), strict=True)])
            for p in prototypes
        ]
        classes.append(int(np.argmax(same)))
        kept.append(max(same))
        words_seen |= set(numbers)
        if i < 20:
            assert source[i].labels["class"] == classes[-1]
    assert abs(np.mean(kept) - (0.8 + 0.2 / 1000)) < 0.01
    assert min(np.bincount(classes, minlength=10)) > 140  # 200 each on average
    assert len(words_seen) > 990
    for c, name in enumerate(source.class_names["class"]):
        assert {int(word[1:]) // 10 for word in name.split()} == {c}
    assert source.class_names == multimodal.make("val").class_names


def test_a_word_tokenizer_reads_the_captions(source):
    made = words.make(
        lambda: pipeline.captions(source), None, vocab_size=1000, context_length=32
    )
    assert made.vocab_size == 1000
    ids, mask = made([source.captions_of(0)[0], *source.class_names["class"]])
    assert mask.sum(axis=1).tolist() == [18] * 11  # with start and end
    assert (ids[1:] != words.UNKNOWN).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"split": "test"}, "use train, val"),
        ({"size": 0}, "size=0"),
        ({"seed": -1}, "seed=-1"),
        ({"resolution": 0}, "resolution=0"),
    ],
)
def test_mistakes_are_named(options, said):
    with pytest.raises(UserError, match=said):
        multimodal.make(**{"split": "train", **options})


class Some:
    """The source with something done to the audio of some examples."""

    def __init__(self, source, change):
        self.change = change
        self.source = source
        self.max_captions, self.caption_counts = 1, source.caption_counts
        self.class_names, self.templates = source.class_names, source.templates

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        example = self.source[index]
        others = self.change(index, example.others)
        return dataclasses.replace(example, others=others)


def batch_of(source):
    batches = pipeline.train_batches(
        source,
        None,
        registry.load("augment", "none")(16),
        seed=0,
        global_batch=8,
        start_step=0,
        threads=0,
    )
    try:
        return next(batches)
    finally:
        batches.close()


def test_batches_hold_the_other_modalities():
    source = multimodal.make("train", size=32, resolution=16)
    batch = batch_of(source)
    assert batch["audio"].shape == (8, 64, 64) and batch["audio"].dtype == np.float32
    for row, index in enumerate(batch["image_id"]):
        example = source[int(index)]
        np.testing.assert_array_equal(batch["audio"][row], example.others["audio"])
        assert batch["label"][row] == example.labels["class"]

    def absent(index, others):
        here = np.bool_(index % 2)
        return {"audio": others["audio"] * here, "audio_present": here}

    batch = batch_of(Some(source, absent))
    odd = batch["image_id"] % 2 == 1
    np.testing.assert_array_equal(batch["audio_present"], odd)
    np.testing.assert_array_equal(batch["audio"].any(axis=(1, 2)), odd)


@pytest.mark.parametrize(
    "change",
    [
        lambda index, others: others if index % 2 else {},
        lambda index, others: {"audio": others["audio"][: 8 + index % 2]},
    ],
)
def test_examples_must_agree_on_the_others(change):
    source = multimodal.make("train", size=32, resolution=16)
    with pytest.raises(UserError, match="'audio'.*same shape"):
        batch_of(Some(source, change))
