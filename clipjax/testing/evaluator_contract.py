"""An evaluator's contract: metrics that say what they mean, from a pure `run`."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow

from clipjax.data.annotations.image_pairs import ImagePair
from clipjax.data.class_lists import Classes
from clipjax.data.tokenizers import char
from clipjax.encoder import Encoder
from clipjax.evals.common.inputs import Inputs
from clipjax.testing import contract
from clipjax.testing.contract import Check, Component, must
from clipjax.types import (
    Announced,
    BadExample,
    EvalResult,
    Example,
    Metric,
    Variables,
)

CLASSES = ("circle", "square", "star")
COUNT, WIDTH, BROKEN = 13, 8, 5


class Pictures:
    """COUNT single-valued pictures with two captions and a class each, in pairs; one is
    broken.

    split: "" or that of other pictures, for an evaluator that fits.
    reads: the indices read so far, in order.
    """

    max_captions = 2
    class_names: Mapping[str, Sequence[str]] = {"shape": CLASSES}
    templates: Mapping[str, Sequence[str]] = {"shape": ("a {}", "one {}")}
    pairs = tuple(ImagePair(f"{n}", 2 * n, 2 * n + 1, {}) for n in range(COUNT // 2))

    def __init__(self, split: str = "") -> None:
        self._split = f"{split} " if split else ""
        self.caption_counts = np.full(COUNT, 2, np.int32)
        self.reads: list[int] = []

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> Example:
        self.reads.append(index)
        if index == BROKEN:
            raise BadExample("it is broken", f"{self._split}picture {index}")
        shape = index % len(CLASSES)
        name = f"{CLASSES[shape]} {chr(ord('a') + index)}"
        captions = [f"a {name}", f"one {name}"]
        shade = index + COUNT * bool(self._split)
        image = np.full((4, 4, 3), shade, np.uint8)
        key = f"{self._split}picture {index}"
        return Example(image, captions, {"shape": shape}, key=key)


class Model:
    """Looks embeddings (or logits) up by a picture's value and a text's letters."""

    def __init__(self, image_output: str) -> None:
        self.image_output = image_output

    def encode_image(self, variables: Variables, image: Any) -> dict[str, Any]:
        rows = variables["params"]["image"][image[:, 0, 0, 0]]
        if self._classifies:
            return {"logits": rows[:, : len(CLASSES)]}
        return {"image_embed": _unit(rows), "logit_scale": jnp.float32(10)}

    def encode_text(self, variables: Variables, text: Any, mask: Any) -> dict[str, Any]:
        letters = variables["params"]["text"][text] * mask[..., None]
        return {"text_embed": _unit(letters.sum(axis=1))}

    @property
    def _classifies(self) -> bool:
        return self.image_output == "logits"


def _unit(x: Any) -> Any:
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def _variables(seed: int) -> Variables:
    keys = jax.random.split(jax.random.key(seed))
    image, text = (jax.random.normal(key, (256, WIDTH)) for key in keys)
    return {"params": {"image": image, "text": text}}


def checks(component: Component) -> Iterator[Check]:
    """The checks of types.Evaluator, over a small source with a broken picture, or of
    types.Summary, over results made up.
    """
    documented = functools.partial(contract.options_are_documented, component)
    yield Check("options are typed and documented", documented)
    if component.constant("SUMMARY"):
        summary = functools.partial(_summary, component)
        yield Check("a summary is a function of the others' results", summary)
        return
    bench = Bench(component)
    yield Check("metrics are Metrics within their unit's range", bench.metrics)
    yield Check("rows, if any, are a table with a row per query", bench.rows)
    yield Check("a broken picture is left out and counted", bench.broken)
    yield Check("the same model gives the same numbers", bench.pure)
    yield Check("another model gives other numbers", bench.depends)
    yield Check("progress counts up to its total", bench.progress)
    yield Check("metric_units() names the metrics that it gives", bench.units)
    yield Check("texts() lists the texts that it encodes", bench.texts)


class Bench:
    """An evaluator under test."""

    def __init__(self, component: Component) -> None:
        self._component = component
        output = component.constant("OUTPUT") or "image_embed"
        self._output = output if isinstance(output, str) else output[0]

    @functools.cached_property
    def source(self) -> Pictures:
        return Pictures()

    @functools.cached_property
    def evaluator(self) -> Any:
        return self._component.make(self.inputs)

    @functools.cached_property
    def inputs(self) -> Inputs:
        classes = Classes(CLASSES) if self._output == "logits" else Classes()
        encoder = Encoder(
            Model(self._output),  # type: ignore[arg-type]
            char.make(None, None, context_length=24),
            lambda image: np.asarray(image)[:1, :1],
            batch_size=4,
            classes=classes,
        )
        return Inputs(encoder, self.source, open_split=Pictures)

    def run(self, seed: int, progress: Any = None) -> EvalResult:
        """The result for a seed's model; nothing encoded before is used."""
        self.inputs.forget()
        return self.evaluator.run(_variables(seed), progress)

    @functools.cached_property
    def result(self) -> EvalResult:
        result = self.run(0)
        must(
            isinstance(result, EvalResult),
            f"run gives {type(result).__name__}: it must give a "
            "clipjax.types.EvalResult",
        )
        return result

    def metrics(self) -> None:
        """Fractions are in [0, 1], ranks at least 1; the primary metric is finite."""
        for name, metric in self.result.metrics.items():
            for field in ("value", "chance"):
                number = getattr(metric, field)
                if number is None or not np.isfinite(number):
                    continue
                if metric.unit == "fraction":
                    must(0 <= number <= 1, f"{name}: {field}={number} is no fraction")
                if metric.unit == "rank":
                    must(number >= 1, f"{name}: {field}={number} is no rank from 1 on")
        primary = self.result.metrics[self.result.primary].value
        must(
            np.isfinite(primary), f"the primary metric is {primary}: it must be finite"
        )
        must(self.result.size, "size is empty: say how much was evaluated")

    def rows(self) -> None:
        """Columns that JSON and Parquet can hold, the keys first."""
        rows = self.result.rows
        for name, column in rows.items():
            must(isinstance(name, str), f"rows: {name!r} is no name of a column")
            values = column
            if isinstance(column, np.ndarray):
                must(
                    column.dtype.kind in "biuf" and column.ndim in (1, 2),
                    f"rows[{name!r}] is {column.dtype}{list(column.shape)}: give "
                    "numbers [n] or [n k], or a list",
                )
                values = column.tolist()
            try:
                json.dumps(values)
                pyarrow.array(values)
            except (TypeError, ValueError, pyarrow.ArrowException) as error:
                raise AssertionError(
                    f"rows[{name!r}] fits no column of JSON or Parquet: {error}"
                ) from error
        lengths = [metric.n for metric in self.result.metrics.values() if metric.n]
        count = len(rows.get("key", []))
        must(
            not rows or not lengths or count >= min(lengths),
            f"rows: {count}, and every metric is over {min(lengths, default=0)} or more"
            " (Metric.n): must be one per example or query",
        )
        known = {f"picture {index}" for index in range(COUNT)}
        strange = [key for key in rows.get("key", []) if key not in known]
        must(not strange, f"rows: {strange[:1]} is no key of the source")

    def broken(self) -> None:
        """A broken example of the source is left out and counted."""
        read = BROKEN in self.source.reads
        must(
            self.result.broken == read,
            f"broken={self.result.broken}: {int(read)} of the pictures read was broken",
        )

    def pure(self) -> None:
        """`run` keeps nothing from another model."""
        first, _, again = self.run(0), self.run(1), self.run(0)
        same = _numbers(first) == _numbers(again)
        must(
            same, f"{_numbers(first)} at first, then {_numbers(again)}: run is not pure"
        )
        tables = [
            {name: np.asarray(x, object).tolist() for name, x in result.rows.items()}
            for result in (first, again)
        ]
        must(repr(tables[0]) == repr(tables[1]), "rows differ: run is not pure")

    def depends(self) -> None:
        """At least one number depends on the model."""
        numbers = [_numbers(self.run(seed)) for seed in range(4)]
        must(any(x != numbers[0] for x in numbers), "four models give the same numbers")

    def progress(self) -> None:
        calls: list[tuple[int, int]] = []
        self.run(2, lambda done, total: calls.append((done, total)))
        wrong = [call for call in calls if not 0 <= call[0] <= call[1]]
        must(not wrong, f"progress{wrong[:1]}: done is not within total")

    def units(self) -> None:
        """`metric_units()`, if declared, gives the metrics' names and units."""
        declared = getattr(self.evaluator, "metric_units", lambda: None)()
        if declared is None:
            return
        given = {name: metric.unit for name, metric in self.result.metrics.items()}
        wrong = declared.items() ^ given.items()
        must(
            not wrong,
            f"metric_units() and the result's metrics differ in {sorted(wrong)[:3]}",
        )

    def texts(self) -> None:
        """`texts()`, if declared, gives the texts that the tokenizer will encode."""
        if not hasattr(self.evaluator, "texts"):
            return
        for what, (items, count) in self.evaluator.texts().items():
            rows = list(items)
            items_are_texts = all(
                not isinstance(row, str) and all(isinstance(text, str) for text in row)
                for row in rows
            )
            must(items_are_texts, f"texts()[{what!r}]: each item must be several texts")
            must(
                len(rows) <= count,
                f"texts()[{what!r}]: {len(rows)} items, and it says {count}",
            )


def _summary(component: Component) -> None:
    """Other results give other numbers, the same the same; primary is finite."""
    others = {
        "one": Announced({"a": "fraction", "b": "fraction"}, data=0),
        "two": Announced({"a": "fraction"}, data=1),
    }
    summary = component.make(others)

    def result(value: float) -> EvalResult:
        part = Metric(value, 0.1, "fraction", low=value / 2, high=value, n=10)
        made = {
            label: EvalResult(dict.fromkeys(other.units or (), part), "a", "10 images")
            for label, other in others.items()
        }
        found = summary.summarise(made)
        must(
            isinstance(found, EvalResult),
            f"summarise gives {type(found).__name__}: it must give a "
            "clipjax.types.EvalResult",
        )
        must(np.isfinite(found.metrics[found.primary].value), "primary is not finite")
        return found

    first, other, again = (_numbers(result(x)) for x in (0.5, 0.25, 0.5))
    must(first == again, f"{first} at first, then {again}: summarise is not pure")
    must(first != other, "two results of the others give the same numbers")


def _numbers(result: EvalResult) -> dict[str, str]:
    return {name: repr(metric.value) for name, metric in result.metrics.items()}
