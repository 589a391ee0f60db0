"""Image augmentation against torchvision: the same pixels, the same distributions."""

from __future__ import annotations

import numpy as np
import pytest
from image_tools import picture

from clipjax.data.images import augment, auto_augment

torch = pytest.importorskip("torch")
import hf_clip  # noqa: E402

pytestmark = pytest.mark.parity

NAMES = {
    "identity": "Identity",
    "shear_x": "ShearX",
    "shear_y": "ShearY",
    "translate_x": "TranslateX",
    "translate_y": "TranslateY",
    "rotate": "Rotate",
    "brightness": "Brightness",
    "color": "Color",
    "contrast": "Contrast",
    "sharpness": "Sharpness",
    "posterize": "Posterize",
    "solarize": "Solarize",
    "auto_contrast": "AutoContrast",
    "equalize": "Equalize",
    "invert": "Invert",
}


@pytest.fixture(scope="module")
def theirs():
    """torchvision.transforms."""
    hf_clip.import_torch()
    return pytest.importorskip("torchvision.transforms")


@pytest.mark.parametrize("name", auto_augment.OPERATIONS)
def test_every_operation_at_every_magnitude(theirs, name):
    """Both of RandAugment's 31 magnitudes and AutoAugment's 10, of both signs."""
    module = theirs.autoaugment
    for policy, bins in ((module.RandAugment(), 31), (module.AutoAugment(), 10)):
        image = picture(48, 48, seed=bins)
        space = policy._augmentation_space(bins, (48, 48))
        if NAMES[name] not in space:  # each lacks one
            assert (name, bins) in [("identity", 10), ("invert", 31)]
            continue
        amounts, signed = space[NAMES[name]]
        assert signed == auto_augment.OPERATIONS[name].signed
        ours = auto_augment.OPERATIONS[name]
        for i in range(bins):
            amount = float(amounts[i]) if amounts.ndim else 0.0
            # Theirs is rounded to float32, which may tip a pixel: both take it.
            assert ours.amount(i / (bins - 1), 48) == pytest.approx(amount, abs=2e-5)
            for sign in (1.0, -1.0) if signed else (1.0,):
                found = ours.apply(image, amount * sign)
                nearest = theirs.InterpolationMode.NEAREST
                expected = module._apply_op(
                    image, NAMES[name], amount * sign, nearest, None
                )
                np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


def test_the_lists_are_theirs(theirs):
    module = theirs.autoaugment
    space = module.RandAugment()._augmentation_space(31, (48, 48))
    assert [NAMES[name] for name in auto_augment.RANDOM] == list(space)
    policy = tuple(
        tuple((NAMES[name], share, magnitude) for name, share, magnitude in parts)
        for parts in auto_augment.IMAGENET
    )
    learned = module.AutoAugment(module.AutoAugmentPolicy.IMAGENET).policies
    assert policy == tuple(
        tuple((name, share, magnitude or 0) for name, share, magnitude in parts)
        for parts in learned
    )


@pytest.mark.parametrize("at", [0.0, 0.3, 0.7, 0.99])
def test_jitter_property_by_property(theirs, at):
    functional, image = theirs.functional, picture(40, 40)
    change = {
        "brightness": functional.adjust_brightness,
        "contrast": functional.adjust_contrast,
        "saturation": functional.adjust_saturation,
    }
    off = dict(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)
    for i, (name, adjust) in enumerate(change.items()):
        made = augment.jitter(40, **{**off, name: 0.8})
        found = made.change(image, [at if j == i else 0.5 for j in range(8)])
        expected = adjust(image, 1 + 0.8 * (2 * at - 1))
        np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))
    turn = round(0.4 * (2 * at - 1) * 256)  # ours in 256 steps, theirs in 255
    found = augment.jitter(40, **{**off, "hue": 0.4}).change(image, [at] * 8)
    expected = functional.adjust_hue(image, (turn + 0.5 * np.sign(turn)) / 255)
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


def test_flip_and_grayscale(theirs):
    image, rng = np.asarray(picture(40, 40)), np.random.default_rng(0)
    for made, expected in (
        (augment.flip, theirs.functional.hflip(picture(40, 40))),
        (
            augment.grayscale,
            theirs.functional.to_grayscale(picture(40, 40), num_output_channels=3),
        ),
    ):
        np.testing.assert_array_equal(made(40, p=1.0)(image, rng), np.asarray(expected))


def test_blur_is_near_the_true_gaussian(theirs):
    image = picture(64, 64)
    for sigma in (0.5, 1.0, 2.0):
        made = augment.blur(64, sigma=(sigma, sigma), p=1.0)
        found = made(np.asarray(image), np.random.default_rng(0)).astype(int)
        expected = np.asarray(theirs.functional.gaussian_blur(image, 21, sigma))
        apart = np.abs(found - expected).mean()
        assert apart < 0.25 * np.abs(expected - np.asarray(image).astype(int)).mean()


def sides(erased):
    """Shares of the area and ratios, height / width, of erased rectangles."""
    rows, columns = erased.any(axis=2).sum(axis=1), erased.any(axis=1).sum(axis=1)
    return rows * columns / erased[0].size, rows / np.maximum(columns, 1)


def test_erasing_is_distributed_as_theirs(theirs):
    size, count, white = 64, 3000, 255
    torch.manual_seed(0)
    transform = theirs.RandomErasing(p=1.0, value=white)
    zeros = torch.zeros(3, size, size)
    made = augment.erase(size, p=1.0, color=(white,) * 3)
    black = np.zeros((size, size, 3), np.uint8)
    ours = np.stack(
        [made(black, np.random.default_rng(s))[..., 0] > 0 for s in range(count)]
    )
    theirs_ = np.stack([transform(zeros)[0].numpy() > 0 for _ in range(count)])
    at = np.linspace(0.02, 0.98, 25)
    for one, other in zip(sides(ours), sides(theirs_), strict=True):
        # Two-sample Kolmogorov-Smirnov at 1e-4: 2.23 sqrt(2 / count).
        values = np.quantile(np.concatenate([one, other]), at)
        shares = [(x[:, None] <= values).mean(axis=0) for x in (one, other)]
        assert np.abs(shares[0] - shares[1]).max() < 2.23 * np.sqrt(2 / count)
    # How often each pixel is erased.
    assert np.abs(ours.mean(axis=0) - theirs_.mean(axis=0)).max() < 0.06
