"""`evals=zeroshot`: classifying images by the names of the classes alone.

Each class name goes into every prompt template; the text embeddings are averaged over
the templates and brought back to unit norm, and an image belongs to the class whose
embedding is nearest (CLIP, arXiv:2103.00020, section 3.1.4). A source may have several
label sets (shape, colour, ...); every image is encoded once for all of them.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from clipjax import registry
from clipjax.data import class_lists
from clipjax.data.text.lost_texts import Item
from clipjax.encoder import Progress, part_of
from clipjax.evals.common import accuracy, result_rows
from clipjax.evals.common.inputs import Inputs
from clipjax.evals.common.intervals import mean
from clipjax.evals.common.ranking import NEAREST, finite, rank, spread
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
    ks: tuple[int, ...] = (1, 5),
    max_samples: int = 0,
    same_name: str = "apart",
) -> ZeroShot:
    """Zero-shot classification for each label set of the source.

    Args:
      label_sets: which; empty: all that the source has.
      templates: prompts with one `{}` for the class name, for every label set; empty:
        the source's own, or TEMPLATES for a set that has none.
      ks: of the top-k accuracies; 1 is always among them, and one that is not below
        the number of classes is left out, since it would always hit.
      max_samples: images at most, evenly spread over the source; 0: all.
      same_name: "apart": classes of one name stay different classes, which no text can
        tell apart, so that they tie; "merge": they are one class.

    Raises:
      UserError: for an option out of range, a template without exactly one `{}`, a
        source without labels or with fewer than two classes in a set.
    """
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
    classes: dict[str, tuple[str, ...]] = {}
    groups: dict[str, tuple[int, ...]] = {}
    said: dict[str, str] = {}
    for name in label_sets or known:
        if name not in known:
            raise UserError(
                f"evals=zeroshot: the data has no label set {name!r}."
                f"{registry.suggest(name, known)} Known: {', '.join(known)}"
            )
        merged, groups[name] = class_lists.merged(
            source.class_names[name], same_name == "merge"
        )
        classes[name] = merged.names
        if shared := class_lists.shared_names(source.class_names[name]):
            how = (
                "merged"
                if same_name == "merge"
                else "which no text can tell apart: "
                "they tie; count them as one by same_name=merge"
            )
            said[name] = f"{class_lists.shared_words(shared)}, {how}"
            logger.warning("evals=zeroshot: label set %r: %s", name, said[name])
        if len(classes[name]) < 2:
            raise UserError(
                f"evals=zeroshot: label set {name!r} has fewer than two classes; leave "
                f"it out of label_sets"
            )
        prompts[name] = tuple(templates or source.templates.get(name) or TEMPLATES)
        for template in prompts[name]:
            if template.count("{}") != 1:
                raise UserError(
                    f"evals=zeroshot: template {template!r} needs one {{}} for the "
                    f"class name"
                )
    indices = spread(len(source), max_samples).tolist()
    ks = tuple(sorted({1, *ks}))
    return ZeroShot(inputs, prompts, classes, groups, ks, indices, said)


@dataclasses.dataclass(frozen=True)
class ZeroShot:
    """The evaluator; see the module and `make`.

    Of each label set: prompts: its templates. classes: the names to choose among.
    groups: the place there of each of the source's classes. said: of classes of one
    name, if it has such.

    What the numbers do not mean. "Zero-shot" says that no label was fitted, not that
    the classes were absent from the training captions. The prompts are part of the
    model under test: other templates move the result by points. Top-1 rewards the
    frequent classes if the set is not balanced; compare it with majority_share, and
    see mean_class_recall. The model chooses among the given names only, so a high
    number does not say that it knows when none of them fits.
    """

    inputs: Inputs
    prompts: dict[str, tuple[str, ...]]
    classes: dict[str, tuple[str, ...]]
    groups: dict[str, tuple[int, ...]]
    ks: tuple[int, ...]
    indices: list[int]
    said: dict[str, str]

    def run(
        self, variables: Variables, progress: Callable[[int, int], None] | None = None
    ) -> EvalResult:
        """Metrics "<set>/top<k>", "<set>/mean_class_recall" (of the classes that occur)
        and "<set>/majority_share", what always naming the most frequent class gets;
        with several sets also "mean_top1". Rows as result_rows.by_class, one per image
        and label set.

        Ties count in expectation; see evals/common/ranking.py. An image without a
        label in a set does not count there.

        Raises UserError if no image with a label of a set can be read.
        """
        prompt_counts = {
            name: len(self.classes[name]) * len(templates)
            for name, templates in self.prompts.items()
        }
        done, total = len(self.indices), len(self.indices) + sum(prompt_counts.values())
        found = self.inputs.images(
            variables, self.indices, progress=part_of(progress, 0, total)
        )
        found = found.without(lambda place: self._problem(found.labels[place]))
        metrics: dict[str, Metric] = {}
        tables: list[Rows] = []
        words = []
        for name, templates in self.prompts.items():
            names = self.classes[name]
            labels = [own.get(name, -1) for own in found.labels]
            counted = found.valid & (np.array(labels) >= 0)
            if not counted.any():
                first = next(iter(found.broken.values()), ("", ""))[1]
                why = f"; {first}" if first else ""
                raise UserError(
                    f"evals=zeroshot: no image with a label in {name!r} can be read"
                    f"{why}; mend the evaluation data or leave it out of label_sets"
                )
            classes = class_embeddings(
                self.inputs,
                variables,
                names,
                templates,
                part_of(progress, done, total),
            )
            done += prompt_counts[name]
            groups = self.groups[name]
            kept = np.flatnonzero(counted).tolist()
            numbers = np.array([groups[labels[i]] for i in kept])
            ranks = rank(
                found.embed[counted], classes, numbers[:, None], nearest=NEAREST
            )
            keys = [found.keys[i] for i in kept]
            tables.append(result_rows.by_class(keys, names, numbers, ranks, name))
            metrics |= accuracy.of(ranks, numbers, len(names), self.ks, f"{name}/")
            words.append(f"{name}: {len(numbers)} images, {len(names)} classes")
            if name in self.said:
                words[-1] += f", {self.said[name]}"
        primary = f"{next(iter(self.prompts))}/top1"
        if len(self.prompts) > 1:
            primary = "mean_top1"
            each = [metrics[f"{name}/top1"] for name in self.prompts]
            metrics["mean_top1"] = mean(each)
        wrong = int((~finite(found.embed)).sum())
        if wrong:
            words.append(f"{wrong} embeddings not finite and counted as wrong")
        rows = result_rows.joined(tables)
        return EvalResult(metrics, primary, "; ".join(words), len(found.broken), rows)

    def texts(self) -> dict[str, tuple[Iterable[Item], int]]:
        """See types.Evaluator."""
        return {
            f"classes of {name}": (
                (prompts_of(one, templates) for one in self.classes[name]),
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


def prompts_of(name: str, templates: Sequence[str]) -> list[str]:
    """A class's name in each template."""
    return [template.replace("{}", name) for template in templates]


def class_embeddings(
    inputs: Inputs,
    variables: Variables,
    names: Sequence[str],
    templates: Sequence[str],
    progress: Progress | None = None,
) -> np.ndarray:
    """float32 [classes e] of unit norm: a zero-shot classifier's weights."""
    prompts = [prompt for name in names for prompt in prompts_of(name, templates)]
    texts = inputs.texts(variables, prompts, progress=progress)
    with np.errstate(invalid="ignore"):  # what is not finite stays so, and ranks last
        means = texts.reshape(len(names), len(templates), -1).mean(axis=1)
        norms = np.linalg.norm(means, axis=1, keepdims=True)
        # Embeddings that cancel out point nowhere: left at zero, so those classes tie.
        return means / np.where(norms > 0, norms, 1)
