"""What explains a released model near chance, on labels that another setting of the
same weights gives: that setting is right for all of them, the model's own for none.
"""

import io
import itertools
import json

import numpy as np
import pytest
import released_tools
from PIL import Image
from safetensors import numpy

import clipjax
from clipjax import evaluate, results, setup_check
from clipjax.types import Metric

IMAGES = 48
WORDS = [
    " ".join(words)
    for words in itertools.product(
        "ant bat cat dog eel fox gnu".split(), "1 22 333 x yz".split()
    )
]
TEMPLATE = "a {}"


def released(folder):
    """A model of which activations are a large part: hidden values of the blocks are
    near zero, and what the blocks add is large.
    """
    path = released_tools.hf(folder) / "model.safetensors"
    sizes = {"mlp.fc1": 0.1, "mlp.fc2": 100.0}
    tensors = {
        key: np.array(value * sizes.get(key.rpartition(".")[0][-7:], 1.0), np.float32)
        for key, value in numpy.load_file(path).items()
    }
    numpy.save_file(tensors, path)
    return folder


def changed(folder, file, **fields):
    """Other values in one of the folder's files."""
    place = folder / file
    described = json.loads(place.read_text())
    for key, value in fields.items():
        section, _, inner = key.rpartition("__")
        (described[section] if section else described)[inner] = value
    place.write_text(json.dumps(described))
    return folder


@pytest.fixture(scope="module")
def right(tmp_path_factory):
    return clipjax.load(released(tmp_path_factory.mktemp("right") / "model"))


def pictures(count, seed):
    draw = np.random.default_rng(seed)
    small = draw.integers(0, 256, (count, 2, 3, 3), np.uint8)
    return [Image.fromarray(pixels).resize((30, 14)) for pixels in small]


def scores(clip, images, names):
    texts = clip.encode_text([TEMPLATE.format(name) for name in names])
    return clip.encode_image(images) @ texts.T


def balanced(right, count):
    """So many texts, in alphabetical order, each of which fits many pictures best."""
    found = scores(right, pictures(200, 0), WORDS)

    def rarest(some):
        best = found[:, some].argmax(axis=1)
        return np.bincount(best, minlength=count).min()

    some = max(itertools.combinations(range(len(WORDS)), count), key=rarest)
    assert rarest(some) > 10
    return [WORDS[number] for number in some]


@pytest.fixture(scope="module")
def two(right):
    return balanced(right, 2)


@pytest.fixture(scope="module")
def three(right):
    return balanced(right, 3)


def choices(clip, images, names):
    """The class of each image, -1 if a tie decides."""
    found = scores(clip, images, names)
    best = np.sort(found, axis=1)
    return np.where(best[:, -1] - best[:, -2] > 1e-4, found.argmax(axis=1), -1)


def images_where(right, wrong, names):
    """Pictures of which the two models say different classes, and the right ones; of a
    class that has none, one of which they say the same.
    """
    images, labels, same = [], [], {}
    for seed in range(1, 60):
        some = pictures(200, seed)
        one, other = (choices(clip, some, names) for clip in (right, wrong))
        taken = np.flatnonzero((one != other) & (one >= 0) & (other >= 0))
        images += [some[place] for place in taken]
        labels += one[taken].tolist()
        same |= zip(one.tolist(), some, strict=True)
        if len(images) >= IMAGES:
            images, labels = images[:IMAGES], labels[:IMAGES]
            rest = [number for number in range(len(names)) if number not in labels]
            return images + [same[number] for number in rest], labels + rest
    raise AssertionError(f"only {len(images)} images differ")


def written(folder, images, labels):
    """The pictures as an image folder, a class each."""
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        place = folder / "test" / f"{label}"
        place.mkdir(parents=True, exist_ok=True)
        stream = io.BytesIO()
        image.save(stream, "PNG")
        (place / f"{number}.png").write_bytes(stream.getvalue())
    return folder


def evaluated(model, data, names, tmp_path, *more):
    """What `evaluate` keeps."""
    file = tmp_path / "names.json"
    file.write_text(json.dumps(names))
    argv = [
        *("evaluate", f"--model={model}", "--evals=zeroshot", "--data=imagefolder"),
        *(f"--data.path={data}", "--data.split=test", f"--out={tmp_path / 'out'}"),
        f"--evals.zeroshot.templates=('{TEMPLATE}',)",
        f"--evals.zeroshot.class_names_file={file}",
        *more,
    ]
    assert evaluate.main(argv) == 0
    return results.read(tmp_path / "out")


WRONG = {
    "activation": (
        ("config.json", {"vision_config__hidden_act": "gelu"}),
        "quick_gelu in the image tower",
    ),
    "constants": (
        (
            "preprocessor_config.json",
            {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]},
        ),
        "CLIP's mean and std of pixels",
    ),
    "preprocess": (
        (
            "preprocessor_config.json",
            {
                "do_center_crop": False,
                "size": {"height": released_tools.SIZE, "width": released_tools.SIZE},
            },
        ),
        "preprocess=clip",
    ),
}


