"""evals=corruptions against its measure on images that are corrupted beforehand."""

import dataclasses

import numpy as np
import pytest
from evals_tools import Data, Words

from clipjax.data.class_lists import Classes
from clipjax.data.images import imagenet_c
from clipjax.encoder import Encoder
from clipjax.evals import classification, corruptions, retrieval, zeroshot
from clipjax.evals.common.inputs import Inputs
from clipjax.types import BadExample, Example, UserError

SIDE, COUNT, WIDTH, BROKEN = 8, 14, 6, 4
KINDS = ("gaussian_noise", "pixelate")
LEVELS = (2, 5)
NAMES = ("disc", "star", "bar")
CAPTIONS = [f"caption {i}" for i in range(3 * COUNT)]


class Linear:
    """A model whose embedding is linear in the pixels, so that corruption moves it."""

    def __init__(self, output="image_embed"):
        self.image_output = output

    def encode_image(self, variables, image):
        flat = image.reshape(len(image), -1).astype("float32") / 255 - 0.5
        rows = flat @ variables["params"]["image"]
        if self.image_output == "image_embed":
            rows = rows / (rows**2).sum(-1, keepdims=True) ** 0.5
        return {self.image_output: rows}

    def encode_text(self, variables, text, mask):
        return {"text_embed": variables["params"]["text"][text[:, 0]]}


class Counting(Words):
    """And counts the texts that are tokenised."""

    count = 0

    def __call__(self, texts):
        self.count += len(texts)
        return super().__call__(texts)


def variables(output="image_embed"):
    """Random ones."""
    rng = np.random.default_rng(1)
    image = rng.normal(size=(SIDE * SIDE * 3, 3 if output == "logits" else WIDTH))
    text = rng.normal(size=(1 + len(CAPTIONS) + len(NAMES), WIDTH))
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    return {
        "params": {"image": image.astype(np.float32), "text": text.astype(np.float32)}
    }


def examples(alter=None):
    """COUNT examples of one to three captions, one of them broken.

    alter: what changes the images, by their keys.
    """
    rng = np.random.default_rng(0)
    made = []
    for i in range(COUNT):
        image = rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        key = f"image {i}"
        changed = image if alter is None else alter(key, image)
        changed = b"broken" if i == BROKEN else changed
        own = CAPTIONS[3 * i : 3 * i + 1 + i % 3]
        made.append(Example(changed, own, {"shape": i % 3}, key))
    return made


def preprocess(image):
    if isinstance(image, bytes):
        raise BadExample("cannot be decoded")
    return image


def inputs_of(made, output="image_embed", **options):
    model = Linear(output)
    encoder = Encoder(
        model,  # type: ignore[arg-type]
        Counting(CAPTIONS + list(NAMES)),  # type: ignore[arg-type]
        preprocess,
        classes=Classes(NAMES) if output == "logits" else Classes(),
        **{"batch_size": 4, **options},
    )
    return Inputs(encoder, Data(made, {"shape": NAMES}, {"shape": ("{}",)}))


MAKERS = {
    "zeroshot": zeroshot.make,
    "classification": classification.make,
    "retrieval": retrieval.make,
}


@pytest.fixture(scope="module", params=MAKERS)
def measured(request):
    """The measure's name, the result of corruptions, and the measure's own: of the
    clean images, and by corruption.
    """
    of = request.param
    output = "logits" if of == "classification" else "image_embed"
    values = variables(output)
    evaluator = corruptions.make(
        inputs_of(examples(), output), of=of, kinds=KINDS, severities=LEVELS, seed=3
    )
    alone = {}
    for kind, severity in [("", 0), *evaluator.corruptions]:

        def alter(key, image, kind=kind, severity=severity):
            if not kind:
                return image
            rng = imagenet_c.generator(3, kind, severity, key)
            return imagenet_c.corrupt(image, kind, severity, rng)

        made = inputs_of(examples(alter), output)
        alone[kind, severity] = MAKERS[of](made, ks=(1,)).run(values)
    return of, evaluator.run(values), alone


