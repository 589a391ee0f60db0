"""`evals=corruptions`: how much of its accuracy a model keeps on corrupted images.

The corruptions of ImageNet-C (Hendrycks and Dietterich 2019, arXiv 1903.12261) that
need no image files, at their published severities; see data/images/imagenet_c.py. They
are applied to the preprocessed image, as the image tower gets it before normalisation.
Another evaluator measures each of them: zeroshot, classification or retrieval.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from clipjax import option_checks
from clipjax.data.images import imagenet_c
from clipjax.data.text.lost_texts import Item
from clipjax.encoder import Progress
from clipjax.evals import classification, retrieval, zeroshot
from clipjax.evals.common import bootstrap, protocol, result_rows
from clipjax.evals.common.altered_inputs import AlteredInputs
from clipjax.evals.common.inputs import Inputs
from clipjax.evals.common.intervals import Hits, mean
from clipjax.types import EvalResult, Metric, UserError, Variables

OUTPUT = ("image_embed", "logits")  # either
MEASURES = ("zeroshot", "classification", "retrieval")
CLEAN, CORRUPTED, DROP = "clean", "corrupted", "relative_drop"
_TIMED = 20  # batches to encode, above which two are timed before
_LONG = 60  # seconds, above which it says how long it will take

logger = logging.getLogger(__name__)

Measure = zeroshot.ZeroShot | classification.Classification | retrieval.Retrieval
Corruption = tuple[str, int]  # kind, severity


def make(
    inputs: Inputs,
    *,
    of: str = "",
    kinds: tuple[str, ...] = (),
    severities: tuple[int, ...] = imagenet_c.SEVERITIES,
    seed: int = 0,
    max_samples: int = 0,
    label_sets: tuple[str, ...] = (),
    templates: tuple[str, ...] = (),
    templates_file: str = "",
    class_names_file: str = "",
) -> Corruptions:
    """An evaluator's primary metric on corrupted images.

    Args:
      of: the evaluator: "zeroshot", "retrieval" or "classification"; empty:
        classification for a classifier, zeroshot for data with labels, else retrieval.
      kinds: of gaussian_noise, shot_noise, impulse_noise, defocus_blur, glass_blur,
        zoom_blur, fog, brightness, contrast, elastic_transform, pixelate and
        jpeg_compression; empty: all.
      severities: from 1 to 5.
      seed: of the random kinds. An image's corruption depends on it, the kind, the
        severity and the image's key alone.
      max_samples: the most images, evenly spread over the source; 0: all.
      label_sets, templates, templates_file, class_names_file: those of evals=zeroshot;
        for of="zeroshot" alone.

    Raises:
      UserError: if an option is out of range, as that evaluator's `make`, or if
        embeddings are stored, which hold no corrupted images.
    """
    if inputs.are_stored:
        raise UserError(
            "evals=corruptions encodes corrupted images, and stored embeddings have "
            "none: leave out --embeddings, or evaluate it in a call of its own"
        )
    logits = inputs.encoder.image_output == "logits"
    if not of:
        of = "zeroshot" if inputs.source.class_names else "retrieval"
        of = "classification" if logits else of
    option_checks.one_of("evals=corruptions: of", of, MEASURES)
    if (of == "classification") != logits:
        kind = "a classifier" if logits else "no classifier"
        fix = "classification" if logits else "zeroshot or retrieval"
        raise UserError(
            f"evals=corruptions: of={of!r}: this model is {kind}; use of={fix}"
        )
    for kind in kinds:
        option_checks.one_of("evals=corruptions: kinds", kind, imagenet_c.KINDS)
    kinds = tuple(kinds) or tuple(imagenet_c.KINDS)
    if not severities or not set(severities) <= set(imagenet_c.SEVERITIES):
        raise UserError(
            f"evals=corruptions: severities={severities}: use numbers from 1 to 5"
        )
    for name, values in (("kinds", kinds), ("severities", severities)):
        if len(set(values)) < len(values):
            raise UserError(f"evals=corruptions: {name}={values} names one twice")
    if seed < 0 or max_samples < 0:
        raise UserError(
            f"evals=corruptions: seed={seed}, max_samples={max_samples}: use numbers "
            "from 0 on"
        )
    measure = _measure(
        of,
        AlteredInputs(inputs),
        max_samples,
        {
            "label_sets": label_sets,
            "templates": templates,
            "templates_file": templates_file,
            "class_names_file": class_names_file,
        },
    )
    return Corruptions(inputs, of, measure, kinds, tuple(severities), seed)


def _measure(of: str, inputs: Inputs, max_samples: int, named: dict) -> Measure:
    """The evaluator. named: options of zeroshot."""
    if of == "zeroshot":
        return zeroshot.make(inputs, ks=(1,), max_samples=max_samples, **named)
    for name, value in named.items():
        if value:
            raise UserError(
                f"evals=corruptions: {name}={value!r} is of zeroshot, and of={of!r}: "
                "leave it out"
            )
    maker = classification.make if of == "classification" else retrieval.make
    return maker(inputs, ks=(1,), max_samples=max_samples)


@dataclasses.dataclass(frozen=True)
class Corruptions:
    """The evaluator; see the module and `make`. of: the name of `measure`.

    What the numbers do not mean. They tell of these corruptions at these sizes in
    pixels, not of other shifts, such as another camera's or another style's. A relative
    drop rewards a low clean accuracy: near chance there is little to lose. It is no
    mCE, which divides by AlexNet's errors on ImageNet.
    """

    inputs: Inputs
    of: str
    measure: Measure
    kinds: tuple[str, ...]
    severities: tuple[int, ...]
    seed: int
    _told: list[bool] = dataclasses.field(default_factory=list, compare=False)

    def run(
        self, variables: Variables, progress: Callable[[int, int], None] | None = None
    ) -> EvalResult:
        """Metrics "clean", the measure's primary one; its means over severities,
        "<kind>", over kinds, "severity_<n>", and over both, "corrupted", the primary
        one; "relative_drop", 1 - corrupted / clean in percent, and
        "<kind>/relative_drop", NaN if nothing clean is right.

        Rows: one per image, with `key` and a column for each metric that is a mean: how
        much of its queries (with retrieval also its captions') is right. The column's
        mean is the metric.

        Raises UserError as the measure, and if an image cannot be read again.
        """
        work = len(self.corruptions) + 1
        result = self._run(variables, None, _part(progress, 0, work))
        layout = _Layout.of(result)
        if not self._told and self._count > _TIMED * self.inputs.encoder.batch_size:
            self._told.append(True)
            self._warn_of_time(variables, layout.numbers.tolist())
        hits: dict[Corruption, np.ndarray] = {}
        for place, corruption in enumerate(self.corruptions, 1):
            part = _part(progress, place, work)
            hits[corruption] = _right(self._run(variables, corruption, part))
        groups = {CLEAN: [_right(result)]}
        for name, chosen in self._means.items():
            groups[name] = [hits[one] for one in chosen]
        metrics = {name: layout.mean(values) for name, values in groups.items()}
        columns = {name: layout.by_image(values) for name, values in groups.items()}
        drops = self._drops(columns)
        shown = {CLEAN: metrics.pop(CLEAN), CORRUPTED: metrics.pop(CORRUPTED)}
        shown |= {DROP: drops.pop(DROP)} | metrics | drops
        seen = self.inputs.images(variables, layout.numbers.tolist())
        size = f"{self.of} {result.primary} of {result.size}; kinds of corruption: "
        size += f"{len(self.kinds)}, severities: {len(self.severities)}"
        rows = {"key": seen.keys, **columns}
        how = self._protocol(result)
        return EvalResult(shown, CORRUPTED, size, result.broken, rows, how)

    def metric_units(self) -> dict[str, str]:
        """See types.Evaluator."""
        drops = dict.fromkeys((DROP, *(f"{kind}/{DROP}" for kind in self.kinds)), "%")
        return dict.fromkeys((CLEAN, *self._means), "fraction") | drops

    def texts(self) -> dict[str, tuple[Iterable[Item], int]]:
        """See types.Evaluator."""
        if isinstance(self.measure, classification.Classification):
            return {}
        return self.measure.texts()

    def cost(self) -> str:
        """See types.Evaluator."""
        return (
            f"reads, corrupts and encodes {len(self.measure.indices):,} images "
            f"{len(self.corruptions)} times more ({len(self.kinds)} kinds x "
            f"{len(self.severities)} severities): {self._count:,} images"
        )

    @property
    def corruptions(self) -> list[Corruption]:
        """All, in the order in which they are measured."""
        return list(itertools.product(self.kinds, self.severities))

    @property
    def _count(self) -> int:
        """How many corrupted images are encoded, if all can be read."""
        return len(self.measure.indices) * len(self.corruptions)

    @property
    def _means(self) -> dict[str, list[Corruption]]:
        """The metrics that are means over corruptions, and over which."""
        means = {CORRUPTED: self.corruptions}
        means |= {kind: [(kind, x) for x in self.severities] for kind in self.kinds}
        return means | {
            f"severity_{x}": [(kind, x) for kind in self.kinds] for x in self.severities
        }

    def _run(
        self,
        variables: Variables,
        corruption: Corruption | None,
        progress: Progress | None,
    ) -> EvalResult:
        """The measure's result."""
        alter = corruption and functools.partial(_alter, corruption, self.seed)
        inputs = AlteredInputs(self.inputs, alter)
        measure = dataclasses.replace(self.measure, inputs=inputs)
        return measure.run(variables, progress)

    def _warn_of_time(self, variables: Variables, numbers: Sequence[int]) -> None:
        """Times two batches of images, one corruption after another, and says how long
        all will take if that is long.
        """
        encoder = self.inputs.encoder
        every = itertools.cycle(self.corruptions)
        some = list(itertools.islice(itertools.cycle(numbers), 2 * encoder.batch_size))
        begin = time.monotonic()
        encoder.images(
            variables,
            self.inputs.source,
            some,
            alter=lambda key, pixels: _alter(next(every), self.seed, key, pixels),
        )
        rate = len(some) / (time.monotonic() - begin)
        count = len(numbers) * len(self.corruptions)
        if count / rate > _LONG:
            logger.warning(
                "evals=corruptions: %s corrupted images take about %.0f min (%.0f/s)",
                f"{count:,}",
                count / rate / 60,
                rate,
            )

    def _drops(self, columns: dict[str, np.ndarray]) -> dict[str, Metric]:
        """The relative drops. columns: float [n] of each mean, by its name."""
        names = {CORRUPTED: DROP} | {kind: f"{kind}/{DROP}" for kind in self.kinds}
        clean, count = columns[CLEAN], len(columns[CLEAN])
        if not clean.any():
            none = Metric(float("nan"), None, "%", higher_is_better=False, n=count)
            return dict.fromkeys(names.values(), none)
        values = np.column_stack([columns[name] for name in names])
        ratios = values.mean(axis=0) / clean.mean()
        intervals = bootstrap.ratios_over_images(values, clean)
        found = {}
        for name, ratio, (low, high) in zip(
            names.values(), ratios.tolist(), intervals, strict=True
        ):
            # Rounded, so that what differs in its last bits alone is 0.
            value, *ends = (round(100 * (1 - x), 9) for x in (ratio, high, low))
            found[name] = Metric(value, None, "%", False, *ends, n=count)
        return found

    def _protocol(self, result: EvalResult) -> str:
        levels = ", ".join(map(str, self.severities))
        size = " x ".join(map(str, self.inputs.encoder.image_shape[:2]))
        return protocol.joined(
            f"{self.of} {result.primary}, corrupted at {size} pixels by "
            f"{', '.join(self.kinds)} of severity {levels}, seed {self.seed}",
            result.protocol,
        )


class _Layout(NamedTuple):
    """The queries of a measure, which are the same for every corruption.

    parts: int arrays, the queries of each share that the primary metric averages, such
    as a direction's. owner: int [n], each query's image, a place in `numbers`.
    numbers: int64, the images' in the source. chance: the metric's.
    """

    parts: list[np.ndarray]
    owner: np.ndarray
    numbers: np.ndarray
    chance: float | None

    @classmethod
    def of(cls, result: EvalResult) -> _Layout:
        rows = result.rows
        names = rows["direction"] if "direction" in rows else rows["label_set"]
        kinds, part = np.unique(np.array(names), return_inverse=True)
        numbers, owner = np.unique(np.array(rows["key"], np.int64), return_inverse=True)
        parts = [np.flatnonzero(part == place) for place in range(len(kinds))]
        return cls(parts, owner, numbers, result.metrics[result.primary].chance)

    def mean(self, values: Sequence[np.ndarray]) -> Metric:
        """The mean over corruptions. values: each one's hits, float [n]."""
        hits = [
            Hits(one[part], self.owner[part], self.chance)
            for one in values
            for part in self.parts
        ]
        return dataclasses.replace(mean(hits), n=len(self.owner))

    def by_image(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """float [images], whose mean is that of `mean`."""
        count, hits = len(self.numbers), np.mean(values, axis=0)
        sums = [
            np.bincount(self.owner[part], hits[part], count) / len(part)
            for part in self.parts
        ]
        return np.mean(sums, axis=0) * count


def _right(result: EvalResult) -> np.ndarray:
    """float [n], each query's probability to hit at 1."""
    return result_rows.ranks_of(result.rows).hits(1)


def _alter(
    corruption: Corruption, seed: int, key: str, pixels: np.ndarray
) -> np.ndarray:
    rng = imagenet_c.generator(seed, *corruption, key)
    return imagenet_c.corrupt(pixels, *corruption, rng)


def _part(progress: Progress | None, place: int, work: int) -> Progress | None:
    """Progress of one of `work` runs of the measure, each as long as the others."""
    if progress is None:
        return None
    return lambda done, total: progress(place * total + done, work * total)
