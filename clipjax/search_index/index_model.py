"""The model of an index: read as `embed` reads it, and known again by its identity."""

from __future__ import annotations

import logging
import pathlib
from typing import Any

import numpy as np

import clipjax
from clipjax import identity, library, paths
from clipjax.engine import compilation
from clipjax.loaded import Loaded
from clipjax.types import UserError
from clipjax.weights import read_model

logger = logging.getLogger(__name__)


class IndexModel:
    """A model that encodes photos on all devices.

    place: where `library.load` finds it. checkpoint: "best", "latest" or a step.

    Raises UserError for a classifier, and as `library.load` does.
    """

    def __init__(
        self,
        place: str,
        checkpoint: str,
        ema: bool,
        preprocess: str,
        batch_size: int,
        threads: int,
    ):
        compilation.enable_cache(logger.warning)
        parts = library.read(place, checkpoint, ema, preprocess=preprocess)
        if parts.model.image_output == "logits":
            raise UserError(f"{place} is a classifier, which has no embeddings")
        self.place, self._ema, self._preprocess = place, ema, preprocess
        self._named = library.named(place, parts)
        self.encoder, self.variables, self.devices = library.on_all_devices(
            parts, batch_size=batch_size, threads=threads
        )

    @classmethod
    def chosen(cls, name: str, values: Any) -> IndexModel:
        """The model that flags name."""
        place = name
        if not read_model.is_foreign(name) or pathlib.Path(name).exists():
            place = str(paths.local(name, "a model"))
        return cls(
            place,
            values.checkpoint,
            values.ema,
            values.preprocess,
            values.batch_size,
            values.threads,
        )

    @classmethod
    def stored(cls, about: dict[str, Any], values: Any) -> IndexModel:
        """The model of an index."""
        return cls(
            about["place"],
            _checkpoint(about),
            about["ema"],
            about["preprocess"],
            values.batch_size,
            values.threads,
        )

    def about(self) -> dict[str, Any]:
        """What an index keeps of its model."""
        # Of no images, for which nothing is compiled.
        width = self.encoder.images(self.variables, []).embed.shape[1]
        return {
            "model": self._named,
            "place": self.place,
            "ema": self._ema,
            "preprocess": self._preprocess,
            "width": width,
        }

    def check(self, about: dict[str, Any], db: pathlib.Path) -> None:
        """Raises UserError, naming what differs, unless an index is of this model."""
        identity.check(about["model"], self._named, str(db))

    def compile(self) -> None:
        """Compiles the image tower, so that it takes none of the job's time."""
        blank = np.zeros(self.encoder.image_shape, np.uint8)
        self.encoder.images(self.variables, [blank])


def loaded(about: dict[str, Any], elsewhere: str, match: str) -> Loaded:
    """An index's model as a library object.

    elsewhere: its place now, if it was moved. match: a folder of an evaluation.
    """
    return clipjax.load(
        elsewhere or about["place"],
        checkpoint=_checkpoint(about),
        ema=about["ema"],
        preprocess=about["preprocess"],
        match=match,
    )


def _checkpoint(about: dict[str, Any]) -> str:
    return str(about["model"]["step"] or "best")
