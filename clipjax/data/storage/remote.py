"""Folders in object stores (gs://, s3://, hf://, https://), read through fsspec.

Nothing is copied as a whole: a shard is streamed once to be indexed, and examples are
read by position.
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

THREADS = 16  # requests under way at once, while shards are looked up
WAITS = (0.5, 2.0, 8.0)  # seconds, before a request that failed is made again
BLOCK = 2**24  # bytes, of a shard that is streamed
# What file systems call a sign that a file has changed; the first that there is.
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

Found = TypeVar("Found")


class RemoteFolder:
    """See `folders.Folder`. Raises UserError for a place that cannot be reached."""

    def __init__(self, url: str):
        self.address = url.rstrip("/")
        self._connect()
        self._checked: set[str] = set()
        self._in_parts = False  # not known yet

    def _connect(self) -> None:
        import fsspec  # a second to import, with what it looks for

        scheme = self.address.partition("://")[0]
        if scheme in HTTP and "?" in self.address:
            raise UserError(
                f"{self.address}: an address of shards has no query (?...); in a "
                "name write the ? as %3F"
            )
        if scheme == "file":  # where fsspec takes :: for its own
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
        """Lists each folder once if it can; else asks for each file."""
        self._fs.invalidate_cache()  # of the folders' listings, as of another time
        plain = [name for name in patterns if not GLOB.search(name)]
        for folder in {name.rpartition("/")[0] for name in plain}:
            try:  # so that what follows is answered from the listing
                self._fs.ls(self._place(folder) if folder else self._root, detail=True)
            except Exception:  # noqa: S110 -- a server without listings has its files
                pass
        with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(self._matching, patterns))

    def _matching(self, pattern: str) -> list[str]:
        try:
            if not GLOB.search(pattern):
                info = self._fs.info(self._place(pattern))
                return [pattern] if info.get("type") != "directory" else []
            if self.address.partition("://")[0] in HTTP:
                return self._listed(pattern)
            place = f"{glob.escape(self._root.rstrip('/'))}/{pattern}"
            found = self._fs.glob(place, detail=True)
        except FileNotFoundError:
            return []
        except Exception as error:
            self._unreachable(error)
        return sorted(
            self._name(place)
            for place, info in found.items()
            if info.get("type") != "directory"
        )

    def _listed(self, pattern: str) -> list[str]:
        """As `_matching`, of a server's pages: they spell names with % and the folder
        need not be spelled so, which fsspec's glob cannot see.
        """
        from fsspec.utils import glob_translate

        fits = re.compile(glob_translate(pattern)).match
        literal = pattern[: GLOB.search(pattern).start()].rpartition("/")[0]  # pyright: ignore
        top = self._place(literal) if literal else self._root
        depth = None if "**" in pattern else pattern.count("/", len(literal) + 1) + 1
        names = [self._name(place) for place in self._fs.find(top, maxdepth=depth)]
        return sorted(name for name in names if fits(urllib.parse.unquote(name)))

    def held(self) -> str:
        try:
            places = self._fs.ls(self._root, detail=False)
        except FileNotFoundError as error:
            raise UserError(f"{self.address} does not exist, or is empty") from error
        except Exception as error:
            self._unreachable(error)
        return file_contents.in_words(self._name(place) for place in places)

    def shard(self, name: str) -> Shard:
        place = self._place(name)
        try:
            stamp = _stamp(_patiently(functools.partial(self._fs.info, place)))
            if not self._in_parts:
                self._in_parts = _patiently(lambda: self._sends_parts(place, stamp[0]))
        except Exception as error:
            raise UserError(
                f"cannot read the shard {self.address}/{name}: {_words(error)}"
            ) from error
        if not self._in_parts:
            raise UserError(
                f"{self.address}: its server sends whole files only (it has no Range "
                "requests), and every example would be a download of a shard: use "
                "another server, or download the shards"
            )
        return Shard(f"{self.address}/{name}", stamp, lambda: self._stream(place))

    def _sends_parts(self, place: str, size: int) -> bool:
        """Whether a part of a file can be asked for; every object store has parts."""
        if self.address.partition("://")[0] not in HTTP or size < 2:
            return True
        try:
            with self._fs.open(place, "rb", block_size=1, cache_type="none") as file:
                file.seek(1)
                return len(file.read(1)) == 1
        except ValueError:  # fsspec's word for a server without them
            return False

    def _stream(self, place: str) -> BinaryIO:
        try:
            opened = self._fs.open(
                place, "rb", block_size=BLOCK, cache_type="readahead"
            )
        except Exception as error:
            raise OSError(errno.EIO, _words(error)) from error
        return io.BufferedReader(_Errors(opened), 2**20)

    def read(self, name: str, start: int, size: int, stamp: tuple[int, str]) -> bytes:
        """The file's stamp is looked up before its first use in this process."""
        place = self._place(name)
        try:
            if name not in self._checked:
                self._fs.invalidate_cache()  # else it is what was listed at first
                now = _patiently(functools.partial(self._fs.info, place))
                if _stamp(now) != tuple(stamp):
                    raise OSError(errno.ESTALE, local.CHANGED)
                self._checked.add(name)
            if size == 0:
                return b""
            return _patiently(
                functools.partial(self._fs.cat_file, place, start, start + size)
            )
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.ESTALE:
                raise
            raise OSError(errno.EIO, _words(error)) from error

    def read_lines(self, name: str, option: str) -> list[str]:
        try:
            raw = _patiently(functools.partial(self._fs.cat_file, self._place(name)))
            return local.lines_of(raw, f"{self.address}/{name}")
        except FileNotFoundError as error:
            raise local.missing(
                f"{self.address}/{name}", f"It is named by the option {option}={name}"
            ) from error
        except UserError:
            raise
        except Exception as error:
            self._unreachable(error)

    def _place(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _name(self, place: str) -> str:
        root = self._root.strip("/")
        return str(place).strip("/").removeprefix(root).strip("/")

    def _unreachable(self, error: Exception) -> NoReturn:
        raise UserError(f"cannot reach {self.address}: {_words(error)}") from error


class _Errors(io.RawIOBase):
    """A remote file whose errors, of whatever library, are OSErrors."""

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
        at = self._file.tell()

        def read() -> bytes:
            self._file.seek(at)
            return self._file.read(len(buffer))

        try:
            data = _patiently(read)
        except Exception as error:
            raise OSError(errno.EIO, _words(error)) from error
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def _patiently(request: Callable[[], Found]) -> Found:
    """Makes a request again if it fails, but for a file that is not there."""
    for wait in WAITS:
        try:
            return request()
        except (FileNotFoundError, PermissionError):
            raise
        except Exception:
            time.sleep(wait)
    return request()


def _stamp(info: dict[str, Any]) -> tuple[int, str]:
    """Raises OSError if the file system does not tell the size."""
    size = info.get("size")
    if not isinstance(size, int):
        raise OSError(errno.EIO, "its server does not tell its size")
    tag = next((info[name] for name in TAGS if info.get(name) is not None), "")
    if isinstance(tag, datetime.datetime):
        tag = tag.timestamp()
    return size, str(tag)


def _words(error: BaseException) -> str:
    """An error on one line."""
    if isinstance(error, FileNotFoundError):
        return "it does not exist"
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:300] + " ..."
