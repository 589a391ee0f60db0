"""Studies whose runs are replaced by arithmetic."""

import zlib

import numpy as np

from clipjax.studies import Study, study_cells, study_journal, study_worker
from clipjax.studies.run_child import Came
from run_tools import ROOT

CONFIG = str(ROOT / "tests" / "config_tiny.py")
METRIC = "retrieval/mean_recall@1"


def small(**changes):
    """Two losses x two optimizers x two seeds."""
    given = {
        "config": CONFIG,
        "axes": {"loss": ("clip", "sogclr"), "optim": ("adamw", "sgd")},
        "seeds": 2,
        "metric": METRIC,
    }
    return Study(**{**given, **changes})


def value(config):
    """What a run of a config comes to: best at twice AdamW's rate."""
    noise = np.random.default_rng(
        zlib.crc32(f"{config.seed}{config.loss.name}".encode())
    )
    best = -abs(np.log2(config.optim.lr / 2e-3)) / 50
    base = {"clip": 0.3, "sogclr": 0.5}[config.loss.name]
    return float(base + best + 0.01 * noise.normal())


def facts(config, wall=6.0):
    steps = config.train.steps
    return {
        "metrics": {METRIC: value(config)},
        "curve": [[steps], [value(config)]],
        "loss": [[1, steps], [3.0, 2.0]],
        "seconds": 60.0,
        "steps": steps,
        "unit": "fraction",
        "wall": wall,
        "host": "here",
    }


def arithmetic(study, config, folder, start, watch):
    """In place of run_child.run."""
    watch({})
    return Came(value(config), facts(config))


class Working:
    """A study in a folder, and processes that work on it."""

    def __init__(self, study, folder):
        self.study, self.folder = study, folder
        self.cells = study_cells.make(study)
        self.steps = {cell.name: cell.config.train.steps for cell in self.cells}
        self.said = []

    def journal(self, **options):
        return study_journal.Journal(self.folder, self.study, **options)

    def worker(self, run=arithmetic, **options):
        options = {"say": self.said.append, "run": run, **options}
        journal = options.pop("journal", None) or self.journal()
        return study_worker.Worker(
            self.study, self.cells, self.folder, journal, self.steps, **options
        )

    def records(self):
        return self.journal().records()
