"""Augmentation: distributions, reproducible draws, and the same from any thread."""

import concurrent.futures
import hashlib
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_tools import encoded, picture
from PIL import Image, ImageFilter

from clipjax import config, config_check
from clipjax.data.images import augment, auto_augment, preprocess
from clipjax.engine import assemble
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


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "aa1b16e3a4751adf"),
        ({"flip": 0.5, "color_jitter": 0.4, "hue": 0.1}, "8850e337264c7890"),
        (
            {"scale": (0.08, 1.0), "flip": 1.0, "color_jitter": 0.8, "hue": 0.5},
            "a4107aeed92b303c",
        ),
        ({"scale": (0.2, 0.4), "draft": True}, "b03917cad4d39bfc"),
    ],
)
def test_golden_crops(options, expected):
    """Pixels and draws of recorded runs; they may change with Pillow's filters only."""
    noise = np.random.default_rng(5).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((45, 30), Image.Resampling.BILINEAR)
    found = hashlib.sha256()
    for seed in range(6):
        rng = make_rng(seed)
        found.update(augment.crop(16, **options)(np.asarray(image), rng).tobytes())
        found.update(np.float64(rng.random()).tobytes())
    assert found.hexdigest()[:16] == expected


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
    with pytest.raises(UserError, match=f"data.augment.{next(iter(options))}="):
        augment.crop(32, **options)


# Steps after the crop

STEPS = {
    "flip": {},
    "jitter": {},
    "grayscale": {},
    "blur": {},
    "randaugment": {"n": 3, "magnitude": 17},
    "autoaugment": {},
    "erase": {},
}


def step(name, size=24, **options):
    return getattr(augment, name)(size, **{**STEPS[name], **options})


def finished(size=24, seed=0):
    return np.array(picture(size, size, seed))


@pytest.mark.parametrize("name", STEPS)
def test_a_step_draws_alike_for_every_image_and_keeps_its_share(name):
    left = set()
    for image in (finished(), finished(seed=1), encoded(picture(40, 60), "JPEG")):
        for p in (0.0, 0.5, 1.0):
            rng = make_rng()
            out = step(name, p=p)(image, rng)
            assert out.shape == (24, 24, 3) and out.dtype == np.uint8
            left.add(rng.random())
    assert len(left) == 1
    image = finished()
    never, half = step(name, p=0.0), step(name, p=0.5)
    assert all((never(image, make_rng(s)) == image).all() for s in range(20))
    applied = step(name, p=1.0)
    changed = np.mean([(applied(image, make_rng(s)) != image).any() for s in range(60)])
    assert changed > 0.8
    halved = np.mean([(half(image, make_rng(s)) != image).any() for s in range(200)])
    assert abs(halved - changed / 2) < 0.15
    np.testing.assert_array_equal(image, finished())  # nothing was written into it


@pytest.mark.parametrize("name", STEPS)
def test_a_step_alone_begins_with_the_evaluation_transform(name):
    data = encoded(picture(40, 60), "JPEG")
    np.testing.assert_array_equal(
        step(name, p=1.0)(data, make_rng(3)),
        step(name, p=1.0)(preprocess.clip(24)(data), make_rng(3)),
    )


def test_a_chain_leaves_the_crop_as_it_is_and_follows_its_order():
    data = encoded(picture(40, 60), "JPEG")
    crop, gray, blur = augment.crop(24), step("grayscale", p=1.0), step("blur", p=1.0)
    rng = make_rng(4)
    expected = blur(gray(crop(data, rng), rng), rng)
    chain = augment.Chain((crop, gray, blur))
    np.testing.assert_array_equal(chain(data, make_rng(4)), expected)
    off = augment.Chain((crop, step("erase", p=0.0), step("flip", p=0.0)))
    np.testing.assert_array_equal(off(data, make_rng(4)), crop(data, make_rng(4)))


def test_flip_and_grayscale_by_hand():
    image = finished()
    np.testing.assert_array_equal(
        step("flip", p=1.0)(image, make_rng()), image[:, ::-1]
    )
    gray = step("grayscale", p=1.0)(image, make_rng())
    luma = image @ np.array([0.299, 0.587, 0.114])  # ITU-R 601
    assert np.abs(gray - luma[..., None]).max() <= 1


