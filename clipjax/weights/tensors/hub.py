"""Models from the Hugging Face hub, kept in its cache."""

from __future__ import annotations

import importlib
import pathlib
from collections.abc import Mapping

from clipjax import downloads, paths
from clipjax.types import UserError
from clipjax.weights.beside import tokenizer_choice

PREFIX = "hf-hub:"
SMALL = ("*.json", "*.txt", "*.model")
# Names by which models are known -> theirs on the hub.
KNOWN = {
    "ViT-B-32": "openai/clip-vit-base-patch32",
    "ViT-B/32": "openai/clip-vit-base-patch32",
    "ViT-B-16": "openai/clip-vit-base-patch16",
    "ViT-B/16": "openai/clip-vit-base-patch16",
    "ViT-L-14": "openai/clip-vit-large-patch14",
    "ViT-L/14": "openai/clip-vit-large-patch14",
    "ViT-L-14-336": "openai/clip-vit-large-patch14-336",
    "ViT-L/14@336px": "openai/clip-vit-large-patch14-336",
    "ViT-B-16-SigLIP": "google/siglip-base-patch16-224",
}
# Whose models are meant by ORG/NAME alone, which could also be a folder.
ORGANISATIONS = ("openai", "laion", "google", "timm", "apple", "facebook")


def full_name(name: str) -> str:
    """Returns "hf-hub:org/name" for a well-known name, another as it is.

    A file or folder of that name comes first.
    """
    organisation, slash, rest = name.partition("/")
    known = name in KNOWN
    of_hub = organisation in ORGANISATIONS and slash and rest and "/" not in rest
    if not (known or of_hub) or paths.expand(name).exists():
        return name
    return PREFIX + KNOWN.get(name, name)


def fetch(name: str, weights: Mapping[str, tuple[str, ...]]) -> pathlib.Path:
    """The folder of "hf-hub:org/name" with its settings and one weight file.

    weights: the settings file's name -> names of its weight files, best first. Only
    the first that exists is downloaded.

    Raises UserError, in one line, if the library or the network is missing.
    """
    repository = name.removeprefix(PREFIX)
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise UserError(f"{name}: a model on the hub is written {PREFIX}ORG/NAME")
    folder = _snapshot(repository, SMALL)
    for settings, names in weights.items():
        if not (folder / settings).is_file():
            continue
        for name_of_file in names:
            patterns = (name_of_file,)
            if name_of_file.endswith(".json"):
                if not (folder / name_of_file).is_file():
                    continue
                shard_of = tokenizer_choice.read_json(folder / name_of_file).get(
                    "weight_map", {}
                )
                patterns = tuple(sorted({*map(str, shard_of.values())}))
            _snapshot(repository, patterns)
            if (folder / name_of_file).is_file():
                return folder
    return folder


def _snapshot(repository: str, patterns: tuple[str, ...]) -> pathlib.Path:
    try:
        library = importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise UserError(
            f"{PREFIX}{repository} needs the huggingface_hub library: "
            f"pip install -e '.[hf]', or {_by_hand(repository)}"
        ) from error
    try:
        folder = library.snapshot_download(repository, allow_patterns=list(patterns))
    except Exception as error:  # the library raises many: offline, refused, disk full
        raise UserError(
            f"{PREFIX}{repository} could not be fetched and is not in the cache "
            f"({type(error).__name__}: {downloads.one_line(error)}): "
            f"{_by_hand(repository)}"
        ) from error
    return pathlib.Path(folder)


def _by_hand(repository: str) -> str:
    """What a user without a network does."""
    folder = repository.rpartition("/")[2]
    return (
        "put its model.safetensors, config.json, preprocessor_config.json and "
        "tokenizer.json (of open_clip: open_clip_model.safetensors and "
        f"open_clip_config.json) into a folder such as {folder}/, and give that folder "
        "as the model"
    )
