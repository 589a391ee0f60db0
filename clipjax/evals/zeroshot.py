"""`evals=zeroshot`: classifies images by the classes' names alone.

Each class name goes into every prompt template. A class's text embeddings are averaged
over its names and the templates and normalised again, and an image belongs to the class
with the nearest embedding (CLIP, arXiv:2103.00020, section 3.1.4). A source may have
several label sets (shape, colour, ...); every image is encoded once for all of them.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from clipjax import paths, registry
from clipjax.data import class_lists
from clipjax.data.annotations import class_synonyms, prompt_templates
from clipjax.data.text.lost_texts import Item
from clipjax.encoder import Progress, part_of
from clipjax.evals.common import accuracy, protocol, result_rows
from clipjax.evals.common.classified import Classified, Reading
from clipjax.evals.common.inputs import Inputs
from clipjax.evals.common.intervals import Hits, mean
from clipjax.evals.common.ranking import NEAREST, finite, spread
from clipjax.types import EvalResult, Metric, Rows, UserError, Variables

TEMPLATES = (
    "a photo of a {}.",
    "a picture of a {}.",
    "an image of the {}.",
    "a close view of a {}.",
    "{}",
)

logger = logging.getLogger(__name__)


def make(
    inputs: Inputs,
    *,
    label_sets: tuple[str, ...] = (),
    templates: tuple[str, ...] = (),
    templates_file: str = "",
    class_names_file: str = "",
    ks: tuple[int, ...] = (1, 5),
    max_samples: int = 0,
    same_name: str = "apart",
) -> ZeroShot:
    """Zero-shot classification on each of the source's label sets.

    Args:
      label_sets: names of label sets; empty: all of the source's.
      templates: prompts with one `{}` for the class name, for every label set; empty:
        the source's own, or TEMPLATES for a set without any.
      templates_file: a file of such prompts, one a line, or a JSON list; in place of
        `templates`.
      class_names_file: a file of the classes' names, in place of the source's: a class
        a line, `NAME` or `NAME; NAME`, or a mapping, also as JSON; see
        data/annotations/class_synonyms.py. For one label set.
      ks: the k of the top-k accuracies; 1 is always added. A k that is not below the
        number of classes is left out because it would always hit.
      max_samples: the most images, evenly spread over the source; 0: all.
      same_name: "apart": classes of one name stay different classes, and tie because no
        text tells them apart; "merge": they are one class; "error": they are refused.

    Raises:
      UserError: if an option is out of range, a template does not have exactly one
        `{}`, there is no such file or it names other classes, the source has no labels,
        or a set has fewer than two classes.
    """
    if templates_file and templates:
        raise UserError(
            "evals=zeroshot: templates and templates_file both give prompts: remove one"
        )
    if templates_file:
        templates = prompt_templates.read(paths.expand(templates_file))
    prompt_templates.check(templates, "evals=zeroshot: templates")
    if not ks or min(ks) < 1 or max_samples < 0:
        raise UserError(
            f"evals=zeroshot: ks={ks}, max_samples={max_samples}: use ks from 1 on, "
            f"max_samples from 0 on"
        )
    source = inputs.source
    known = list(source.class_names)
    if not known or not len(source):
        raise UserError(
            "evals=zeroshot needs images with class labels, and the data has none; "
            "choose other evaluation data (zeroshot@imagefolder) or evals=retrieval"
        )
    class_lists.check_same_name("zeroshot", same_name)
    prompts: dict[str, tuple[str, ...]] = {}
    classes: dict[str, tuple[class_synonyms.Names, ...]] = {}
    groups: dict[str, tuple[int, ...]] = {}
    shared_notes: dict[str, str] = {}
    if class_names_file and len(label_sets or known) > 1:
        raise UserError(
            f"evals=zeroshot: class_names_file={class_names_file} is of one label set: "
            f"choose it by label_sets, of {', '.join(label_sets or known)}"
        )
    for name in label_sets or known:
        if name not in known:
            raise UserError(
                f"evals=zeroshot: the data has no label set {name!r}."
                f"{registry.suggest(name, known)} Known: {', '.join(known)}"
            )
        own = class_lists.classes_of(source, name)
        named = [(class_name,) for class_name in own.names]
        if class_names_file:
            named = class_synonyms.read(
                paths.expand(class_names_file), own.names, own.ids
            )
        joined = [class_synonyms.join(names) for names in named]
        if same_name == "error":
            class_lists.refuse_same_names("zeroshot", joined)
        merged, groups[name] = class_lists.merge_same_names(
            joined, same_name == "merge"
        )
        names_of = dict(zip(joined, named, strict=True))
        classes[name] = tuple(names_of[class_name] for class_name in merged.names)
        if shared := class_lists.shared_names(joined):
            how = (
                "merged"
                if same_name == "merge"
                else "which no text can tell apart: "
                "they tie; count them as one by same_name=merge"
            )
            shared_notes[name] = f"{class_lists.shared_words(shared)}, {how}"
            logger.warning("evals=zeroshot: label set %r: %s", name, shared_notes[name])
        if len(classes[name]) < 2:
            raise UserError(
                f"evals=zeroshot: label set {name!r} has fewer than two classes: give "
                "data with more, or leave it out of label_sets"
            )
        prompts[name] = prompt_templates.check(
            templates or source.templates.get(name) or TEMPLATES,
            f"evals=zeroshot: the data's templates of {name}",
        )
    indices = spread(len(source), max_samples).tolist()
    ks = tuple(sorted({1, *ks}))
    choices = [
        protocol.of_classes(
            name,
            [class_synonyms.join(names) for names in classes[name]],
            prompts[name],
            same_name if name in shared_notes else "",
        )
        for name in prompts
    ]
    how_made = protocol.joined(*choices, protocol.of_sample(max_samples))
    return ZeroShot(
        inputs, prompts, classes, groups, ks, indices, shared_notes, how_made
    )


@dataclasses.dataclass(frozen=True)
class ZeroShot:
    """The evaluator; see the module and `make`.

    By label set: prompts: its templates. classes: each class's names. groups: per class
    of the source, its place among these. shared_notes: what to say about
    classes of one name, if there are any. protocol: see EvalResult.

    What the numbers do not mean. "Zero-shot" says that no label was fitted, not that
    the training captions lacked the classes. The prompts are part of the model under
    test: other templates move the result by points. Top-1 rewards frequent classes if
    the set is not balanced: compare it with majority_share, and see mean_class_recall.
    The model chooses among the given names only, so a high number does not say that it
    knows when none of them fits.
    """

    inputs: Inputs
    prompts: dict[str, tuple[str, ...]]
    classes: dict[str, tuple[class_synonyms.Names, ...]]
    groups: dict[str, tuple[int, ...]]
    ks: tuple[int, ...]
    indices: list[int]
    shared_notes: dict[str, str]
    protocol: str

    def run(
        self, variables: Variables, progress: Callable[[int, int], None] | None = None
    ) -> EvalResult:
        """Metrics "<set>/top<k>", "<set>/mean_class_recall" (over the classes that
        occur), "<set>/majority_share" (the accuracy of always naming the most frequent
        class) and, with several sets, "mean_top1". Rows as in result_rows.by_class,
        one per image and label set; a class of several names is called "NAME; NAME".

        Ties count as their expected value; see evals/common/ranking.py. An image
        without a label in a set does not count there.

        Raises UserError if no image with a label in one of the sets can be read.
        """
        reading = self.read(variables, progress)
        metrics: dict[str, Metric] = {}
        tables: list[Rows] = []
        sizes = []
        top1 = []
        for data in reading.sets:
            name, names, labels = data.label_set, data.names, data.labels
            ranks = data.ranks(NEAREST)
            tables.append(result_rows.by_class(data.keys, names, labels, ranks, name))
            metrics |= accuracy.of(ranks, labels, len(names), self.ks, f"{name}/")
            top1.append(Hits(ranks.hits(1), data.places, 1 / len(names)))
            sizes.append(f"{name}: {data.size}")
        primary = f"{next(iter(self.prompts))}/top1"
        if len(self.prompts) > 1:
            primary = "mean_top1"
            metrics["mean_top1"] = mean(top1)
        wrong = int((~finite(reading.seen.embed)).sum())
        if wrong:
            sizes.append(f"{wrong} embeddings not finite and counted as wrong")
        rows, broken = result_rows.join(tables), len(reading.seen.broken)
        return EvalResult(
            metrics, primary, "; ".join(sizes), broken, rows, self.protocol
        )

    def read(self, variables: Variables, progress: Progress | None = None) -> Reading:
        """The images and the classes' embeddings.

        Raises UserError if no image with a label in one of the sets can be read.
        """
        prompt_counts = {
            name: sum(map(len, self.classes[name])) * len(templates)
            for name, templates in self.prompts.items()
        }
        done, total = len(self.indices), len(self.indices) + sum(prompt_counts.values())
        seen = self.inputs.images(
            variables, self.indices, progress=part_of(progress, 0, total)
        )
        seen = seen.without(lambda place: self._problem(seen.labels[place]))
        sets = []
        for name, templates in self.prompts.items():
            kept, labels = seen.labelled(name)
            if not len(kept):
                why = f"; {seen.first_reason}" if seen.first_reason else ""
                raise UserError(
                    f"evals=zeroshot: no image with a label in {name!r} can be read"
                    f"{why}; mend the evaluation data or leave it out of label_sets"
                )
            classes = class_embeddings(
                self.inputs,
                variables,
                self.classes[name],
                templates,
                part_of(progress, done, total),
            )
            done += prompt_counts[name]
            names = [class_synonyms.join(names) for names in self.classes[name]]
            numbers = np.array(self.groups[name])[labels]
            told = self.shared_notes.get(name, "")
            told = f", {told}" if told else ""
            sets.append(
                Classified(name, names, seen, kept, numbers, seen.embed, classes, told)
            )
        return Reading(seen, sets)

    def metric_units(self) -> dict[str, str]:
        """See types.Evaluator."""
        units = {}
        for name, classes in self.classes.items():
            units |= accuracy.units(len(classes), self.ks, f"{name}/")
        return units | ({"mean_top1": "fraction"} if len(self.classes) > 1 else {})

    def texts(self) -> dict[str, tuple[Iterable[Item], int]]:
        """See types.Evaluator."""
        return {
            f"classes of {name}": (
                (all_prompts([own], templates) for own in self.classes[name]),
                len(self.classes[name]),
            )
            for name, templates in self.prompts.items()
        }

    def _problem(self, labels: Mapping[str, int]) -> str:
        for name in self.prompts:
            label = labels.get(name, 0)
            if not 0 <= label < len(self.groups[name]):
                return f"its label {label} is no class of {name!r}"
        return ""


def class_embeddings(
    inputs: Inputs,
    variables: Variables,
    classes: Sequence[class_synonyms.Names],
    templates: Sequence[str],
    progress: Progress | None = None,
) -> np.ndarray:
    """float32 [classes e] of unit norm: a zero-shot classifier's weights.

    classes: the names of each.
    """
    texts = inputs.texts(variables, all_prompts(classes, templates), progress=progress)
    return average(texts, [len(names) * len(templates) for names in classes])


def all_prompts(
    classes: Iterable[class_synonyms.Names], templates: Sequence[str]
) -> list[str]:
    """All classes' prompts, those of a class together."""
    names = (name for own in classes for name in own)
    return [p for name in names for p in prompt_templates.fill(templates, name)]


def average(texts: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    """The classes' embeddings float32 [classes e], of unit norm, from those of their
    prompts [sum(counts) e], of which each class has `counts`.
    """
    starts = np.cumsum(counts) - np.array(counts)
    with np.errstate(invalid="ignore"):  # NaN and inf stay, and rank last
        means = np.add.reduceat(texts, starts) / np.array(counts, np.float32)[:, None]
        norms = np.linalg.norm(means, axis=1, keepdims=True)
        # Embeddings that cancel out have no direction: at zero, their classes tie.
        return means / np.where(norms > 0, norms, 1)