def test_metrics_are_means_of_the_measures_own(measured):
    _, result, alone = measured
    values = {key: one.metrics[one.primary].value for key, one in alone.items()}
    clean = values.pop(("", 0))

    def check(name, expected):
        assert result.metrics[name].value == pytest.approx(expected), name

    check("clean", clean)
    check("corrupted", np.mean(list(values.values())))
    for kind in KINDS:
        own = np.mean([values[kind, level] for level in LEVELS])
        check(kind, own)
        check(f"{kind}/relative_drop", 100 * (1 - own / clean))
    for level in LEVELS:
        check(f"severity_{level}", np.mean([values[kind, level] for kind in KINDS]))
    check("relative_drop", 100 * (1 - np.mean(list(values.values())) / clean))
    assert len(set(values.values())) > 2  # corruptions differ
    assert result.primary == "corrupted" and result.broken == 1


def test_the_clean_metric_has_the_measures_interval(measured):
    _, result, alone = measured
    own = alone["", 0].metrics[alone["", 0].primary]
    clean = result.metrics["clean"]
    assert (clean.low, clean.high) == pytest.approx((own.low, own.high))
    assert (clean.n, clean.chance) == (own.n, pytest.approx(own.chance))
    # Several corruptions of the same images tell more than one, at most as many times.
    for name, metric in result.metrics.items():
        if metric.unit == "fraction":
            assert metric.low < metric.value < metric.high, name
            assert metric.n == clean.n


def test_a_row_per_image_whose_mean_is_the_metric(measured):
    of, result, _ = measured
    assert result.rows["key"] == [f"image {i}" for i in range(COUNT) if i != BROKEN]
    means = {name: x for name, x in result.metrics.items() if x.unit == "fraction"}
    assert set(result.rows) == {"key", *means}
    for name, metric in means.items():
        assert result.rows[name].mean() == pytest.approx(metric.value)
    if of != "retrieval":
        assert set(result.rows["clean"]) <= {0.0, 1.0}


def test_protocol_and_size(measured):
    of, result, alone = measured
    assert result.protocol.startswith(f"{of} ")
    for part in ("8 x 8 pixels", *KINDS, "severity 2, 5", "seed 3"):
        assert part in result.protocol
    assert result.protocol.endswith(alone["", 0].protocol)
    primary = alone["", 0].primary
    assert result.size == (
        f"{of} {primary} of {alone['', 0].size}; kinds of corruption: 2, severities: 2"
    )


def test_order_batches_and_other_images_change_nothing():
    values = variables()

    def rows(**options):
        more = {x: options.pop(x) for x in ("batch_size", "threads") if x in options}
        options = {"kinds": KINDS, "severities": LEVELS} | options
        made = corruptions.make(inputs_of(examples(), **more), **options)
        found = made.run(values).rows
        columns = np.column_stack([found[kind] for kind in KINDS]).tolist()
        return dict(zip(found["key"], columns, strict=True))

    first = rows(batch_size=5, threads=1)
    reverse = rows(batch_size=3, threads=3, kinds=KINDS[::-1], severities=LEVELS[::-1])
    assert reverse == first
    some = rows(max_samples=7)
    assert 4 < len(some) < COUNT / 2 + 1 and some.items() <= first.items()
    assert rows(seed=1) != first


def test_texts_are_encoded_once():
    alone, made = inputs_of(examples()), inputs_of(examples())
    zeroshot.make(alone, ks=(1,)).run(variables())
    corruptions.make(made, kinds=KINDS).run(variables())
    counts = [one.encoder._tokenizer.count for one in (alone, made)]  # type: ignore
    assert counts[0] == counts[1] > 0


