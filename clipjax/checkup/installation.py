"""Versions of what clipjax is made of, and its extras."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
from collections.abc import Iterator

from clipjax.checkup.findings import Finding, error, ok, warning

CORE = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "numpy",
    "pillow",
)
# Extra -> the modules it brings, and what they are for.
EXTRAS = {
    "cuda": (("jax_cuda13_plugin", "pynvml"), "NVIDIA GPUs, and their counters"),
    "tpu": (("libtpu",), "TPUs"),
    "text": (("tokenizers", "sentencepiece"), "released tokenizers"),
    "images": (("cv2",), "faster decoding and resizing of images"),
    "photos": (("pillow_heif", "rawpy"), "HEIC and RAW images"),
    "look": (("matplotlib", "jinja2", "sklearn"), "clipjax.report"),
    "study": (("optuna",), "clipjax.study"),
    "hf": (("huggingface_hub",), "models named hf-hub:..."),
    "board": (("tensorboard",), "curves in TensorBoard"),
    "wandb": (("wandb",), "log.wandb"),
    "gcs": (("gcsfs",), "data at gs://"),
    "s3": (("s3fs",), "data at s3://"),
}


def versions() -> Iterator[Finding]:
    """The versions of the parts, and whether any is absent."""
    there, absent = [], []
    for name in CORE:
        version = version_of(name)
        (there if version else absent).append(f"{name} {version}".strip())
    clipjax = version_of("clipjax") or "from its folder"
    yield ok(
        f"Python {platform.python_version()}, clipjax {clipjax}, {', '.join(there)}"
    )
    if absent:
        yield error(f"{', '.join(absent)} is absent", "pip install -e . again")
    jax, jaxlib = version_of("jax"), version_of("jaxlib")
    if jax and jaxlib and jax != jaxlib:
        yield warning(f"jax is {jax} and jaxlib {jaxlib}", f"pip install jaxlib=={jax}")


def extras() -> Iterator[Finding]:
    """Which extras are there, and what the absent ones are for."""
    there, absent = [], []
    for name, (modules, purpose) in EXTRAS.items():
        found = [importlib.util.find_spec(module) is not None for module in modules]
        if all(found):
            there.append(name)
        else:
            absent.append(f"{name} ({purpose})")
    yield ok(f"extras: {', '.join(there) or 'none'}")
    if absent:
        yield ok(f"not installed, pip install -e '.[NAME]': {', '.join(absent)}")


def version_of(name: str) -> str:
    """A package's version, "" if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