def test_jitter_stays_in_its_ranges_and_changes_its_order():
    flat = np.full((8, 8, 3), 100, np.uint8)
    only = dict(contrast=0.0, saturation=0.0, hue=0.0, p=1.0)
    means = [
        step("jitter", 8, brightness=0.3, **only)(flat, make_rng(s)).mean()
        for s in range(60)
    ]
    assert 69 <= min(means) < 78 and 122 < max(means) <= 131
    # With contrast first a flat image stays grey; a coloured one tells the orders.
    made = step("jitter", brightness=0.9, contrast=0.9, hue=0.4, p=1.0)
    low, high = [0.05] * 4, [0.0, 0.1, 0.2, 0.3]
    one = made.change(picture(24, 24), low + high)
    other = made.change(picture(24, 24), low + high[::-1])
    assert (np.asarray(one) != np.asarray(other)).any()
    still = dict(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0, p=1.0)
    kept = step("jitter", **still)(finished(), make_rng())
    np.testing.assert_array_equal(kept, finished())


def test_blur_spreads_a_point_by_its_sigma():
    point = np.zeros((31, 31, 3), np.uint8)
    point[15, 15] = 255
    for sigma in (0.7, 1.5):
        out = step("blur", 31, p=1.0, sigma=(sigma, sigma))(point, make_rng())
        row = out[..., 0].sum(axis=0, dtype=float)
        spread = (row * (np.arange(31) - 15) ** 2).sum() / row.sum()
        assert spread == pytest.approx(sigma**2, rel=0.25)
        blurred = Image.fromarray(point).filter(ImageFilter.GaussianBlur(sigma))
        np.testing.assert_array_equal(out, np.asarray(blurred))


def rectangle(changed):
    """(top, left, height, width) of the changed pixels."""
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    top, left = rows[0], columns[0]
    return top, left, rows[-1] - top + 1, columns[-1] - left + 1


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([(), (124, 116, 104)]))
def test_erase_replaces_one_rectangle_of_permitted_area_and_ratio(seed, color):
    black = np.zeros((64, 64, 3), np.uint8)
    erase = step("erase", 64, p=1.0, area=(0.1, 0.2), ratio=(0.5, 2.0), color=color)
    out = erase(black, make_rng(seed))
    changed = out.any(axis=2)
    top, left, height, width = rectangle(changed)
    inside = out[top : top + height, left : left + width]
    assert changed.sum() == inside.any(axis=2).sum() > 0.9 * height * width
    assert 0.08 < height * width / 64**2 < 0.23
    assert 0.45 < height / width < 2.2
    if color:
        assert (inside == color).all()
    else:
        assert 100 < inside.mean() < 155 and len(np.unique(inside)) > 100


def test_erase_covers_the_image_evenly_and_gives_up_where_nothing_fits():
    black = np.zeros((32, 32, 3), np.uint8)
    erase = step("erase", 32, p=1.0, color=(9, 9, 9), area=(0.1, 0.1), ratio=(1.0, 1.0))
    places = [rectangle(erase(black, make_rng(s)).any(2))[:2] for s in range(400)]
    assert {tuple(p) for p in places} <= {(y, x) for y in range(23) for x in range(23)}
    assert np.abs(np.mean(places, axis=0) - 11).max() < 1.5  # 5 deviations: 1.7
    assert np.max(places) == 22 and np.min(places) == 0
    wide = step("erase", 32, p=1.0, area=(0.9, 0.9), ratio=(5.0, 5.0), color=(9, 9, 9))
    assert not wide(black, make_rng()).any()


ROW = np.arange(0, 256, 16, np.uint8)  # 0, 16, ..., 240


def operate(name, level, sign=1.0):
    image = np.broadcast_to(ROW[None, :, None], (16, 16, 3)).copy()
    return np.asarray(auto_augment.apply(name, Image.fromarray(image), level, sign))[
        0, :, 0
    ]


def test_operations_by_hand():
    """Level 0.3 is RandAugment's magnitude 9 and AutoAugment's 2.7."""
    assert (operate("identity", 0.3) == ROW).all()
    # Solarized above 255 - 76.5: 192 is 63 then; posterized to 7 bits.
    assert operate("solarize", 0.3).tolist() == [*ROW[:12], 63, 47, 31, 15]
    assert (operate("posterize", 0.3) == ROW & 0b11111110).all()
    assert (operate("posterize", 1.0) == ROW & 0b11110000).all()
    assert (operate("invert", 0.3) == 255 - ROW).all()
    # 150/331 of 16 pixels, times 0.3, is 2.2: two to the right, or left.
    assert operate("translate_x", 0.3).tolist() == [0, 0, *ROW[:14]]
    assert operate("translate_x", 0.3, -1).tolist() == [*ROW[2:], 0, 0]
    assert (operate("translate_y", 0.0) == ROW).all()
    assert operate("translate_y", 1.0).any() == False  # noqa: E712 (seven rows down)
    # Brighter and darker by 0.27.
    assert np.abs(operate("brightness", 0.3) - np.minimum(255, ROW * 1.27)).max() <= 1
    assert np.abs(operate("brightness", 0.3, -1) - ROW * 0.73).max() <= 1
    assert operate("auto_contrast", 0.3)[[0, -1]].tolist() == [0, 255]