def test_images_of_one_key_are_told_apart():
    made = [dataclasses.replace(one, key="same") for one in examples()]
    result = corruptions.make(inputs_of(made), kinds=("contrast",)).run(variables())
    assert result.rows["key"] == ["same"] * (COUNT - 1)
    assert result.metrics["clean"].n == COUNT - 1


def test_an_image_that_breaks_later_is_named():
    made = inputs_of(examples())
    evaluator = corruptions.make(made, kinds=("fog",))
    values = variables()
    made.images(values, list(range(COUNT)))
    lost = dataclasses.replace(made.source.examples[2], image=b"broken")
    made.source.examples[2] = lost
    with pytest.raises(UserError, match="image 2 .*cannot be read again"):
        evaluator.run(values)


def test_nothing_right_and_nothing_lost():
    values = variables()
    values["params"]["text"][-3:] = np.nan
    none = corruptions.make(inputs_of(examples()), kinds=("fog",)).run(values)
    assert none.metrics["corrupted"].value == 0
    assert np.isnan(none.metrics["relative_drop"].value)
    # A model that is blind to the image loses nothing, and the interval says how far.
    values = variables()
    values["params"]["image"][:] = 1
    one_class = [dataclasses.replace(one, labels={"shape": 0}) for one in examples()]
    values["params"]["text"][-3:] = [[1] * 6, [-1] * 6, [0] * 6]
    dark = [
        dataclasses.replace(one, image=np.full((SIDE, SIDE, 3), 255, np.uint8))
        for one in one_class
    ]
    same = corruptions.make(inputs_of(dark), kinds=("pixelate",)).run(values)
    drop = same.metrics["relative_drop"]
    assert drop.value == 0 and drop.low < -5 and drop.high > 5


def test_the_cost_is_said_before():
    evaluator = corruptions.make(inputs_of(examples()), severities=(1, 2))
    assert evaluator.cost() == (
        "reads, corrupts and encodes 14 images 24 times more (12 kinds x 2 "
        "severities): 336 images"
    )


def test_a_long_evaluation_says_its_time(caplog, monkeypatch):
    monkeypatch.setattr(corruptions, "_LONG", 0)
    evaluator = corruptions.make(inputs_of(examples()), severities=(1,))
    values = variables()
    evaluator.run(values)
    evaluator.run(values)
    lines = [one.message for one in caplog.records if "corruptions" in one.name]
    assert len(lines) == 1 and "156 corrupted images take about" in lines[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"of": "probe"}, "must be one of zeroshot, classification, retrieval"),
        ({"of": "classification"}, "this model is no classifier"),
        ({"kinds": ("snow",)}, "kinds='snow': must be one of gaussian_noise"),
        ({"kinds": ("fog", "fog")}, "names one twice"),
        ({"severities": (0,)}, "numbers from 1 to 5"),
        ({"severities": ()}, "numbers from 1 to 5"),
        ({"seed": -1}, "from 0 on"),
        ({"max_samples": -1}, "from 0 on"),
        ({"of": "retrieval", "templates": ("{}",)}, "templates=.* is of zeroshot"),
        ({"label_sets": ("shap",)}, "no label set 'shap'"),
    ],
)
def test_bad_options_are_one_line(options, message):
    with pytest.raises(UserError, match=message) as error:
        corruptions.make(inputs_of(examples()), **options)
    assert "\n" not in str(error.value)


def test_a_classifier_is_measured_as_one():
    made = inputs_of(examples(), "logits")
    assert corruptions.make(made).of == "classification"
    with pytest.raises(UserError, match="this model is a classifier"):
        corruptions.make(made, of="zeroshot")


def test_data_without_labels_are_measured_by_retrieval():
    made = inputs_of(examples())
    made.source.class_names = {}
    assert corruptions.make(made).of == "retrieval"


def test_stored_embeddings_are_refused():
    made = inputs_of(examples())
    stored = Inputs(made.encoder, made.source, stored=object())  # type: ignore
    with pytest.raises(UserError, match="stored embeddings have none: leave out"):
        corruptions.make(stored)
