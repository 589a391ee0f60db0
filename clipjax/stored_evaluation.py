"""Stored embeddings for an evaluation: opened, and checked against model and data."""

from __future__ import annotations

from typing import Any

from clipjax import data_flags, identity
from clipjax.embeddings import header as headers
from clipjax.embeddings.stored import Embeddings, read_embeddings
from clipjax.engine import datasets
from clipjax.evals.common.stored_rows import StoredRows
from clipjax.types import Config, Source, UserError


def open_stored(folder: str) -> Embeddings:
    """The embeddings of a folder; raises UserError if they are not of images."""
    stored = read_embeddings(folder)
    if stored.images is None:
        raise UserError(
            f"--embeddings={folder}: these are of a file of texts, and evaluators need "
            "those of images: make them by python -m clipjax.embed --data=NAME"
        )
    return stored


def data_of(stored: Embeddings) -> data_flags.DataFlags:
    """The source that was embedded, as on a command line."""
    data = stored.header.data
    return data_flags.DataFlags(data["name"], data["options"], data["split"])


def check_stored(
    stored: Embeddings,
    folder: str,
    now: dict[str, str],
    section: Config,
    source: Source | None,
) -> StoredRows:
    """The embeddings as evaluators take them.

    now: the identity of the model that is evaluated. section, source: the evaluation
    data.

    Raises UserError, naming what differs, if they are of another model or other data.
    """
    identity.check(stored.header.model, now, f"--embeddings={folder}")
    if source is None:
        raise UserError(
            f"--embeddings={folder}: every evaluator has data of its own: choose "
            "others by --evals=NAME"
        )
    here: dict[str, Any] = datasets.describe_source(section, source)
    if told := headers.data_differences(stored.header.data, here):
        raise UserError(
            f"--embeddings={folder} is of other data ({told}): name its data by "
            "--data, or if they have changed since, make it again under another --out"
        )
    return StoredRows(stored, folder)
