"""The library object: forms of items, sizes, errors, threads, pickling, gradients."""

import copy
import dataclasses
import io
import itertools
import pathlib
import pickle
import tarfile
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizer_tools
from encoder_tools import (
    Counted,
    Letters,
    Sums,
    expected_embed,
    make_encoder,
    make_pictures,
    make_variables,
    png_bytes,
)
from PIL import Image
from weights_tools import write_hf

import clipjax
from clipjax import batch_sizes
from clipjax.encoder import Encoder
from clipjax.loaded import Loaded

SAVED = pathlib.Path(__file__).parent / "scenarios" / "goldens" / "saved_run.tar.gz"
SIDE = 16


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    with tarfile.open(SAVED) as file:
        file.extractall(folder, filter="data")
    return folder / "run"


@pytest.fixture(scope="module")
def clip(run):
    return clipjax.load(run)


@pytest.fixture(scope="module")
def linear():
    """Whose embeddings a test computes itself."""
    return linear_model()


def linear_model(**options):
    made = make_encoder(batch_size=8, few_sizes=True, **options)
    return Loaded(None, Sums(), make_variables(), Letters(), lambda x: x, made, 0)


def pictures(count, side=SIDE, seed=0):
    draw = np.random.default_rng(seed)
    return draw.integers(0, 256, (count, side, side, 3), np.uint8)


def captions(count):
    """From one word to twelve."""
    words = itertools.cycle("a large red circle above the small blue square".split())
    return [" ".join(itertools.islice(words, 1 + i % 12)) for i in range(count)]


def size_of(clip):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(clip.variables))


def near(one, other):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-6)


def test_one_item_is_a_row_of_many(clip):
    images, texts = pictures(3), captions(3)
    rows = clip.encode_image(images)
    for image, row in zip(images, rows, strict=True):
        one = clip.encode_image(image)
        assert one.shape == (clip.embed_dim,) and one.dtype == np.float32
        near(one, row)
    for text, row in zip(texts, clip.encode_text(texts), strict=True):
        assert clip.encode_text(text).shape == (clip.embed_dim,)
        near(clip.encode_text(text), row)


ONE = {
    "path": lambda path: path,
    "name": str,
    "bytes": pathlib.Path.read_bytes,
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "open": lambda path: path.open("rb"),
    "in memory": lambda path: io.BytesIO(path.read_bytes()),
    "lazy": Image.open,
    "uint8": lambda path: np.asarray(Image.open(path)),
    "floats": lambda path: np.asarray(Image.open(path)) / 255,
    "half": lambda path: jnp.asarray(Image.open(path)).astype("float16") / 255,
    "jax": lambda path: jnp.asarray(Image.open(path)),
}


@pytest.mark.parametrize("form", ONE)
def test_one_image_of_every_form(form, linear, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png_bytes(make_pictures(1)[0]))
    expected = expected_embed(make_pictures(1))
    image = ONE[form](path)
    near(linear.encode_image(image), expected[0])
    near(linear.encode_image([image]), expected)
    if form == "open":
        image.close()


MANY = {
    "uint8": lambda images: images,
    "floats": lambda images: images / np.float32(255),
    "bfloat16": lambda images: jnp.asarray(images / 255, jnp.bfloat16),
    "jax": jnp.asarray,
    "jax floats": lambda images: jnp.asarray(images) / 255,
    "of jax arrays": lambda images: [jnp.asarray(image) for image in images],
}


@pytest.mark.parametrize("form", MANY)
def test_arrays_of_images(form, linear):
    images = np.stack(make_pictures(5))
    rough = {"rtol": 0.02, "atol": 0.02} if form == "bfloat16" else {"atol": 1e-5}
    found = linear.encode_image(MANY[form](images))
    np.testing.assert_allclose(found, expected_embed(images), **rough)


@pytest.mark.parametrize("shape", [(3,), (2, 2, 4, 4, 3)])
def test_an_array_of_another_rank_is_no_image(shape, linear):
    with pytest.raises(clipjax.UserError, match="is no image"):
        linear.encode_image(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 8, 9, 20, 63, 64, 65, 100])
