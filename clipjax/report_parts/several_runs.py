"""What a page of several runs has beside their own sections."""

from __future__ import annotations

from collections.abc import Sequence

from clipjax import config_check
from clipjax.comparison import comparison_tables, paired_tests
from clipjax.comparison.compared import compare_evaluations
from clipjax.report_parts import curve_sections, verdict
from clipjax.report_parts.loss_phases import Course
from clipjax.report_parts.page import Fold, Section, Table, Text
from clipjax.report_parts.run_files import RunFiles, short
from clipjax.types import UserError

CLEAR = 0.05  # a difference whose adjusted p is below this is bold


def side_by_side(
    runs: Sequence[RunFiles], courses: Sequence[Course | None]
) -> Section:  # fmt: skip
    """A line per run with its main numbers, and their differences."""
    head, lines = ["run"], []
    for run, course in zip(runs, courses, strict=True):
        numbers = {
            "steps": f"{run.log.last_step() or 0:,}",
            "lowest loss": f"{course.best:.3f}" if course else "",
            "last loss": f"{course.last:.3f}" if course else "",
            "time": curve_sections.duration_words(run),
        }
        for tile in verdict.tiles(run):
            ends = f" ({tile.small.partition(', chance')[0]})" if tile.small else ""
            numbers[tile.what] = f"{tile.big}{ends}"
        lines.append((run.name, numbers))
        head += [name for name in numbers if name not in head]
    table = [[name, *(x.get(key, "") for key in head[1:])] for name, x in lines]
    return Section("Side by side", [Table(head, table), *_paired(runs)])


def _paired(runs: Sequence[RunFiles]) -> list[object]:
    """Primary metrics against the first evaluated run's, on the same examples."""
    whole = [run for run in runs if run.evaluations]
    if len(whole) < 2:
        return []
    first, found, gaps = whole[0], [], []
    for run in whole[1:]:
        one, other = first.evaluations[0], run.evaluations[0]
        for label in (x for x in one.results if x in other.results):
            primary = f"{label}/{one.results[label].primary}"
            try:
                made = compare_evaluations(
                    one.folder, other.folder, evals=[label], metrics=[primary]
                )
            except UserError as error:
                gaps.append(Text(f"{run.name} and {first.name}: {error}", "gap"))
                continue
            found += [(run.name, difference) for difference in made.differences]
    if not found:
        return gaps
    adjusted = paired_tests.holm([one.p for _, one in found])
    lines = [
        [
            name,
            f"{one.label} {one.metric}".replace("_", " "),
            *comparison_tables.numbers(one),
            comparison_tables.p_value(p),
        ]
        for (name, one), p in zip(found, adjusted, strict=True)
    ]
    head = ["run", "metric", first.name, "this run", "difference", "95 % interval", "p"]
    note = (
        f"Against {first.name}, on the same examples; shares are in %. p: how often "
        "chance gives a difference as large, adjusted for all of the table. Bold: "
        f"below {CLEAR}."
    )
    title = "Differences in the evaluation"
    strong = frozenset(at for at, p in enumerate(adjusted) if p < CLEAR)
    return [Table(head, lines, title, texts=2, strong=strong, note=note), *gaps]


def config_section(runs: Sequence[RunFiles]) -> Section:
    """The keys that differ between the runs' configs."""
    flats = [config_check.flat(run.config) for run in runs]
    both: list[list[str]] = []
    alone: list[list[str]] = []
    for key in dict.fromkeys(key for flat in flats for key in flat):
        values = [short(flat[key]) if key in flat else "" for flat in flats]
        if len(set(values)) > 1:
            (alone if "" in values else both).append([key, *values])
    head = ["key", *(run.name for run in runs)]
    blocks: list[object] = []
    if both:
        blocks.append(Table(head, both, texts=len(head)))
    if alone:
        title = "Keys that not all of them have"
        blocks.append(Fold(title, [Table(head, alone, texts=len(head))]))
    if not blocks:
        blocks.append(Text("The configs are equal."))
    return Section("Configs", blocks)
