"""Image transforms in the settings files of foreign models: reads and writes them."""

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
# Since transformers 5, a processor's save_pretrained writes this file, with the image
# processor's settings under one key.
HF_PROCESSOR, HF_NESTED = "processor_config.json", "image_processor"
HALF = (0.5, 0.5, 0.5)


class Preprocessing(NamedTuple):
    """A component of data/images/preprocess.py, and the model's normalisation.

    name: empty if no component fits; why then names the setting that does not.
    options: the component's options that differ from its defaults.
    """

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    why: str = ""
    options: Mapping[str, Any] = {}

    def as_settings(self) -> dict[str, Any]:
        """The fields of model_description.Settings for this transform."""
        return {
            "preprocess": self.name,
            "preprocess_options": self.options,
            "no_preprocess": self.why,
        }


def read_hf(folder: pathlib.Path) -> tuple[dict[str, Any], str]:
    """The settings of a folder's image processor, {} for none, and their file.

    As in transformers (ImageProcessingMixin.get_image_processor_dict), the settings in
    processor_config.json take precedence. Older folders lack them there.

    Raises UserError for damaged files.
    """
    path = folder / HF_PROCESSOR
    processor = tokenizer_choice.read_json(path)
    if HF_NESTED not in processor:
        path = folder / HF_FILE
        return tokenizer_choice.read_json(path), str(path)
    settings = processor[HF_NESTED]
    if not isinstance(settings, dict):
        raise UserError(f"{path}: {HF_NESTED}={settings!r}: must be an object")
    return settings, str(path)


def of_hf_folder(
    folder: pathlib.Path, defaults: Mapping[str, Any], image_size: int
) -> Preprocessing:
    """The transform of a folder's image processor.

    defaults: for what its settings leave out. Without a file there is no transform:
    fine-tuned models of one kind prepare images in different ways.
    """
    settings, origin = read_hf(folder)
    transform = from_hf({**defaults, **settings}, image_size, origin)
    if pathlib.Path(origin).is_file():
        return transform
    return transform._replace(name="", why=f"{origin} is missing", options={})


def from_hf(settings: Mapping[str, Any], image_size: int, origin: str) -> Preprocessing:
    """The transform for an image processor's settings; origin: their file."""
    mean = three(settings["image_mean"], "image_mean", origin)
    std = three(settings["image_std"], "image_std", origin, positive=True)
    square = isinstance(settings.get("size"), Mapping) and "height" in settings["size"]
    why = _hf_limit(settings, image_size, square)
    if why:
        return Preprocessing("", mean, std, f"{origin}: {why}")
    name = "squash" if square else "clip"
    return Preprocessing(name, mean, std, options=_options(settings))


def _options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The options of squash, whose default is bicubic."""
    bilinear = settings.get("resample") == RESAMPLE["bilinear"]
    return {"interpolation": "bilinear"} if bilinear else {}


def _hf_limit(settings: Mapping[str, Any], image_size: int, square: bool) -> str:
    """Why no transform of ours does this, "" if one does."""
    for key in ("do_resize", "do_normalize", "do_rescale"):
        if not settings.get(key, True):
            return f"{key}=False: clipjax resizes and normalises every image"
    known = dict(RESAMPLE) if square else {"bicubic": RESAMPLE["bicubic"]}
    resample = settings.get("resample", known["bicubic"])
    if resample not in known.values():
        names = " or ".join(f"{name} ({number})" for name, number in known.items())
        return f"resample={resample}: clipjax has {names} here"
    factor = settings.get("rescale_factor", 1 / 255)
    if not math.isclose(factor, 1 / 255, rel_tol=1e-4):
        return f"rescale_factor={factor}: clipjax divides by 255"
    size, crop = settings.get("size"), settings.get("crop_size")
    if square:
        side, cropped = _square(size), image_size
    else:
        side = size.get("shortest_edge") if isinstance(size, Mapping) else size
        cropped = _square(crop) if settings.get("do_center_crop", True) else None
    if side != image_size:
        return f"size={size}: clipjax resizes to the model's size, {image_size}"
    if cropped != image_size:
        return f"crop_size={crop}: clipjax crops to the model's size, {image_size}"
    return ""


def to_hf(
    section: Mapping[str, Any], image_size: int, mean: Any, std: Any
) -> dict[str, Any]:
    """The preprocessor_config.json of `clip`, `openai` or `squash`.

    section: data.preprocess of a config.

    Raises UserError for a transform that the format lacks.
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
    config: Mapping[str, Any], defaults: Preprocessing, origin: str
) -> Preprocessing:
    """The transform for open_clip's preprocess_cfg, whose size is not read.

    defaults: for what the file leaves out. origin: the file, for messages.
    """
    path = f"{origin}: preprocess_cfg"
    mean, std = config.get("mean") or defaults.mean, config.get("std") or defaults.std
    mean, std = three(mean, "mean", path), three(std, "std", path, positive=True)
    names = {"shortest": "clip", "squash": "squash"}
    squash = config.get("resize_mode") == "squash"
    for key, known in (
        ("interpolation", [*RESAMPLE] if squash else ["bicubic"]),
        ("mode", ["RGB"]),
        ("resize_mode", [*names]),
    ):
        value = config.get(key) or known[0]
        if value not in known:
            why = f"{path}.{key}={value!r}: clipjax has {' and '.join(known)}"
            return Preprocessing("", mean, std, why)
    bilinear = config.get("interpolation") == "bilinear"
    options = {"interpolation": "bilinear"} if bilinear else {}
    name = names[config.get("resize_mode") or "shortest"]
    return Preprocessing(name, mean, std, options=options)


def interpolation(section: Mapping[str, Any]) -> str:
    """The interpolation of data.preprocess, by Pillow's and open_clip's name."""
    return section.get("interpolation", "bicubic")


def resize_mode(name: str) -> str:
    """open_clip's resize_mode for one of our transforms.

    Raises UserError for a transform that no foreign format has.
    """
    modes = {"clip": "shortest", "openai": "shortest", "squash": "squash"}
    if name not in modes:
        raise UserError(
            f"data.preprocess={name}: other formats have {', '.join(modes)} only"
        )
    return modes[name]


def _square(size: Any) -> Any:
    if isinstance(size, Mapping):
        return size["height"] if size["height"] == size.get("width") else None
    return size
