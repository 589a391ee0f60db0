"""The best cell's config as a file that `train` takes."""

from __future__ import annotations

import pathlib
import pprint

from clipjax import atomic_files, config_check
from clipjax.studies import study_cells, study_jobs, study_results
from clipjax.studies.study_file import Study
from clipjax.studies.study_results import Family

FILE = "best.py"
_TEXT = '''\
"""{what}

    python -m clipjax.train --config {file}

A study wrote it, with seed {seed}; {result}.
"""

from clipjax.config_check import from_dict

CONFIG = {config}


def get_config(arg: str | None = None):
    if arg:
        raise ValueError("this file has one config: it takes no words after a colon")
    return from_dict(CONFIG)
'''


def write(study: Study, family: Family, of: str, folder: pathlib.Path) -> str:
    """Writes FILE for the family's best cell; returns a line on it, "" without one."""
    rows = [row for row in family.rows if row.count]
    if not rows:
        return ""
    row, seed = rows[0], study.first_seeds[0]
    tuned = row.tuned if family.kind == study_jobs.TUNED else {}
    config = study_cells.run_config(study, row.cell, seed, tuned)
    mean = study_results.shown(row.mean, of)
    same = [
        x.cell.name for x in rows[1:] if row.groups and set(x.groups) & set(row.groups)
    ]
    result = f"{study.metric} {mean} as the mean of {row.count} seeds"
    if row.count == 1:
        result = f"{study.metric} {mean} with one seed"
    if same:
        result += f", not told apart from {len(same)} other cells"
    text = _TEXT.format(
        what=f"{row.cell.name}.",
        file=folder / FILE,
        seed=seed,
        result=result,
        config=pprint.pformat(config_check.to_dict(config), sort_dicts=False),
    )
    with atomic_files.open_to_write(folder / FILE) as file:
        file.write(text)
    return f"best: {row.cell.name}, {result}: {folder / FILE}"
