"""Manifests of checkpoints: the size and sha256 of every file in a folder.

orbax restores flipped bits silently. A manifest, written after orbax's commit, detects
them and names the files. It also shows that the files have reached the disk.
"""

from __future__ import annotations

import pathlib

from clipjax import atomic_files


def write(directory: pathlib.Path, manifest_path: pathlib.Path) -> None:
    """Writes a folder's manifest atomically, once all its files are on the disk.

    Raises OSError.
    """
    files = {}
    for path in _files(directory):
        # Synced because older checkpoints are deleted next.
        atomic_files.sync(path)
        files[path.relative_to(directory).as_posix()] = {
            "size": path.stat().st_size,
            "sha256": atomic_files.digest(path),
        }
    for folder in [directory, *(p for p in directory.rglob("*") if p.is_dir())]:
        atomic_files.sync(folder)
    atomic_files.sync(directory.parent)
    atomic_files.write_json(manifest_path, {"files": files})
    atomic_files.sync(manifest_path.parent)


def read(manifest_path: pathlib.Path) -> dict[str, tuple[int, str]]:
    """The size and sha256 of each file that a manifest names.

    Raises OSError, ValueError, TypeError, KeyError or AttributeError if it is broken.
    """
    manifest = atomic_files.parse_json(manifest_path.read_text(encoding="utf-8"))
    return {
        name: (int(entry["size"]), str(entry["sha256"]))
        for name, entry in manifest["files"].items()
    }


def check(directory: pathlib.Path, manifest_path: pathlib.Path) -> list[str]:
    """The differences between a folder and its manifest, one text per file.

    A missing or broken manifest is a difference too.
    """
    try:
        wanted = read(manifest_path)
    except OSError as error:
        return [f"{manifest_path.name} cannot be read ({error.strerror})"]
    except (ValueError, TypeError, KeyError, AttributeError):
        return [f"{manifest_path.name} is broken"]
    if not directory.is_dir():
        return [f"the folder {directory} is missing"]
    files = {path.relative_to(directory).as_posix(): path for path in _files(directory)}
    problems = []
    for name in sorted({*wanted, *files}):
        if name not in files:
            problems.append(f"{name} is missing")
        elif name not in wanted:
            problems.append(f"{name} is not in the manifest")
        else:
            problems.extend(_compare(name, files[name], *wanted[name]))
    return problems


def _compare(name: str, path: pathlib.Path, size: int, sha256: str) -> list[str]:
    try:
        now = path.stat().st_size
        if now != size:
            return [f"{name} has {now} bytes instead of {size}"]
        if atomic_files.digest(path) != sha256:
            return [f"{name} has changed (another sha256)"]
    except OSError as error:  # a failing disk
        return [f"{name} cannot be read ({error.strerror})"]
    return []


def _files(directory: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in directory.rglob("*") if not path.is_dir())