@pytest.mark.thorough
@pytest.mark.parametrize("kind", WRONG)
def test_a_setting_that_the_files_have_wrong(kind, right, two, tmp_path, capsys):
    (file, fields), words = WRONG[kind]
    folder = changed(released(tmp_path / "model"), file, **fields)
    images, labels = images_where(right, clipjax.load(folder), two)
    data = written(tmp_path / "data", images, labels)
    found = evaluated(folder, data, two, tmp_path)
    printed = capsys.readouterr().out
    assert found.results["zeroshot"].metrics["class/top1"].value < 0.05
    assert "zeroshot is near chance, " in printed
    assert f" on a few images: with {words} it is 100.0 % [92." in printed
    assert setup_check._FIXES[kind] in printed
    kept = found.meta["setup_check"]
    assert kept["trials"][words]["value"] == 1
    assert kept["as it is"]["value"] < 0.05 and kept["evaluator"] == "zeroshot"


@pytest.mark.thorough
def test_class_names_in_another_order(right, three, tmp_path, capsys):
    images = pictures(200, 1)
    said = choices(right, images, three)
    kept = [place for place in range(len(images)) if said[place] >= 0]
    data = written(
        tmp_path / "data", [images[i] for i in kept], [(said[i] + 1) % 3 for i in kept]
    )
    folder = released(tmp_path / "model")
    found = evaluated(folder, data, three, tmp_path)
    printed = capsys.readouterr().out
    assert found.results["zeroshot"].metrics["class/top1"].value == 0
    words = "with another order of the class names, which half of the images show it is"
    assert f"{words} 100.0 %" in printed
    assert setup_check._FIXES["order"] in printed


@pytest.mark.thorough
def test_nothing_explains_random_labels(three, tmp_path, capsys):
    images, draw = pictures(120, 2), np.random.default_rng(3)
    labels = draw.permutation(np.arange(120) % 3)
    data = written(tmp_path / "data", images, labels)
    evaluated(released(tmp_path / "model"), data, three, tmp_path)
    printed = capsys.readouterr().out
    kinds = "(activation, constants for pixels, resize, order of class names)"
    assert "is near chance" not in printed or f"{kinds} explains it" in printed


@pytest.mark.thorough
def test_a_check_that_fails_loses_no_evaluation(three, tmp_path, capsys, monkeypatch):
    images = pictures(60, 2)
    data = written(tmp_path / "data", images, np.arange(60) % 3)
    monkeypatch.setattr(setup_check, "near_chance", lambda metric: True)

    def fail(*args):
        raise MemoryError("no room\nleft")

    monkeypatch.setattr(setup_check, "try_others", fail)
    found = evaluated(released(tmp_path / "model"), data, three, tmp_path)
    printed = capsys.readouterr().out
    assert "other settings could not be tried: MemoryError: no room left\n" in printed
    assert found.results["zeroshot"].metrics["class/top1"].n == 60


@pytest.mark.thorough
def test_retrieval_with_copies(tmp_path, capsys):
    """What other evaluators and protocols ask of the images is not asked again."""
    argv = [
        *("evaluate", f"--model={released_tools.hf(tmp_path / 'm')}", "--data=scenes"),
        *("--evals=retrieval", "--evals.retrieval.same_image=True"),
        *("--data.size=64", "--data.eval_size=64", "--data.resolution=16"),
        f"--out={tmp_path / 'o'}",
    ]
    assert evaluate.main(argv) == 0
    printed = capsys.readouterr().out
    assert "(activation, constants for pixels, resize) explains it" in printed


@pytest.mark.parametrize(
    ("value", "chance", "n", "near"),
    [
        (0.02, 0.01, 5000, True),
        (0.0594, 0.01, 5000, True),
        (0.06, 0.01, 5000, False),
        (0.5, 0.5, 32, True),
        (0.3, None, 500, False),
    ],
)
def test_near_chance(value, chance, n, near):
    metric = Metric(value, chance, "fraction", n=n)
    assert setup_check.near_chance(metric) is near


def rows_of(label, prediction):
    return {"label_set": ["class"] * len(label), "label": label} | {
        "prediction": prediction
    }


def test_orders_by_hand():
    """Classes 0 to 2 are called c, a, b; the labels are those of a, b, c."""
    names = ["c", "a", "b"]
    label = np.array([0, 1, 2, 0, 1, 2])
    prediction = np.array([1, 2, 0, 1, 2, 1])  # the names a b c a b a
    rows = rows_of(label, prediction)
    found = {x.setting: x.metric.value for x in setup_check._orders(rows, names)}
    assert found["the class names in alphabetical order"] == pytest.approx(5 / 6)
    assert found["labels that lag by 1"] == pytest.approx(4 / 6)
    assert len(found) == 4  # too few images to fit an order


def test_an_order_explains_no_model_that_always_says_the_same():
    label = np.array([0] * 20 + [1] * 80)
    for said in (0, -1):
        trials = setup_check._orders(rows_of(label, np.full(100, said)), ["b", "a"])
        base = Metric(0.2, 0.5, "fraction", low=0.1, high=0.3)
        (line,) = setup_check.told("zeroshot", base, trials)
        assert line.endswith("(order of class names) explains it")
