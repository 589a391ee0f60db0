import json

import report_tools

from clipjax.report_parts import loss_phases, several_runs
from clipjax.report_parts.page import Fold, Table, Text


def runs(tmp_path, *changes):
    found = []
    for number, change in enumerate(changes):
        place = report_tools.run(tmp_path, f"run {number}")
        config = json.loads((place / "config.json").read_text())
        change(config)
        (place / "config.json").write_text(json.dumps(config))
        found.append(report_tools.read(place))
    return found


def test_configs_differ_where_they_do(tmp_path):
    def other(config):
        config["optim"]["lr"] = 0.5
        del config["loss"]["label_smoothing"]

    table, fold = several_runs.config_section(
        runs(tmp_path, lambda config: None, other)
    ).blocks
    assert isinstance(table, Table) and isinstance(fold, Fold)
    assert [list(row) for row in table.rows] == [["optim.lr", "0.001", "0.5"]]
    assert [row[0] for row in fold.blocks[0].rows] == ["loss.label_smoothing"]


def test_equal_configs(tmp_path):
    same = runs(tmp_path, lambda config: None, lambda config: None)
    (text,) = several_runs.config_section(same).blocks
    assert text.text == "The configs are equal."


def test_evaluations_are_paired(tmp_path):
    first, second = runs(tmp_path, lambda config: None, lambda config: None)
    section = several_runs.side_by_side(
        [first, second], [loss_phases.course(run) for run in (first, second)]
    )
    table, paired = section.blocks
    assert table.rows[0][:4] == ["run 0", "40", "0.236", "0.236"]
    assert [row[1] for row in paired.rows] == [
        "retrieval mean recall@1",
        "zeroshot shape/top1",
    ]
    assert all(row[4] == "+0.00" for row in paired.rows) and not paired.strong


def test_evaluations_on_other_data_are_not_paired(tmp_path):
    first, second = (report_tools.run(tmp_path, name) for name in "ab")
    keys = [f"other/{n}" for n in range(report_tools.IMAGES)]
    (second / "evaluations" / "2" / "results.json").unlink()
    for file in (second / "evaluations" / "2").iterdir():
        file.unlink()
    report_tools.evaluate(second, keys=keys)
    found = [report_tools.read(place) for place in (first, second)]
    section = several_runs.side_by_side(found, [None, None])
    gaps = [block for block in section.blocks if isinstance(block, Text)]
    assert "evaluate both on the same data" in gaps[0].text
