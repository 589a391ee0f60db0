"""`evals=calibration`: is a model right as often as its confidence says?

The confidence is the largest probability over the classes: the softmax of a
classifier's logits, or of logit_scale * cosine in zero-shot classification. It is
compared with how many predictions are right, as it is and after temperature scaling
(evals/common/temperature.py): the temperature is fitted on half of the images, and
everything is measured on the other half.

`clipjax.reliability` makes the table of a reliability diagram from the rows.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from clipjax.data.text.lost_texts import Item
from clipjax.evals import classification, zeroshot
from clipjax.evals.common import confidence_bins, protocol, result_rows, temperature
from clipjax.evals.common.bootstrap import means_over_images
from clipjax.evals.common.classified import Classified
from clipjax.evals.common.inputs import Inputs
from clipjax.evals.common.intervals import Hits, mean_of_metrics, share
from clipjax.evals.common.match_pairs import HALVES
from clipjax.evals.common.temperature import Judged, Temperature
from clipjax.pulse import pulse
from clipjax.types import EvalResult, Metric, Rows, UserError, Variables

OUTPUT = ("image_embed", "logits")  # either
SCALED = "scaled/"
FIT, MEASURED = range(len(HALVES))
ERRORS = ("ece", "adaptive_ece")  # by bins of equal width, and of equal mass
UNITS = {
    "ece": "fraction",
    "ideal_ece": "fraction",
    "adaptive_ece": "fraction",
    "ideal_adaptive_ece": "fraction",
    "overconfidence": "%",
    "nll": "",
    "brier": "",
}
_AT_ONCE = 2**21  # logits held at once, as float64

Measure = zeroshot.ZeroShot | classification.Classification


def make(
    inputs: Inputs,
    *,
    bins: int = 15,
    seed: int = 0,
    same_image: bool = False,
    label_sets: tuple[str, ...] = (),
    templates: tuple[str, ...] = (),
    templates_file: str = "",
    class_names_file: str = "",
    same_name: str = "apart",
    max_samples: int = 0,
) -> Calibration:
    """Calibration of a classifier, or of zero-shot classification.

    Args:
      bins: how many bins confidences are put into, of equal widths and of equal numbers
        of images.
      seed: of the halves.
      same_image: keeps copies of an image (files of the same bytes) in one half, and
        takes them as one in the intervals.
      label_sets, templates, templates_file, class_names_file: those of evals=zeroshot;
        not for a classifier.
      same_name: that of evals=zeroshot, or of a classifier's evals=classification.
      max_samples: the most images, evenly spread over the source; 0: all.

    Raises:
      UserError: if an option is out of range, the data has no labels, and as the `make`
        of these evaluators.
    """
    if not 1 <= bins <= confidence_bins.MOST or seed < 0 or max_samples < 0:
        raise UserError(
            f"evals=calibration: bins={bins}, seed={seed}, max_samples={max_samples}: "
            f"use bins from 1 to {confidence_bins.MOST:,}, and the others from 0 on"
        )
    if not inputs.source.class_names:
        raise UserError(
            "evals=calibration needs images with class labels, and the data has none; "
            "choose other evaluation data, such as calibration@imagefolder"
        )
    named = {
        "label_sets": label_sets,
        "templates": templates,
        "templates_file": templates_file,
        "class_names_file": class_names_file,
    }
    options = {"ks": (1,), "max_samples": max_samples, "same_name": same_name}
    if inputs.encoder.image_output == "logits":
        for name, value in named.items():
            if value:
                raise UserError(
                    f"evals=calibration: {name}={value!r} is for zero-shot "
                    "classification, and this model is a classifier: leave it out"
                )
        measure, what = classification.make(inputs, **options), "logits"
    else:
        measure = zeroshot.make(inputs, **options, **named)
        what = "logit_scale * cosine"
    if same_image:
        inputs.need_digests()
    how = protocol.joined(
        f"softmax of {what}, {bins} bins, measured on one half and temperature fit on "
        f"the other by seed {seed}",
        "same_image" if same_image else "",
        measure.protocol,
    )
    return Calibration(inputs, measure, bins, seed, same_image, how)


@dataclasses.dataclass(frozen=True)
class Calibration:
    """The evaluator; see the module and `make`.

    What the numbers do not mean. A calibrated model need not be a good one: one that
    gives every image the classes' frequencies has no calibration error. The error is
    biased upward, the more the fewer images and the more bins: compare it with that of
    a calibrated model, and models on the same images. It is of the most likely class
    alone. And confidences are shares among the given classes, so none says how likely
    it is that no class fits: see evals=match.
    """

    inputs: Inputs
    measure: Measure
    bins: int
    seed: int
    same_image: bool
    how: str

    def run(
        self, variables: Variables, progress: Callable[[int, int], None] | None = None
    ) -> EvalResult:
        """The metrics of the measured half; with zero-shot classification they begin
        with "<set>/".

        ece, adaptive_ece: the calibration errors by bins of equal width, and of equal
        numbers of images; ideal_ece, ideal_adaptive_ece: what a perfectly calibrated
        model with these confidences gets, see confidence_bins.if_calibrated.
        overconfidence: mean confidence - accuracy, in points of percent. nll: the mean
        cross entropy of the label, in nats. brier: the mean squared distance of the
        probabilities and the label's, from 0 to 2. accuracy. temperature: of the other
        half. "scaled/ece" and so on are after temperature scaling. The primary metric
        is ece, with several sets their mean, "mean_ece".

        Images whose outputs are not finite are left out and counted. A metric without
        images, or a temperature without any to fit, is NaN, and `size` says so.

        Rows: one per image and label set: key, label_set, label, prediction,
        label_name, prediction_name (-1 and "" if the output is not finite), half ("fit"
        or "measured"), hit (how likely the prediction is right, below 1 if it
        ties), confidence and scaled_confidence (NaN if there is none), and a column of
        their name for the metrics that are means over measured images, NaN for others.

        Raises UserError if the model gives no logit_scale, and as zeroshot's and
        classification's `run`.
        """
        scale = 1.0
        if isinstance(self.measure, zeroshot.ZeroShot):
            scale = self.inputs.encoder.scalar(variables, "logit_scale")
        reading = self.measure.read(variables, progress)
        metrics: dict[str, Metric] = {}
        tables, sizes = [], []
        with pulse.working():  # other processes wait
            for data in reading.sets:
                part = _Part(self, data, scale)
                start = self._start(data.label_set)
                metrics |= {f"{start}{name}": x for name, x in part.metrics().items()}
                tables.append(part.rows())
                sizes.append(f"{data.label_set}: {part.size}" if start else part.size)
        primary = f"{self._start(reading.sets[0].label_set)}ece"
        if len(reading.sets) > 1:
            primary = "mean_ece"
            found = [metrics[f"{data.label_set}/ece"] for data in reading.sets]
            metrics = {primary: mean_of_metrics(found, [0] * len(found))} | metrics
        return EvalResult(
            metrics,
            primary,
            "; ".join(sizes),
            len(reading.seen.broken),
            result_rows.join(tables),
            self.how,
        )

    def metric_units(self) -> dict[str, str]:
        """See types.Evaluator."""
        own = _units()
        if isinstance(self.measure, classification.Classification):
            return own
        sets = list(self.measure.prompts)
        units = {f"{one}/{name}": unit for one in sets for name, unit in own.items()}
        return units | ({"mean_ece": "fraction"} if len(sets) > 1 else {})

    def texts(self) -> dict[str, tuple[Iterable[Item], int]]:
        """See types.Evaluator."""
        if isinstance(self.measure, classification.Classification):
            return {}
        return self.measure.texts()

    def _start(self, label_set: str) -> str:
        zero_shot = isinstance(self.measure, zeroshot.ZeroShot)
        return f"{label_set}/" if zero_shot else ""


class _Part:
    """One label set. size: what it has, in words."""

    def __init__(self, made: Calibration, data: Classified, scale: float):
        self._data, self._scale, self._bins = data, scale, made.bins
        count = len(data.labels)
        self._groups = np.arange(count)
        if made.same_image and (digests := data.seen.digests) is not None:
            own = [digests[place] for place in data.places]
            self._groups = np.unique(own, return_inverse=True)[1]
        self._half = _halves(self._groups, made.seed)
        good = data.finite() & math.isfinite(scale)
        fitted, measured = (
            np.flatnonzero(good & (self._half == half)) for half in (FIT, MEASURED)
        )
        self._fitted, self._measured = len(fitted), measured
        self._ranks = data.ranks(1)
        self._right = self._ranks.hits(1)
        self._fit = Temperature(math.nan, problem="no image to fit a temperature to")
        if len(fitted):
            blocks = self._blocks(fitted)
            self._fit = temperature.fit(blocks, self._groups[fitted])
        every = np.flatnonzero(good)
        self._judged = {
            "": self._judge(every, 1.0),
            SCALED: self._judge(every, self._fit.value),
        }
        self._columns: dict[str, np.ndarray] = {}  # see rows
        notes = [data.size, f"{len(measured)} measured"]
        if len(every) < count:
            notes.append(f"{count - len(every)} outputs not finite and left out")
        if not len(measured):
            notes.append("no image to measure")
        if self._fit.problem:
            notes.append(self._fit.problem)
        self.size = ", ".join(notes)

    def metrics(self) -> dict[str, Metric]:
        """By name, without the label set's."""
        fit = self._fit
        ends = fit.low, fit.high
        alone = {
            "accuracy": self._accuracy(),
            "temperature": Metric(fit.value, None, "", False, *ends, self._fitted),
        }
        before, after = (self._measures(start) for start in ("", SCALED))
        return before | alone | {f"{SCALED}{name}": x for name, x in after.items()}

    def rows(self) -> Rows:
        """See Calibration.run; after `metrics`."""
        data, nearest = self._data, self._ranks.nearest
        assert nearest is not None  # it was asked for
        predicted = nearest[:, 0]
        return {
            "key": data.keys,
            "label_set": [data.label_set] * len(data.labels),
            "label": data.labels,
            "prediction": predicted,
            "label_name": [data.names[at] for at in data.labels],
            "prediction_name": [data.names[at] if at >= 0 else "" for at in predicted],
            "half": [HALVES[half] for half in self._half],
            "hit": self._right,
            "confidence": self._judged[""].confidence,
            "scaled_confidence": self._judged[SCALED].confidence,
            **self._columns,
        }

    def _measures(self, start: str) -> dict[str, Metric]:
        """Those of UNITS. start: "" or SCALED."""
        taken = self._measured
        judged = Judged(*(column[taken] for column in self._judged[start]))
        nothing = not len(taken) or not np.isfinite(judged.confidence).all()
        if nothing:
            judged = Judged(*np.full((3, len(taken)), np.nan))
        confidence, right = judged.confidence, self._right[taken]
        ways = [
            confidence_bins.of_equal_width(confidence, self._bins),
            confidence_bins.of_equal_mass(confidence, self._bins),
        ]
        columns = {
            name: confidence_bins.by_image(confidence, right, way)
            for name, way in zip(ERRORS, ways, strict=True)
        } | {
            "overconfidence": 100 * (confidence - right),
            "nll": judged.loss,
            "brier": judged.brier,
        }
        for name, column in columns.items():
            whole = self._columns[f"{start}{name}"] = np.full(len(self._half), np.nan)
            whole[taken] = column
        if nothing:
            return {
                name: Metric(math.nan, unit=unit, higher_is_better=False, n=0)
                for name, unit in UNITS.items()
            }
        _, groups = np.unique(self._groups[taken], return_inverse=True)
        errors = confidence_bins.errors(confidence, right, ways, groups)
        expected = confidence_bins.if_calibrated(confidence, ways, groups)
        found = self._means(columns, groups)
        for name, error, chance in zip(ERRORS, errors, expected, strict=True):
            found |= {name: error, f"ideal_{name}": chance}
        return {name: found[name] for name in UNITS}

    def _means(
        self, columns: dict[str, np.ndarray], groups: np.ndarray
    ) -> dict[str, Metric]:
        """The metrics that are means over images, of their columns."""
        count, classes = len(groups), len(self._data.names)
        uninformed = {"nll": math.log(classes), "brier": 1 - 1 / classes}
        most = max(uninformed["nll"], float(columns["nll"].max()))
        ends = {"overconfidence": (-100.0, 100.0), "nll": (0, most), "brier": (0, 2)}
        units = int(groups.max()) + 1
        by_unit = [np.bincount(groups, columns[name]) * units / count for name in ends]
        intervals = means_over_images(np.stack(by_unit, axis=1), list(ends.values()))
        metrics = {}
        for name, (low, high) in zip(ends, intervals, strict=True):
            value = float(columns[name].mean())
            bounds = min(low, value), max(high, value)
            chance = uninformed.get(name)
            metrics[name] = Metric(value, chance, UNITS[name], False, *bounds, count)
        return metrics

    def _accuracy(self) -> Metric:
        if not len(self._measured):
            return Metric(math.nan, unit="fraction", n=0)
        _, groups = np.unique(self._groups[self._measured], return_inverse=True)
        chance = 1 / len(self._data.names)
        return share(Hits(self._right[self._measured], groups, chance))

    def _judge(self, places: np.ndarray, value: float) -> Judged:
        """Of all n images; NaN but for those at `places`, or if there is no value."""
        found = Judged(*np.full((3, len(self._data.labels)), np.nan))
        if math.isfinite(value):
            judged = temperature.judge(self._blocks(places), value)
            for whole, own in zip(found, judged, strict=True):
                whole[places] = own
        return found

    def _blocks(self, places: np.ndarray) -> temperature.Blocks:
        """The logits of these images, made anew at each pass, so that memory is small
        whatever the number of classes."""
        rows = max(1, _AT_ONCE // len(self._data.names))

        def blocks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for start in range(0, len(places), rows):
                taken = places[start : start + rows]
                scores = self._data.scores(taken).astype(np.float64)
                yield scores * self._scale, self._data.labels[taken]

        return blocks


def _units() -> dict[str, str]:
    """The metrics of a label set."""
    scaled = {f"{SCALED}{name}": unit for name, unit in UNITS.items()}
    return UNITS | {"accuracy": "fraction", "temperature": ""} | scaled


def _halves(groups: np.ndarray, seed: int) -> np.ndarray:
    """int [n]: the half of each image; those of a group are in the same.

    groups: int [n] from 0. The half that is measured has one more if they are odd.
    """
    count = int(groups.max()) + 1
    half = np.full(count, MEASURED)
    half[np.random.default_rng(seed).permutation(count)[: count // 2]] = FIT
    return half[groups]
