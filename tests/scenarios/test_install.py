"""What an installation holds, and what a script beside the clone imports."""

import os
import pathlib
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def build(monkeypatch):
    backend = pytest.importorskip("hatchling.build")
    monkeypatch.chdir(ROOT)
    return backend


def test_a_wheel_holds_the_package_alone(build, tmp_path):
    wheel = zipfile.ZipFile(tmp_path / build.build_wheel(str(tmp_path)))
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    kinds = {".py", ".css", ".html", ".jinja"}
    there = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "clipjax").rglob("*.*")
        if path.suffix in kinds
    }
    assert names == there
    assert any(name.endswith("/licenses/LICENSE") for name in wheel.namelist())


def test_a_script_beside_the_clone_imports_the_package(build, tmp_path):
    """There, a folder named clipjax is an empty namespace to Python."""
    wheel = zipfile.ZipFile(tmp_path / build.build_editable(str(tmp_path)))
    site, beside = tmp_path / "site", tmp_path / "beside"
    wheel.extractall(site)
    (beside / "clipjax" / "clipjax").mkdir(parents=True)  # as a clone looks
    (beside / "script.py").write_text(
        f"import site; site.addsitedir({str(site)!r})\n"
        "import importlib.util; print(importlib.util.find_spec('clipjax').origin)\n"
    )
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-S", str(beside / "script.py")],
        capture_output=True,
        text=True,
        env=env,
        check=True,
    )
    assert done.stdout.strip() == str(ROOT / "clipjax" / "__init__.py")
