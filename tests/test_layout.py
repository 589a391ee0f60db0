"""Imports point down, and each library stays in its place (docs/architecture.md)."""

import ast
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "clipjax"

# A module may import from its own level and from those below (further right).
LEVELS = [
    ["train", "evaluate", "export", "prepare", "library"],
    ["commandline"],
    ["engine"],
    ["evals", "losses", "optim", "models", "data", "encoder", "results", "weights"]
    + ["image_batches", "given_images"],
    ["config", "config_check", "config_limits", "config_parts", "config_sections"],
    ["registry"],
    ["agree", "paths"],
    ["peers"],
    ["links", "pulse"],
    ["types"],
]
HOMES = {
    "flax.linen": ["models"],
    "orbax": ["engine/checkpoint/saves.py"],
    "grain": ["data"],
    "array_record": ["data/containers/record_shards.py"],
    "cv2": ["data/images/opencv.py"],
    "absl.flags": ["commandline.py", "data/batching/pipeline.py"],
    "tensorflow": [],
    "torch": [],
    "pickle": ["weights/tensors/torch_zip.py"],
}


def level(part: str) -> int:
    return next(i for i, names in enumerate(LEVELS) if part in names)


def imports(path: pathlib.Path):
    """Every dotted name that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files():
    return sorted(p for p in PACKAGE.rglob("*.py") if p.name != "__init__.py")


def test_imports_point_down():
    wrong = []
    for path in files():
        own = path.relative_to(PACKAGE).with_suffix("").parts[0]
        for name in imports(path):
            parts = name.split(".")
            if parts[0] != "clipjax" or len(parts) < 2:
                continue
            known = [n for names in LEVELS for n in names]
            if parts[1] in known and level(parts[1]) < level(own):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_libraries_stay_at_home():
    wrong = []
    for path in files():
        here = path.relative_to(PACKAGE).as_posix()
        for name in imports(path):
            for library, homes in HOMES.items():
                if name == library or name.startswith(f"{library}."):
                    if not any(here.startswith(home) for home in homes):
                        wrong.append(f"{here} imports {name}")
    assert not wrong


def test_no_file_is_long():
    long = [p.name for p in files() if len(p.read_text().splitlines()) > 400]
    assert not long


def test_importing_clipjax_is_cheap():
    code = (
        "import sys, clipjax; print([m for m in ('jax', 'flax') if m in sys.modules])"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == "[]"
