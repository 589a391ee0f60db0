"""Image transforms as foreign models write them down, read and written."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from clipjax.types import UserError
from clipjax.weights.beside import tokenizer_choice
from clipjax.weights.value_checks import three

RESAMPLE = {"bicubic": 3, "bilinear": 2}  # Pillow's numbers
HF_FILE = "preprocessor_config.json"
# What a whole processor's save_pretrained writes since transformers 5, with the image's
# settings under one key.
HF_PROCESSOR, HF_NESTED = "processor_config.json", "image_processor"
HALF = (0.5, 0.5, 0.5)


class Preprocessing(NamedTuple):
    """A component of data/images/preprocess.py, and the model's normalisation.

    name: empty if no component does it; why says what cannot be done.
    options: of the component, if they are not its defaults.
    """

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    why: str = ""
    options: Mapping[str, Any] = {}

    def words(self) -> dict[str, Any]:
        """What Settings say of it."""
        return {
            "preprocess": self.name,
            "preprocess_options": self.options,
            "no_preprocess": self.why,
        }


def read_hf(folder: pathlib.Path) -> tuple[dict[str, Any], str]:
    """The settings of a folder's image processor, {} for none, and their file.

    As in transformers (ImageProcessingMixin.get_image_processor_dict) those of
    processor_config.json count if they are there; older ones have other settings.

    Raises UserError for damaged files.
    """
    path = folder / HF_PROCESSOR
    whole = tokenizer_choice.read_json(path)
    if HF_NESTED not in whole:
        path = folder / HF_FILE
        return tokenizer_choice.read_json(path), str(path)
    if not isinstance(whole[HF_NESTED], dict):
        raise UserError(f"{path}: {HF_NESTED}={whole[HF_NESTED]!r}: must be an object")
    return whole[HF_NESTED], str(path)


def from_hf(given: Mapping[str, Any], image_size: int, place: str) -> Preprocessing:
    """What an image processor's settings say, as `read_hf` found them in `place`."""
    mean = three(given["image_mean"], "image_mean", place)
    std = three(given["image_std"], "image_std", place, positive=True)
    square = isinstance(given.get("size"), Mapping) and "height" in given["size"]
    why = _hf_limit(given, image_size, square)
    if why:
        return Preprocessing("", mean, std, f"{place}: {why}")
    name = "squash" if square else "clip"
    return Preprocessing(name, mean, std, options=_options(given))


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of squash; bicubic is the default."""
    bilinear = given.get("resample") == RESAMPLE["bilinear"]
    return {"interpolation": "bilinear"} if bilinear else {}


def _hf_limit(given: Mapping[str, Any], image_size: int, square: bool) -> str:
    """What our transforms cannot do of it, "" if they can do all."""
    for key in ("do_resize", "do_normalize", "do_rescale"):
        if not given.get(key, True):
            return f"{key}=False: clipjax resizes and normalises every image"
    known = dict(RESAMPLE) if square else {"bicubic": RESAMPLE["bicubic"]}
    resample = given.get("resample", known["bicubic"])
    if resample not in known.values():
        can = " or ".join(f"{how} ({number})" for how, number in known.items())
        return f"resample={resample}: clipjax resizes {can} here"
    factor = given.get("rescale_factor", 1 / 255)
    if not math.isclose(factor, 1 / 255, rel_tol=1e-4):
        return f"rescale_factor={factor}: clipjax divides by 255"
    size, crop = given.get("size"), given.get("crop_size")
    if square:
        side, cropped = _square(size), image_size
    else:
        side = size.get("shortest_edge") if isinstance(size, Mapping) else size
        cropped = _square(crop) if given.get("do_center_crop", True) else None
    if side != image_size:
        return f"size={size}: clipjax resizes to the size of the model, {image_size}"
    if cropped != image_size:
        return f"crop_size={crop}: clipjax crops to the size of the model, {image_size}"
    return ""


def to_hf(
    section: Mapping[str, Any], image_size: int, mean: Any, std: Any
) -> dict[str, Any]:
    """The preprocessor_config.json of `clip`, `openai` or `squash`.

    section: data.preprocess of a config.

    Raises UserError for a transform that it cannot say.
    """
    square = {"height": image_size, "width": image_size}
    shared = {
        "do_resize": True,
        "resample": RESAMPLE[interpolation(section)],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
        "do_convert_rgb": True,
    }
    if resize_mode(section["name"]) == "squash":
        return {
            "image_processor_type": "SiglipImageProcessor",
            "size": square,
            **shared,
        }
    return {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": image_size},
        "do_center_crop": True,
        "crop_size": square,
        **shared,
    }


def from_open_clip(
    given: Mapping[str, Any], defaults: Preprocessing, place: str
) -> Preprocessing:
    """What the preprocess_cfg of an open_clip_config.json says, but for its size."""
    path = f"{place}: preprocess_cfg"
    mean, std = given.get("mean") or defaults.mean, given.get("std") or defaults.std
    mean, std = three(mean, "mean", path), three(std, "std", path, positive=True)
    names = {"shortest": "clip", "squash": "squash"}
    squash = given.get("resize_mode") == "squash"
    for key, known in (
        ("interpolation", [*RESAMPLE] if squash else ["bicubic"]),
        ("mode", ["RGB"]),
        ("resize_mode", [*names]),
    ):
        value = given.get(key) or known[0]
        if value not in known:
            can = f"{path}.{key}={value!r}: clipjax does "
            return Preprocessing("", mean, std, can + " and ".join(known))
    how = given.get("interpolation")
    options = {"interpolation": how} if how == "bilinear" else {}
    name = names[given.get("resize_mode") or "shortest"]
    return Preprocessing(name, mean, std, options=options)


def interpolation(section: Mapping[str, Any]) -> str:
    """How data.preprocess of a config resizes, in Pillow's and open_clip's word."""
    return section.get("interpolation", "bicubic")


def resize_mode(name: str) -> str:
    """open_clip's word for one of our transforms.

    Raises UserError for one that no foreign format can say.
    """
    modes = {"clip": "shortest", "openai": "shortest", "squash": "squash"}
    if name not in modes:
        raise UserError(
            f"data.preprocess={name}: other formats can say {', '.join(modes)} only"
        )
    return modes[name]


def _square(size: Any) -> Any:
    if isinstance(size, Mapping):
        return size["height"] if size["height"] == size.get("width") else None
    return size
