import json

import numpy as np
import pytest
import report_tools

from clipjax.report_parts import curve_sections, health, loss_phases
from clipjax.run_record import status


def levels(run):
    found = health.checks(run, loss_phases.course(run))
    return {check.what: check.level for check in found}


FALL = np.concatenate([np.linspace(4.0, 1.0, 60), np.full(40, 1.0)])


def test_a_good_run_is_healthy(tmp_path):
    run = report_tools.logged(
        tmp_path,
        loss=FALL,
        uninformed_loss=np.full(100, 4.85),
        bad_total=np.zeros(100),
        image_effective_rank=np.full(100, 20.0),
        text_effective_rank=np.full(100, 20.0),
        logit_scale=np.full(100, 20.0),
        time_data_wait_share=np.full(100, 0.01),
        eval_val_loss=np.linspace(3, 1, 100),
    )
    assert set(levels(run).values()) == {"good"}


@pytest.mark.parametrize(
    "what, level, series",
    [
        (
            "at chance",
            "bad",
            {"loss": 4.84 + 0 * FALL, "uninformed_loss": [4.85] * 100},
        ),
        ("still falling", "warning", {"loss": np.linspace(4, 1, 100)}),
        ("diverged", "bad", {"loss": [*np.linspace(4, 1, 50), *np.linspace(1, 9, 50)]}),
        (
            "non-finite steps",
            "warning",
            {"loss": FALL, "bad_total": [0] * 90 + [3] * 10},
        ),
        (
            "overfitting",
            "warning",
            {"loss": FALL, "eval_val_loss": [3.0, 2.0, 2.5]},
        ),
        ("collapsed", "bad", {"loss": FALL, "image_effective_rank": [9.0, 1.1]}),
        ("waits for data", "warning", {"loss": FALL, "time_data_wait_share": [0.4]}),
        ("broken examples", "warning", {"loss": FALL, "replaced_total": [0, 2]}),
        (
            "temperature at its limit",
            "warning",
            {"loss": FALL, "logit_scale": [14.0, 99.9]},
        ),
    ],
)
def test_each_fault_is_found_with_its_mend(tmp_path, what, level, series):
    run = report_tools.logged(tmp_path, **series)
    found = {x.what: x for x in health.checks(run, loss_phases.course(run))}
    assert found[what].level == level and found[what].mend


def test_a_run_that_stopped_early_is_complete(tmp_path):
    place = report_tools.saved_run(tmp_path)
    report_tools.log(place, loss=FALL)
    found = status.Status("finished", "val_loss was not better", total_steps=500)
    status.write(place, found, sync=False)
    run = report_tools.read(place)
    (check,) = (x for x in health.checks(run, None) if x.what == "stopped early")
    assert check.level == "good"
    assert check.why == "It ended at step 100 of 500: val_loss was not better."
    rows = curve_sections.criteria(run, loss_phases.course(run)).rows
    assert rows[0][1:] == ["yes", "100 of 500, stopped early"]


def test_an_unfinished_run_is_not_complete(tmp_path):
    place = report_tools.saved_run(tmp_path)
    config = json.loads((place / "config.json").read_text())
    config["train"]["steps"] = 500
    (place / "config.json").write_text(json.dumps(config))
    assert levels(report_tools.read(place))["not complete"] == "warning"
