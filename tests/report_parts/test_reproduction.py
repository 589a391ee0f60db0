import pytest
import report_tools

from clipjax import commandline, config_check, report, train
from clipjax.report_parts import reproduction
from clipjax.report_parts.page import Code, Table


def blocks(run):
    return reproduction.configuration_section(run).blocks


def test_the_config_file_of_the_page_gives_the_run_again(tmp_path):
    run = report_tools.read(report_tools.saved_run(tmp_path, "it's"))
    (code,) = [block for block in blocks(run) if isinstance(block, Code)]
    (tmp_path / "again.py").write_text(code.text)
    config = commandline.load_file(str(tmp_path / "again.py"))
    config_check.validate(config)
    again = config_check.flat(config)
    assert {key: again[key] for key in config_check.flat(run.config)} == (
        config_check.flat(run.config)
    )


@pytest.mark.thorough
def test_a_whole_run(tmp_path, on_one_device):
    """What a run leaves is what the report shows."""
    place = str(tmp_path / "run")
    argv = ["--config", "tests/config_tiny.py", "--workdir", place]
    argv.append("--config.optim.lr=0.002")
    assert train.main(["train", *argv]) == 0
    run = report_tools.read(tmp_path / "run")
    assert run.gaps == []
    (table,) = [block for block in blocks(run) if isinstance(block, Table)]
    assert [list(row) for row in table.rows] == [["optim.lr", "0.0005", "0.002"]]
    (code,) = [block for block in blocks(run) if isinstance(block, Code)]
    assert f"python -m clipjax.train {' '.join(argv)}" in code.text
    assert train.main(["train", *argv]) == 0  # complete: it does not start again
    assert len(report_tools.read(tmp_path / "run").starts) == 1
    out = tmp_path / "r.html"
    assert report.main(["report", place, f"--out={out}"]) == 0
    page = out.read_text()
    assert 'class="gap"' not in page
    assert "GFLOP/s" in page and "activations and buffers" in page
