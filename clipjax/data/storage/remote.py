"""Folders in object stores (gs://, s3://, hf://, https://), read through fsspec.

No shard is downloaded as a file: indexing streams it once, and examples are read by
position.
"""

from __future__ import annotations

import concurrent.futures
import datetime
import errno
import functools
import glob
import io
import re
import time
import urllib.parse
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, NoReturn, TypeVar

from clipjax.data.storage import file_contents, local
from clipjax.data.storage.shard_files import GLOB, Shard
from clipjax.types import UserError

THREADS = 16  # concurrent requests while shards are looked up
WAITS = (0.5, 2.0, 8.0)  # seconds before each retry of a failed request
BLOCK = 2**24  # bytes per read of a streamed shard
# File systems' names of a value that changes with the file; the first present is used.
TAGS = (
    *("ETag", "etag", "md5Hash", "checksum", "generation", "blob_id", "sha"),
    *("mtime", "LastModified", "last_modified", "updated", "created"),
)
PACKAGES = {
    **{"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs", "hf": "huggingface_hub"},
    **{"http": "aiohttp", "https": "aiohttp"},
    **{"az": "adlfs", "abfs": "adlfs"},
}

HTTP = ("http", "https")

Answer = TypeVar("Answer")


class RemoteFolder:
    """A remote `shard_files.Folder`. Raises UserError if it cannot be reached."""

    def __init__(self, url: str):
        self.address = url.rstrip("/")
        self._connect()
        self._checked: set[str] = set()
        self._serves_ranges = False  # until a shard has shown it

    def _connect(self) -> None:
        import fsspec  # here, because it takes a second to import

        scheme = self.address.partition("://")[0]
        if scheme in HTTP and "?" in self.address:
            raise UserError(
                f"{self.address}: an address of shards has no query (?...); in a "
                "name write the ? as %3F"
            )
        if scheme == "file":  # url_to_fs would give :: in a path its own meaning
            self._fs = fsspec.filesystem("file")
            self._root = self.address.removeprefix("file://").removeprefix("localhost")
            return
        try:
            self._fs, self._root = fsspec.core.url_to_fs(self.address)
        except ImportError as error:
            package = PACKAGES.get(scheme, getattr(error, "name", None) or "(unknown)")
            raise UserError(
                f"{self.address} needs the package {package}: pip install {package}"
            ) from error
        except Exception as error:
            if isinstance(error, ValueError) and "not known" in str(error):
                raise UserError(
                    f"{self.address}: unknown kind of address {scheme}://; use gs://, "
                    f"s3://, hf://, https:// or a local folder"
                ) from error
            self._unreachable(error)

    def __getstate__(self) -> str:
        return self.address

    def __setstate__(self, address: str) -> None:
        self.__init__(address)

    def matching(self, patterns: Sequence[str]) -> list[list[str]]:
        """Lists each folder once if the server can; else looks up each file."""
        self._fs.invalidate_cache()  # drops outdated listings
        plain = [name for name in patterns if not GLOB.search(name)]
        for folder in {name.rpartition("/")[0] for name in plain}:
            try:  # fills the cache, from which the look-ups below are answered
                self._fs.ls(self._path(folder) if folder else self._root, detail=True)
            except Exception:  # noqa: S110 -- a server without listings serves files
                pass
        with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(self._matching, patterns))

    def _matching(self, pattern: str) -> list[str]:
        try:
            if not GLOB.search(pattern):
                info = self._fs.info(self._path(pattern))
                return [pattern] if info.get("type") != "directory" else []
            if self.address.partition("://")[0] in HTTP:
                return self._matching_pages(pattern)
            path = f"{glob.escape(self._root.rstrip('/'))}/{pattern}"
            matches = self._fs.glob(path, detail=True)
        except FileNotFoundError:
            return []
        except Exception as error:
            self._unreachable(error)
        return sorted(
            self._name(path)
            for path, info in matches.items()
            if info.get("type") != "directory"
        )

    def _matching_pages(self, pattern: str) -> list[str]:
        """Matches the links of a web server's pages, for `_matching`.

        Links escape names with %, which the folder's address need not; fsspec's glob
        does not match the two.
        """
        from fsspec.utils import glob_translate

        matches = re.compile(glob_translate(pattern)).match
        literal = pattern[: GLOB.search(pattern).start()].rpartition("/")[0]  # pyright: ignore
        top = self._path(literal) if literal else self._root
        depth = None if "**" in pattern else pattern.count("/", len(literal) + 1) + 1
        names = [self._name(path) for path in self._fs.find(top, maxdepth=depth)]
        return sorted(name for name in names if matches(urllib.parse.unquote(name)))

    def summary(self) -> str:
        try:
            entries = self._fs.ls(self._root, detail=False)
        except FileNotFoundError as error:
            raise UserError(f"{self.address} does not exist, or is empty") from error
        except Exception as error:
            self._unreachable(error)
        return file_contents.summary_of(self._name(path) for path in entries)

    def shard(self, name: str) -> Shard:
        path = self._path(name)
        try:
            stamp = _stamp(_with_retries(functools.partial(self._fs.info, path)))
            if not self._serves_ranges:
                self._serves_ranges = _with_retries(
                    lambda: self._can_read_range(path, stamp[0])
                )
        except Exception as error:
            raise UserError(
                f"cannot read the shard {self.address}/{name}: {_one_line(error)}"
            ) from error
        if not self._serves_ranges:
            raise UserError(
                f"{self.address}: its server sends whole files only (it has no Range "
                "requests), and every example would be a download of a shard: use "
                "another server, or download the shards"
            )
        return Shard(f"{self.address}/{name}", stamp, lambda: self._stream(path))

    def _can_read_range(self, path: str, size: int) -> bool:
        """Whether the server serves byte ranges; every object store does."""
        if self.address.partition("://")[0] not in HTTP or size < 2:
            return True
        try:
            with self._fs.open(path, "rb", block_size=1, cache_type="none") as file:
                file.seek(1)
                return len(file.read(1)) == 1
        except ValueError:  # fsspec raises it for a server without them
            return False

    def _stream(self, path: str) -> BinaryIO:
        try:
            file = self._fs.open(path, "rb", block_size=BLOCK, cache_type="readahead")
        except Exception as error:
            raise OSError(errno.EIO, _one_line(error)) from error
        return io.BufferedReader(_RemoteFile(file), 2**20)

    def read(self, name: str, start: int, size: int, stamp: tuple[int, str]) -> bytes:
        """Reads as `Folder.read`; checks a file's stamp once per process."""
        path = self._path(name)
        try:
            if name not in self._checked:
                self._fs.invalidate_cache()  # which holds the first listing
                info = _with_retries(functools.partial(self._fs.info, path))
                if _stamp(info) != tuple(stamp):
                    raise OSError(errno.ESTALE, local.CHANGED)
                self._checked.add(name)
            if size == 0:
                return b""
            return _with_retries(
                functools.partial(self._fs.cat_file, path, start, start + size)
            )
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.ESTALE:
                raise
            raise OSError(errno.EIO, _one_line(error)) from error

    def read_lines(self, name: str, option: str) -> list[str]:
        try:
            raw = _with_retries(functools.partial(self._fs.cat_file, self._path(name)))
            return local.lines_of(raw, f"{self.address}/{name}")
        except FileNotFoundError as error:
            raise local.missing(
                f"{self.address}/{name}", f"It is named by the option {option}={name}"
            ) from error
        except UserError:
            raise
        except Exception as error:
            self._unreachable(error)

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _name(self, path: str) -> str:
        root = self._root.strip("/")
        return str(path).strip("/").removeprefix(root).strip("/")

    def _unreachable(self, error: Exception) -> NoReturn:
        raise UserError(f"cannot reach {self.address}: {_one_line(error)}") from error