def test_what_is_padded(count):
    sizes = (*batch_sizes.below(64), 64)
    parts = [*batch_sizes.split(min(count, 64), sizes)]
    assert all(size in (1, 8, 64) for _, size in parts)
    starts = [start for start, _ in parts]
    assert (
        starts == [*itertools.accumulate((size for _, size in parts), initial=0)][:-1]
    )
    padded = sum(size for _, size in parts)
    assert min(count, 64) <= padded <= 2 * count


def test_every_size_and_length_gives_the_same(clip):
    """Against the same model padded to one size and one length."""
    plain = Encoder(clip.model, clip.tokenizer, clip.preprocess, batch_size=20)
    images, texts = list(pictures(20)), captions(20)
    image_rows = plain.images(clip.variables, images).embed
    text_rows = plain.texts(clip.variables, texts)
    assert np.ptp(text_rows, axis=0).max() > 0.1
    for count in (1, 2, 5, 8, 9, 20):
        near(clip.encode_image(images[:count]), image_rows[:count])
        near(clip.encode_text(texts[:count]), text_rows[:count])


def test_sizes_and_lengths_are_few():
    model = Sums()
    made = make_encoder(model, batch_size=64, few_sizes=True)
    clip = Loaded(None, model, make_variables(), Letters(), lambda x: x, made, 0)
    for count in (1, 2, 3, 5, 7, 8, 12, 20, 60, 130):
        clip.encode_image(make_pictures(count))
    assert sorted(shape[0] for _, shape in model.traces) == [1, 8, 64]
    assert clip.batch_size == 64


class Long(Letters):
    context_length = 40

    def __call__(self, texts):
        ids = np.zeros((len(texts), 40), np.int32)
        for row, text in zip(ids, texts, strict=True):
            codes = [1, *text.encode()]
            row[: len(codes)] = codes
        return ids, ids > 0


@pytest.mark.parametrize("invariant", [True, False])
def test_texts_take_the_shortest_length_if_padding_changes_nothing(invariant):
    model = Sums()
    encoder = Encoder(
        model,
        Long(),
        lambda x: np.zeros((4, 4, 3), np.uint8),
        batch_size=8,
        few_sizes=True,
        padding_invariant=invariant,
    )
    texts = ["a" * count for count in (1, 7, 8, 15, 16, 39)]
    rows = [encoder.texts(make_variables(), [text])[0] for text in texts]
    lengths = [shape[1] for _, shape in model.traces]
    assert lengths == ([8, 16, 32, 40] if invariant else [40])
    table = make_variables()["params"]["text"]
    for text, row in zip(texts, rows, strict=True):
        mean = (table[1] + len(text) * table[ord("a")]) / (1 + len(text))
        near(row, mean / np.linalg.norm(mean))


def test_evaluators_have_one_size():
    model = Sums()
    encoder = make_encoder(model, batch_size=16)
    for count in (1, 9, 17):
        encoder.images(make_variables(), make_pictures(count))
        encoder.texts(make_variables(), ["a"] * count)
    assert {shape[0] for _, shape in model.traces} == {16}


def test_a_generator_is_taken_a_little_at_a_time(linear):
    taken, seen = [0], []

    def texts():
        for i in range(100):
            taken[0] = i
            yield "ab"[i % 2]

    def progress(done, total):
        seen.append((done, total))
        assert taken[0] < done + 3 * linear.batch_size

    rows = linear.encode_text(texts(), progress=progress)
    near(rows[:2], linear.encode_text(["a", "b"]))
    assert len(rows) == 100 and seen[0] == (8, 0) and seen[-1] == (100, 0)
    seen.clear()
    linear.encode_image(make_pictures(10), progress=lambda *p: seen.append(p))
    assert seen[-1] == (10, 10)


def test_a_generator_takes_no_memory(linear):
    """Its elements are freed: 4,000 images of 0.2 MB, of which few are alive."""
    large = Counted(np.zeros((256, 256, 3), np.uint8) for _ in range(4000))
    small = (image[:4, :4] for image in large)
    assert len(linear.encode_image(small)) == 4000
    assert large.most < 32


