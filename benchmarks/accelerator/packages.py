"""Installs wheels of packages that this Python lacks, offline and beside it."""

from __future__ import annotations

import importlib.metadata
import pathlib
import subprocess
import sys
import tomllib

PYPROJECT = pathlib.Path(__file__).parents[2] / "pyproject.toml"


def install(
    wheels: pathlib.Path, target: pathlib.Path, log: pathlib.Path
) -> dict[str, str]:
    """Installs wheels into a folder; returns wheel -> outcome.

    A package that this Python has in a version that clipjax accepts is not installed,
    so that a folder of wheels never hides the accelerator's own jax.
    """
    outcomes, chosen = {}, []
    bounds = _bounds()
    for wheel in sorted(wheels.glob("*.whl")):
        name = wheel.name.split("-")[0].replace("_", "-").lower()
        here = _version(name)
        bound = bounds.get(name)
        if here is None:
            outcomes[wheel.name] = "installed"
        elif bound is not None and not bound.contains(here, prereleases=True):
            outcomes[wheel.name] = f"installed: {here} here is not {bound}"
        else:
            outcomes[wheel.name] = f"left out: {here} is here"
            continue
        chosen.append(str(wheel))
    if chosen:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index"]
        command += ["--no-deps", "--no-compile", "--no-cache-dir"]
        command += ["--disable-pip-version-check", "--target", str(target)]
        done = subprocess.run(
            command + chosen,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        log.write_text(f"=== wheels\n{done.stdout}")
        if done.returncode:
            last = (done.stdout.strip() or "no message").splitlines()[-1]
            outcomes["error"] = f"pip ended by {done.returncode}: {last}"
            print(f"wheels: {outcomes['error']}", flush=True)
    return outcomes


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _bounds() -> dict:
    """Returns package -> the versions that clipjax accepts."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        from pip._vendor.packaging.requirements import Requirement
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    requirements = [Requirement(text) for text in project["dependencies"]]
    return {one.name.replace("_", "-").lower(): one.specifier for one in requirements}
