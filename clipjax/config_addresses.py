"""Addresses in a config: each component family's section, and back."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping

from clipjax import registry

# Family -> the section that holds its component.
SECTIONS = {
    "model": "model",
    "image": "model.image",
    "text": "model.text",
    "loss": "loss",
    "optim": "optim",
    "schedule": "optim.schedule",
    "data": "data.train",
    "tokenizer": "data.tokenizer",
    "preprocess": "data.preprocess",
    "augment": "data.augment",
    "text_augment": "data.text_augment",
    "evals": "evals",
}
_EVALUATION = r"data\.eval|evals\.(\w+)\.data"  # sections of evaluation's sources


def family(section: str) -> str:
    """The family whose component a section holds; "" if it holds none."""
    for name, its_section in SECTIONS.items():
        if section == its_section:
            return name
    return "data" if re.fullmatch(_EVALUATION, section) else ""


def argument_word(path: str) -> str:
    """The word after --config's colon that chooses the component of a section.

    path: a section, or one of several components in it ("loss.clip").
    """
    if path == "data.eval":
        return "eval_data"
    if re.fullmatch(_EVALUATION, path):
        return "evals"
    return family(path) or family(path.rpartition(".")[0])


def suggest_address(key: str) -> str:
    """ " Did you mean ...?" for an address whose section is unknown, else "".

    key: "SECTION" or "SECTION=COMPONENT".
    """
    section, equals, component = key.partition("=")
    if section in SECTIONS:  # the command line's word for it
        section = SECTIONS[section]
        return f' Did you mean "{section}{equals}{component or "=NAME"}"?'
    return registry.suggest(
        key, [f"{s}{equals}{component}" for s in component_sections()]
    )


def component_sections() -> list[str]:
    """The sections that hold components, in a config's order."""
    return [*SECTIONS.values(), "data.eval", "evals.LABEL.data"]


# Words of other programs -> ours; several are tried in order.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "accumulation": ("micro_batches",),
    "accumulation_steps": ("micro_batches",),
    "amp": ("precision",),
    "attention_heads": ("heads",),
    "batch": ("batch_size",),
    "beta1": ("b1",),
    "beta2": ("b2",),
    "bs": ("batch_size",),
    "checkpointing": ("remat",),
    "clip_grad": ("clip_norm",),
    "context_len": ("context_length",),
    "dataset": ("path",),
    "dim": ("width", "embed_dim"),
    "dtype": ("precision",),
    "dir": ("path",),
    "embed_size": ("embed_dim",),
    "embedding_dim": ("embed_dim",),
    "embedding_size": ("embed_dim",),
    "embeddings": ("embed_dim",),
    "ema_decay": ("ema",),
    "epoch": ("epochs",),
    "epsilon": ("eps",),
    "eval_steps": ("eval_every",),
    "folder": ("path",),
    "global_batch_size": ("batch_size",),
    "grad_accum": ("micro_batches",),
    "grad_checkpointing": ("remat",),
    "grad_clip": ("clip_norm",),
    "grad_clip_norm": ("clip_norm",),
    "gradient_accumulation": ("micro_batches",),
    "gradient_accumulation_steps": ("micro_batches",),
    "gradient_checkpointing": ("remat",),
    "gradient_clipping": ("clip_norm",),
    "hidden_dim": ("width",),
    "hidden_size": ("width",),
    "image_resolution": ("image_size",),
    "img_size": ("image_size",),
    "iterations": ("steps",),
    "language": ("text",),
    "layers": ("depth",),
    "learning_rate": ("lr",),
    "log_every": ("every",),
    "lora_r": ("rank",),
    "max_epochs": ("epochs",),
    "max_grad_norm": ("clip_norm",),
    "max_length": ("context_length",),
    "max_steps": ("steps",),
    "mixed_precision": ("precision",),
    "n_layers": ("depth",),
    "num_epochs": ("epochs",),
    "num_heads": ("heads",),
    "num_layers": ("depth",),
    "num_steps": ("steps",),
    "num_train_epochs": ("epochs",),
    "num_workers": ("workers",),
    "optimizer": ("optim",),
    "per_device_train_batch_size": ("batch_size",),
    "pretrained": ("init_from",),
    "r": ("rank",),
    "random_seed": ("seed",),
    "rate": ("lr",),
    "resolution": ("resolution", "image_size"),
    "root": ("path",),
    "save_every": ("every",),
    "save_steps": ("every",),
    "scheduler": ("schedule",),
    "temperature": ("temperature", "logit_scale_init"),
    "total_steps": ("steps",),
    "vision": ("image",),
    "visual": ("image",),
    "warmup_steps": ("warmup",),
    "wd": ("weight_decay",),
}
# Word of other programs -> the section that it belongs to.
_SECTION_OF = {
    "log_every": "log",
    "save_every": "checkpoint",
    "save_steps": "checkpoint",
}


def nearest(key: str, leaves: Iterable[str], flag: str = "--config.") -> str:
    """Returns " Did you mean --config.optim.lr?" for a wrong address, else "".

    key: an address that does not exist, "optim.learning_rate". leaves: those that do.
    """
    candidates = _meant(key, list(leaves))[:2]
    if not candidates:
        return ""
    return f" Did you mean {' or '.join(f'{flag}{leaf}' for leaf in candidates)}?"


def _meant(key: str, leaves: list[str]) -> list[str]:
    """The addresses that a wrong one may mean, the likeliest first.

    First come those whose last word is the same or a synonym and that share the most
    sections, then those with a similar spelling.
    """
    *sections, last = key.lower().replace("-", "_").split(".")
    around = {word for part in sections for word in (part, *SYNONYMS.get(part, ()))}
    around.add(_SECTION_OF.get(last, ""))
    for word in dict.fromkeys((last, *SYNONYMS.get(last, ()))):
        same = [leaf for leaf in leaves if leaf.rpartition(".")[2] == word]
        shared = {leaf: len(around & set(leaf.split(".")[:-1])) for leaf in same}
        most = max(shared.values(), default=0)
        same = [leaf for leaf in same if shared[leaf] == most]
        if same:
            return sorted(same, key=lambda leaf: leaf.count("."))
    for leaf in difflib.get_close_matches(key, leaves, n=3, cutoff=0.75):
        if difflib.get_close_matches(last, [leaf.rpartition(".")[2]]):
            return [leaf]
    words = {leaf.rpartition(".")[2] for leaf in leaves}
    for word in difflib.get_close_matches(last, sorted(words), n=1, cutoff=0.7):
        if word != last:
            return _meant(".".join([*sections, word]), leaves)
    return []


def of_others(key: str, chosen: Mapping[str, str]) -> str:
    """A sentence naming the components that have an option the chosen one lacks, or "".

    key: its address. chosen: the component of each section ("optim" -> "adamw").
    """
    section, _, option = key.rpartition(".")
    section = SECTIONS.get(section, section)
    kind = family(section)
    if not kind or section not in chosen:
        return ""
    have = [
        name
        for name in registry.names(kind)
        if option in registry.options(registry.load(kind, name))
    ]
    if not have or chosen[section] in have:
        return ""
    word = argument_word(section)
    *first, last = (f"{word}={name}" for name in have)
    words = f"{', '.join(first)} and {last}" if first else last
    return (
        f" {option} is an option of {words}, and this config has "
        f"{word}={chosen[section]}; choose after the colon: --config FILE.py:{word}="
        f"{have[0]}"
    )