def test_the_error_has_the_rows_so_far(linear, tmp_path):
    images = [*make_pictures(11), tmp_path / "gone.png", *make_pictures(30)]
    with pytest.raises(clipjax.BadItem, match=r"image 11 .*gone.*no such file") as info:
        linear.encode_image(iter(images))
    near(info.value.rows, expected_embed(make_pictures(11)))
    assert info.value.number == 11
    with pytest.raises(clipjax.BadItem, match="text 2: ") as info:
        linear.encode_text(["a", "b", None, "c"])
    (error,) = linear.last_errors
    assert (error.number, error.name) == (2, "text 2")
    near(info.value.rows, linear.encode_text(["a", "b"]))
    again = pickle.loads(pickle.dumps(info.value))
    assert str(again) == str(info.value) and len(again.rows) == 2


def test_an_error_at_once_compiles_nothing():
    model = Sums()
    made = make_encoder(model, few_sizes=True)
    clip = Loaded(None, model, make_variables(), Letters(), lambda x: x, made, 0)
    with pytest.raises(clipjax.BadItem) as info:
        clip.encode_image(b"no image")
    assert str(info.value).startswith("the image: not an image")
    assert info.value.rows.shape == (0, 5)
    assert clip.encode_text([]).shape == clip.encode_image(iter(())).shape == (0, 5)
    assert not made._encode_image._cache_size()


def test_broken_items_as_nan(linear, tmp_path):
    images = make_pictures(20)
    given = [*images[:3], b"", *images[4:10], tmp_path, *images[11:]]
    rows = linear.encode_image((image for image in given), on_error="nan")
    good = [i for i in range(20) if i not in (3, 10)]
    near(rows[good], expected_embed([images[i] for i in good]))
    assert np.isnan(rows[[3, 10]]).all()
    assert [error.number for error in linear.last_errors] == [3, 10]
    assert "Is a directory" in linear.last_errors[1].reason
    assert str(tmp_path) in linear.last_errors[1].name
    rows = linear.encode_text(["a", 7, "b"], on_error="nan")
    assert np.isnan(rows).all(axis=1).tolist() == [False, True, False]
    assert [tuple(error)[:2] for error in linear.last_errors] == [(1, "text 1")]
    assert np.isnan(linear.encode_image("gone.png", on_error="nan")).all()
    linear.encode_text("a")
    assert linear.last_errors == []
    with pytest.raises(clipjax.UserError, match='use "raise" or "nan"'):
        linear.encode_text("a", on_error="skip")


def test_threads_share_a_model_and_a_lazy_image(clip, tmp_path):
    """A turned one, whose EXIF is read lazily too."""
    whole = Image.fromarray(pictures(1, 64)[0])
    whole.getexif()[0x0112] = 6
    whole.save(tmp_path / "a.png", exif=whole.getexif())
    expected = clip.encode_image(str(tmp_path / "a.png"))
    text = clip.encode_text("a dog")
    found, wrong = [], []

    def work(shared, start):
        start.wait()
        try:
            found.append(clip.encode_image([shared, shared]))
            near(clip.encode_text("a dog"), text)
            clip.encode_image(b"", on_error="nan")
            assert len(clip.last_errors) == 1
        except BaseException as error:
            wrong.append(error)

    for _ in range(8):
        shared, start = Image.open(tmp_path / "a.png"), threading.Barrier(4)
        threads = [
            threading.Thread(target=work, args=(shared, start)) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == [] and len(found) == 32
    for rows in found:
        near(rows, np.stack([expected, expected]))
    assert clip.last_errors == []  # another thread's are not this one's


def test_zero_shot_and_similarity(clip):
    images, names = pictures(3), ["circle", "square", "star"]
    templates = ["a {}", "one red {} ."]
    texts = clip.encode_text([t.format(n) for n in names for t in templates])
    classes = texts.reshape(3, 2, -1).mean(1)
    classes /= np.linalg.norm(classes, axis=1, keepdims=True)
    logits = clip.logit_scale * clip.encode_image(images) @ classes.T
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found = clip.zero_shot(images, names, templates=templates)
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    one = clip.zero_shot(images[1], names, templates=templates)
    np.testing.assert_allclose(one, expected[1], rtol=1e-3)
    np.testing.assert_allclose(clip.zero_shot(images, names).sum(1), 1, rtol=1e-5)
    single = clip.zero_shot(images[0], names, templates="a {}")
    assert single.shape == (3,)

    cosines = clip.similarity(images, names)
    near(cosines, clip.encode_image(images) @ clip.encode_text(names).T)
    near(clip.similarity(clip.encode_image(images) * 3, names[0]), cosines[:, 0])
    near(clip.similarity(images[2], clip.encode_text(names[0])), cosines[2, 0])
    with pytest.raises(clipjax.UserError, match="embeddings of shape"):
        clip.similarity(np.zeros((2, 3), np.float32), names)


def test_a_model_with_a_logit_bias_gives_each_name_a_probability(clip):
    module = clip.model.module.clone(logit_bias_init=-10.0)
    model = dataclasses.replace(clip.model, module=module)
    params = {**clip.variables["params"], "logit_bias": np.float32(-3.25)}
    variables = {**clip.variables, "params": params}
    encoder = Encoder(model, clip.tokenizer, clip.preprocess, few_sizes=True)
    sigmoid = dataclasses.replace(
        clip, model=model, variables=variables, encoder=encoder
    )
    assert sigmoid.logit_bias == -3.25 and clip.logit_bias is None
    assert sigmoid.logit_scale == pytest.approx(clip.logit_scale)
    images, names = pictures(3), ["circle", "square", "star"]
    logits = clip.logit_scale * sigmoid.similarity(images, names) - 3.25
    found = sigmoid.zero_shot(images, names, templates="{}")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-logits)), rtol=1e-3)
    before = clip.zero_shot(images, names, templates="{}")
    assert (found.argsort(1) == before.argsort(1)).all()
    broken = sigmoid.zero_shot([b""], names, templates="{}", on_error="nan")
    assert np.isnan(broken).all()