def test_randaugment_takes_every_operation_evenly(monkeypatch):
    taken = []
    monkeypatch.setattr(
        auto_augment,
        "apply",
        lambda name, p, level, sign: taken.append((name, level)) or p,
    )
    made = step("randaugment", n=2, magnitude=9)
    for seed in range(700):
        made(finished(), make_rng(seed))
    names = [name for name, _ in taken]
    assert len(names) == 1400 and {level for _, level in taken} == {0.3}
    assert set(names) == set(auto_augment.RANDOM) and len(auto_augment.RANDOM) == 14
    assert all(abs(names.count(name) - 100) < 50 for name in auto_augment.RANDOM)


def test_autoaugment_applies_parts_by_their_shares(monkeypatch):
    taken = []
    monkeypatch.setattr(
        auto_augment,
        "apply",
        lambda name, p, level, sign: taken.append((name, level)) or p,
    )
    image = picture(8, 8)
    # The first sub-policy: posterize at 0.4, magnitude 8; rotate at 0.6, magnitude 9.
    auto_augment.imagenet_policy(image, [0.01, 0.39, 0.0, 0.61, 0.0])
    auto_augment.imagenet_policy(image, [0.01, 0.41, 0.0, 0.59, 0.0])
    assert taken == [("posterize", 8 / 9), ("rotate", 1.0)]
    assert len(auto_augment.IMAGENET) == 25


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("flip", {"p": 1.5}),
        ("jitter", {"hue": 0.6}),
        ("jitter", {"contrast": -1.0}),
        ("blur", {"sigma": (2.0, 1.0)}),
        ("randaugment", {"magnitude": 31}),
        ("randaugment", {"n": 0}),
        ("erase", {"area": (0.0, 0.3)}),
        ("erase", {"ratio": (3.0, 0.3)}),
        ("erase", {"color": (1, 2)}),
    ],
)
def test_options_of_steps_out_of_range_name_themselves(name, options):
    with pytest.raises(UserError, match=f"data.augment.{next(iter(options))}="):
        step(name, **options)


def test_a_config_keeps_the_order_of_its_steps():
    words = "augment=none+randaugment+blur+erase"
    options = {"train": {"steps": 1}, "data.augment=erase": {"p": 0.5}}
    made = config.base(words, options=options)
    assert made.data.augment.order == ("none", "randaugment", "blur", "erase")
    again = config_check.from_dict(config_check.to_dict(made))
    config_check.validate(again)
    chain = assemble.augment(again)
    assert isinstance(chain, augment.Chain)
    assert [getattr(part, "p", None) for part in chain.parts] == [None, 1.0, 0.5, 0.5]
    made.data.augment.order = ("none", "erase")
    assert len(assemble.augment(made).parts) == 2
    assert config_check.differences(config_check.to_dict(again), made) == {
        "data.augment.order": (["none", "randaugment", "blur", "erase"],)
        + (["none", "erase"],)
    }
    made.data.augment.order = ("none", "gray")
    with pytest.raises(UserError, match="data.augment.order=.*name some of blur, "):
        assemble.augment(made)
    with pytest.raises(UserError, match="augment=crop.crop: 'crop' is given twice"):
        config.base("augment=crop+crop")
    changed = config.base(words, options=options)
    changed.data.augment.blur.name = "erase"
    with pytest.raises(UserError, match="after the colon.*augment=erase"):
        config_check.validate(changed, config.base(words, options=options))


def test_transforms_pickle_and_work_from_many_threads():
    data = [encoded(picture(40 + i, 60, seed=i), "JPEG") for i in range(12)]
    fixed = pickle.loads(pickle.dumps(preprocess.clip(32)))
    parts = augment.crop(32, flip=0.5), *(step(name, 32) for name in STEPS)
    random = pickle.loads(pickle.dumps(augment.Chain(parts)))

    def both(i):
        return fixed(data[i]), random(data[i], make_rng(i))

    alone = [both(i) for i in range(12)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for one, other in zip(alone, pool.map(both, range(12)), strict=True):
            np.testing.assert_array_equal(one, other)
