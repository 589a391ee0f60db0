"""The page of one run or several, made of all its parts."""

from __future__ import annotations

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


def make(runs: Sequence[RunFiles], sources: Sources, pictures: Pictures) -> Page:
    """The page; pictures gets those that it shows."""
    courses = [loss_phases.course(run) for run in runs]
    if len(runs) == 1:
        return _of_one(runs[0], courses[0], sources, pictures)
    return _of_several(runs, courses, sources, pictures)


def _of_one(
    run: RunFiles, course: Course | None, sources: Sources, pictures: Pictures
) -> Page:
    sections = [
        _verdict(run, course),
        curve_sections.curve_section([run]),
        *_own_sections(run, course, sources, pictures),
    ]
    return Page(run.name, [verdict.trained(run)], verdict.tiles(run), sections)


def _own_sections(
    run: RunFiles, course: Course | None, sources: Sources, pictures: Pictures
) -> list[Section]:
    """What each run has for itself, below the curves."""
    sections = []
    if course is not None:
        blocks = curve_sections.phase_blocks(run, course)
        sections.append(Section("Course of training", blocks))
    sections.append(result_sections.evaluation_section(run))
    sections.append(result_sections.example_section(run, sources, pictures))
    sections.append(embedding_section.embedding_section(run, sources, pictures))
    sections.append(data_section.data_section(run, sources, pictures))
    sections.append(cost_sections.cost_section(run))
    sections.append(reproduction.configuration_section(run))
    return sections


def _of_several(
    runs: Sequence[RunFiles],
    courses: Sequence[Course | None],
    sources: Sources,
    pictures: Pictures,
) -> Page:
    few = len(runs) == 2
    sections = [
        several_runs.side_by_side(runs, courses),
        curve_sections.curve_section(runs),
        several_runs.config_section(runs),
    ]
    for run, course in zip(runs, courses, strict=True):
        inner: list[object] = [] if few else [Text(verdict.trained(run))]
        inner += _verdict(run, course).blocks
        for section in _own_sections(run, course, sources, pictures):
            inner.append(Fold(section.title, section.blocks))
        sections.append(Section(run.name, inner))
    names = [run.name for run in runs]
    title = f"{', '.join(names[:-1])} and {names[-1]}"
    lead = [f"{run.name}: {verdict.trained(run)}" for run in runs] if few else []
    tiles = [tile for run in runs for tile in verdict.tiles(run, 2 if few else 1)]
    return Page(title, lead, tiles, sections)


def _verdict(run: RunFiles, course: Course | None) -> Section:
    """How good it is, whether it is healthy, and what to try next."""
    checks = health.checks(run, course)
    blocks: list[object] = []
    for evaluation in run.evaluations[:1]:
        blocks += [Text(line) for line in verdict.how_good(evaluation)]
    blocks.append(Checks(checks))
    blocks.append(Steps("What to try next", verdict.try_next(run, checks)))
    if run.gaps:
        blocks.append(Text(f"Not there: {' '.join(run.gaps)}", "gap"))
    return Section("Verdict", blocks)
