"""Augmentation: distributions, reproducible draws, and the same from any thread."""

import concurrent.futures
import pickle

import numpy as np
import pytest
from image_tools import encoded, picture
from PIL import Image

from clipjax.data import augment, preprocess
from clipjax.types import UserError

BICUBIC = Image.Resampling.BICUBIC


def make_rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    "options", [{}, {"flip": 0.5, "color_jitter": 0.4, "hue": 0.1}, {"draft": True}]
)
def test_draws_do_not_depend_on_image_or_options(options):
    left = []
    for shape in ((40, 60), (300, 20), (5, 5)):
        rng = make_rng()
        out = augment.crop(24, **options)(encoded(picture(*shape), "JPEG"), rng)
        assert out.shape == (24, 24, 3) and out.dtype == np.uint8
        left.append(rng.random())
    expected = make_rng()
    augment.crop(24)(picture(), expected)
    assert set(left) == {expected.random()}


def test_the_same_draws_give_the_same_crop_and_others_another():
    transform = augment.crop(24)
    one, same, other = (transform(picture(), make_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_full_scale_and_ratio_one_is_the_whole_square():
    given = picture(64, 64)
    got = augment.crop(24, scale=(1.0, 1.0), ratio=(1.0, 1.0))(given, make_rng())
    np.testing.assert_array_equal(got, np.asarray(given.resize((24, 24), BICUBIC)))


def crop_box(transform, width, height, seed):
    """The crop taken, read off an image whose colours are its coordinates."""
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[..., 0] = np.arange(width) * 255 // (width - 1)
    ramp[..., 1] = (np.arange(height) * 255 // (height - 1))[:, None]
    out = transform(ramp, make_rng(seed)).astype(float)
    size = out.shape[0]
    span_x = (out[:, -1, 0] - out[:, 0, 0]).mean() / 255 * width * size / (size - 1)
    span_y = (out[-1, :, 1] - out[0, :, 1]).mean() / 255 * height * size / (size - 1)
    return abs(span_x), abs(span_y)


@pytest.mark.parametrize("scale", [(0.2, 0.3), (0.5, 0.9)])
def test_area_and_ratio_stay_in_their_ranges(scale):
    transform = augment.crop(32, scale=scale, ratio=(0.75, 1.3333))
    boxes = [crop_box(transform, 200, 200, seed) for seed in range(60)]
    shares = np.array([x * y / 200**2 for x, y in boxes])
    ratios = np.array([x / y for x, y in boxes])
    assert scale[0] - 0.04 < shares.min() and shares.max() < scale[1] + 0.06
    assert 0.68 < ratios.min() < 0.9 and 1.1 < ratios.max() < 1.45
    assert abs(shares.mean() - sum(scale) / 2) < 0.05


def test_a_crop_that_never_fits_is_the_largest_permitted():
    transform = augment.crop(24, scale=(1.0, 1.0), ratio=(0.9, 1.1))
    tries = make_rng().random(2 * augment.TRIES)
    assert transform._crop_size(400, 100, tries) == (110, 100)
    assert transform._crop_size(90, 400, tries) == (90, 100)
    assert transform._crop_size(1, 400, tries) == (1, 1)


def test_flip_is_a_probability():
    given = picture(64, 64)
    whole = dict(scale=(1.0, 1.0), ratio=(1.0, 1.0))
    plain = augment.crop(24, **whole)(given, make_rng())
    always = augment.crop(24, **whole, flip=1.0)(given, make_rng())
    np.testing.assert_array_equal(always, plain[:, ::-1])
    half = augment.crop(24, **whole, flip=0.5)
    flipped = sum((half(given, make_rng(s)) == always).all() for s in range(200))
    assert 70 < flipped < 130
    never = augment.crop(24, **whole)
    assert all((never(given, make_rng(s)) == plain).all() for s in range(20))


def test_jitter_changes_colours_within_its_strength():
    whole = dict(scale=(1.0, 1.0), ratio=(1.0, 1.0))
    grey = np.full((32, 32, 3), 100, np.uint8)
    means = [
        augment.crop(16, **whole, color_jitter=0.3)(grey, make_rng(s)).mean()
        for s in range(60)
    ]
    assert 69 <= min(means) < 78 and 122 < max(means) <= 131
    red = np.full((8, 8, 3), (200, 0, 0), np.uint8)
    hues = [
        augment.crop(8, **whole, hue=0.2)(red, make_rng(s))[0, 0] for s in range(40)
    ]
    assert {tuple(h) for h in hues} != {(200, 0, 0)}
    # A fifth of the circle either way reaches yellow (and green) or magenta (blue).
    assert all(max(h) == 200 and min(h) == 0 for h in hues)
    assert any(h[1] > 50 for h in hues) and any(h[2] > 50 for h in hues)


def test_draft_is_near_the_exact_crop():
    large = picture(40, 60).reduce(5).resize((1200, 800), BICUBIC)
    data = encoded(large, "JPEG", quality=95)
    exact = augment.crop(32)(data, make_rng()).astype(int)
    draft = augment.crop(32, draft=True)(data, make_rng()).astype(int)
    assert 0 < np.abs(exact - draft).mean() < 3


def test_none_is_the_evaluation_transform_and_draws_nothing():
    rng = make_rng()
    data = encoded(picture(40, 60), "JPEG")
    np.testing.assert_array_equal(
        augment.none(32)(data, rng), preprocess.clip(32)(data)
    )
    assert rng.random() == make_rng().random()


@pytest.mark.parametrize(
    "options",
    [
        {"scale": (0.0, 1.0)},
        {"scale": (0.9, 0.5)},
        {"ratio": (2.0, 1.0)},
        {"flip": 1.5},
        {"color_jitter": -0.1},
        {"hue": 0.6},
    ],
)
def test_options_out_of_range_name_themselves(options):
    with pytest.raises(UserError, match=f"augment {next(iter(options))}="):
        augment.crop(32, **options)


def test_transforms_pickle_and_work_from_many_threads():
    data = [encoded(picture(40 + i, 60, seed=i), "JPEG") for i in range(12)]
    fixed = pickle.loads(pickle.dumps(preprocess.clip(32)))
    random = pickle.loads(pickle.dumps(augment.crop(32, flip=0.5, color_jitter=0.2)))

    def both(i):
        return fixed(data[i]), random(data[i], make_rng(i))

    alone = [both(i) for i in range(12)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for one, other in zip(alone, pool.map(both, range(12)), strict=True):
            np.testing.assert_array_equal(one, other)