@pytest.mark.parametrize(
    ("names", "templates", "message"),
    [
        ([], (), "give the classes' names"),
        ("dog", (), "give the classes' names"),
        (["dog", 3], (), "name 1 is no str"),
        (["dog"], ["a photo"], "needs one {}"),
        (["dog"], "{} and {}", "needs one {}"),
        (None, (), "give the classes' names"),
        (b"dog", (), "give the classes' names"),
        ((x for x in ["dog", None]), (), "name 1 is no str but None"),
        (["dog"], None, "templates=None: give one, or a list"),
        (["dog"], ["{}", 3], "template 1 is no str but 3"),
    ],
)
def test_names_and_templates_that_cannot_be_used(clip, names, templates, message):
    with pytest.raises(clipjax.UserError, match=message):
        clip.zero_shot(pictures(1), names, templates=templates)


def test_names_of_any_kind_that_can_be_iterated(clip):
    names, image = ["dog", "cat"], pictures(1)[0]
    expected = clip.zero_shot(image, names, templates=["{}", "a {}"])
    for given in (iter(names), np.array(names), dict.fromkeys(names), tuple(names)):
        found = clip.zero_shot(image, given, templates=(t for t in ("{}", "a {}")))
        np.testing.assert_array_equal(found, expected)


def test_a_copy_by_pickle_is_the_same(clip):
    clip.encode_image(pictures(1)), clip.embed_dim, clip.logit_scale
    again = pickle.loads(pickle.dumps(clip))
    images, texts = pictures(2), captions(2)
    near(again.encode_image(images), clip.encode_image(images))
    near(again.encode_text(texts), clip.encode_text(texts))
    assert repr(again) == repr(clip) and again.step == clip.step
    assert repr(copy.deepcopy(clip)) == repr(clip)


def test_what_it_says_of_itself_is_short(clip):
    text = repr(clip)
    assert len(text) < 200 and "\n" not in text
    assert "two_tower" in text and "16 px" in text and f"step {clip.step}" in text
    assert {clip: 1}[clip] == 1