class _RemoteFile(io.RawIOBase):
    """A remote file; it raises OSError in place of any library's own errors."""

    def __init__(self, file: Any):
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        start = self._file.tell()

        def read() -> bytes:
            self._file.seek(start)
            return self._file.read(len(buffer))

        try:
            data = _with_retries(read)
        except Exception as error:
            raise OSError(errno.EIO, _one_line(error)) from error
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def _with_retries(request: Callable[[], Answer]) -> Answer:
    """Retries a failed request, unless the file does not exist or is forbidden."""
    for wait in WAITS:
        try:
            return request()
        except (FileNotFoundError, PermissionError):
            raise
        except Exception:
            time.sleep(wait)
    return request()


def _stamp(info: dict[str, Any]) -> tuple[int, str]:
    """Returns the file's size and tag; raises OSError if the size is unknown."""
    size = info.get("size")
    if not isinstance(size, int):
        raise OSError(errno.EIO, "its server does not tell its size")
    tag = next((info[name] for name in TAGS if info.get(name) is not None), "")
    if isinstance(tag, datetime.datetime):
        tag = tag.timestamp()
    return size, str(tag)


def _one_line(error: BaseException) -> str:
    """Formats an error on one line."""
    if isinstance(error, FileNotFoundError):
        return "it does not exist"
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:300] + " ..."
