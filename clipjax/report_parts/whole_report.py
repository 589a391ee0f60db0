"""The page of one run or several, made of all its parts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from clipjax.report_parts import (
    cost_sections,
    curve_sections,
    data_section,
    embedding_section,
    health,
    loss_phases,
    reproduction,
    result_sections,
    several_runs,
    verdict,
)
from clipjax.report_parts.example_source import Sources
from clipjax.report_parts.loss_phases import Course
from clipjax.report_parts.page import Checks, Fold, Page, Section, Steps, Text
from clipjax.report_parts.run_files import RunFiles
from clipjax.report_parts.thumbnails import Pictures


def make(
    runs: Sequence[RunFiles],
    sources: Sources,
    pictures: Pictures,
    *,
    watched: bool = False,
) -> Page:
    """The page; pictures gets those that it shows.

    watched: whether it is made again and again; then the model of a run that goes on is
    not loaded, which would slow the run down.
    """
    courses = [loss_phases.course(run) for run in runs]
    own = [
        _own_sections(run, course, sources, pictures, watched)
        for run, course in zip(runs, courses, strict=True)
    ]
    if len(runs) == 1:
        page = _of_one(runs[0], courses[0], own[0])
    else:
        page = _of_several(runs, courses, own)
    if not pictures.broken:
        return page
    some = "; ".join(dict.fromkeys(pictures.broken.values()))
    text = f"{len(pictures.broken)} images cannot be decoded and are grey: {some}."
    broken = Section("Broken images", [Text(text, "gap")])
    return dataclasses.replace(page, sections=[*page.sections, broken])


def _of_one(run: RunFiles, course: Course | None, own: Sequence[Section]) -> Page:
    sections = [_verdict(run, course), curve_sections.curve_section([run]), *own]
    return Page(run.name, [verdict.trained(run)], verdict.tiles(run), sections)


def _own_sections(
    run: RunFiles,
    course: Course | None,
    sources: Sources,
    pictures: Pictures,
    watched: bool,
) -> list[Section]:
    """What each run has for itself, below the curves."""
    sections = []
    if course is not None:
        blocks = curve_sections.phase_blocks(run, course)
        sections.append(Section("Course of training", blocks))
    sections.append(result_sections.evaluation_section(run))
    sections.append(result_sections.example_section(run, sources, pictures))
    if watched and not health.is_over(run):
        later = Text("Embeddings are shown once the run has ended.", "gap")
        sections.append(Section("Embeddings", [later]))
    else:
        sections.append(embedding_section.embedding_section(run, sources, pictures))
    sections.append(data_section.data_section(run, sources, pictures))
    sections.append(cost_sections.cost_section(run))
    sections.append(reproduction.configuration_section(run))
    return sections


def _of_several(
    runs: Sequence[RunFiles],
    courses: Sequence[Course | None],
    own: Sequence[Sequence[Section]],
) -> Page:
    few = len(runs) == 2
    sections = [
        several_runs.side_by_side(runs, courses),
        curve_sections.curve_section(runs),
        several_runs.config_section(runs),
    ]
    for run, course, parts in zip(runs, courses, own, strict=True):
        inner: list[object] = [] if few else [Text(verdict.trained(run))]
        inner += _verdict(run, course).blocks
        inner += [Fold(part.title, part.blocks) for part in parts]
        sections.append(Section(run.name, inner))
    names = [run.name for run in runs]
    title = f"{', '.join(names[:-1])} and {names[-1]}"
    lead = [f"{run.name}: {verdict.trained(run)}" for run in runs] if few else []
    tiles = [tile for run in runs for tile in verdict.tiles(run, 2 if few else 1)]
    return Page(title, lead, tiles, sections)


def _verdict(run: RunFiles, course: Course | None) -> Section:
    """How good it is, whether it is healthy, and what to try next."""
    checks = health.checks(run, course)
    blocks: list[object] = [Text(line) for line in verdict.how_good(run)]
    blocks.append(Checks(checks))
    blocks.append(Steps("What to try next", verdict.try_next(run, checks)))
    if run.gaps:
        blocks.append(Text(f"Not there: {' '.join(run.gaps)}", "gap"))
    return Section("Verdict", blocks)