@pytest.mark.thorough
def test_gradients_by_pixels_and_parameters(clip):
    images = pictures(2)
    pixels = jnp.asarray(images, jnp.float32) / 255
    rows = clip.encode_image(images)
    near(clip.image_features(images), rows)
    near(clip.image_features(pixels), rows)
    near(clip.image_features(pixels[0]), rows[0])
    near(jax.jit(clip.image_features)(pixels), rows)
    near(jax.vmap(clip.image_features)(pixels), rows)

    target = jnp.asarray(rows[1])

    def score(pixels, variables):
        return clip.image_features(pixels, variables) @ target

    by_pixels, by_variables = jax.grad(score, (0, 1))(pixels[0], clip.variables)
    assert jax.tree.structure(by_variables) == jax.tree.structure(clip.variables)

    def differs(gradient, at, along, step):
        """The slope along a direction, by the gradient and by differences."""

        def moved(size):
            return score(*at(jax.tree.map(lambda x, d: x + size * d, *along)))

        up, down = moved(step), moved(-step)
        leaves = zip(jax.tree.leaves(gradient), jax.tree.leaves(along[1]), strict=True)
        slope = sum(float((g * d).sum()) for g, d in leaves)
        np.testing.assert_allclose(slope, (up - down) / (2 * step), rtol=0.05)
        assert abs(slope) > 1e-4

    draw = np.random.default_rng(0)
    along = (pixels[0], draw.standard_normal(pixels[0].shape).astype("f4"))
    differs(by_pixels, lambda x: (x, clip.variables), along, 1e-3)
    noise = jax.tree.map(
        lambda x: draw.standard_normal(x.shape).astype("f4"), clip.variables
    )
    along = (clip.variables, noise)
    differs(by_variables, lambda v: (pixels[0], v), along, 1e-4)
    with pytest.raises(clipjax.UserError, match=r"pixels have shape \[8, 8, 3\]"):
        clip.image_features(np.zeros((8, 8, 3), np.float32))


def test_bfloat16(clip, run, tmp_path):
    for half in (
        clipjax.load(run, dtype="bfloat16"),
        clipjax.load(run, dtype=jnp.bfloat16),
    ):
        images = pictures(4)
        rows, exact = half.encode_image(images), clip.encode_image(images)
        assert rows.dtype == np.float32
        np.testing.assert_allclose(rows, exact, atol=0.05)
        assert np.abs(rows - exact).max() > 1e-6
        sizes = [
            sum(x.nbytes for x in jax.tree.leaves(c.variables)) for c in (half, clip)
        ]
        assert sizes[0] < 0.6 * sizes[1]
        assert half.config.model.precision == "bfloat16"
    write_hf(tmp_path)
    (tmp_path / "tokenizer.json").write_text(tokenizer_tools.clip_json())
    with pytest.raises(clipjax.UserError, match="dtype='float8'.*float32, bfloat16"):
        clipjax.load(tmp_path, dtype="float8")


def test_loading_keeps_what_it_compiles(run, tmp_path, monkeypatch):
    cache = "jax_compilation_cache_dir"
    before = getattr(jax.config, cache)
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path / "ours"))
    try:
        jax.config.update(cache, None)
        clipjax.load(run)
        assert getattr(jax.config, cache) == str(tmp_path / "ours" / "xla")
        jax.config.update(cache, str(tmp_path / "theirs"))
        clipjax.load(run)
        assert getattr(jax.config, cache) == str(tmp_path / "theirs")
    finally:
        jax.config.update(cache, before)


@pytest.mark.parametrize(
    "pixels", ["a.jpg", None, [[b"x"]], np.zeros((16, 16, 3), bool)]
)
def test_pixels_that_are_none(clip, pixels):
    with pytest.raises(clipjax.UserError, match="pixels are"):
        clip.image_features(pixels)


def test_features_of_no_images(clip):
    found = clip.image_features(np.zeros((0, SIDE, SIDE, 3), np.uint8))
    assert found.shape == (0, clip.embed_dim) and found.dtype == np.float32


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (None, {}, "load takes a folder, a file or a name, not None"),
        ("ViT-B-23", {}, "there is no such run, folder or file. Did you mean 'ViT-B-"),
        (".", {}, "a released model's folder has config.json or open_clip_config"),
        (SAVED, {"dtype": 3}, "dtype='3'.*float32, bfloat16"),
    ],
)
def test_what_load_cannot_take(name, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(clipjax.UserError, match=message):
        clipjax.load(name, **options)


@pytest.mark.parametrize("size", [0, 2.5, "8", None])
def test_batch_sizes_that_are_none(run, size):
    with pytest.raises(clipjax.UserError, match="of the encoder: use 1 or more"):
        clipjax.load(run, batch_size=size)
