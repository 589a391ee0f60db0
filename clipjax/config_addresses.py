"""Addresses in a config: the section of each family of components, and back."""

from __future__ import annotations

import re

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
_EVALUATION = r"data\.eval|evals\.(\w+)\.data"  # sections of other sources


def family(section: str) -> str:
    """The family whose component a section holds; "" if it holds none."""
    for name, place in SECTIONS.items():
        if section == place:
            return name
    return "data" if re.fullmatch(_EVALUATION, section) else ""


def argument_word(path: str) -> str:
    """The word after --config's colon that chooses the component of a section.

    path: a section, or one of several in it ("loss.clip").
    """
    if path == "data.eval":
        return "eval_data"
    if re.fullmatch(_EVALUATION, path):
        return "evals"
    return family(path) or family(path.rpartition(".")[0])


def spelled(key: str) -> str:
    """What follows "options" in an address that is nearly right, with " Did you mean".

    key: "SECTION" or "SECTION=COMPONENT", of which the section is not known.
    """
    section, equals, component = key.partition("=")
    if section in SECTIONS:  # the word that chooses it on the command line
        section = SECTIONS[section]
        return f' Did you mean "{section}{equals}{component or "=NAME"}"?'
    return registry.suggest(key, [f"{s}{equals}{component}" for s in known()])


def known() -> list[str]:
    """The sections that hold components, in the order in which a config has them."""
    return [*SECTIONS.values(), "data.eval", "evals.LABEL.data"]
