"""Reads the members of a tar shard, also if it is truncated or joined by `cat`."""

from __future__ import annotations

import tarfile
from collections.abc import Generator, Iterator
from typing import BinaryIO

from clipjax.data.storage import file_contents
from clipjax.data.storage.shard_files import Shard
from clipjax.types import UserError

BLOCK = tarfile.BLOCKSIZE


def each(
    file: BinaryIO, shard: Shard, problems: list[str]
) -> Iterator[tuple[int, tarfile.TarInfo]]:
    """Yields (number of the archive, member); adds damage to `problems`.

    It reads past an archive's end mark, as GNU tar's --ignore-zeros does, so that two
    archives joined by `cat` give the members of both.

    Raises UserError for a file of another kind, such as a compressed one.
    """
    head = file.read(BLOCK)
    if not head:
        problems.append("the file is empty (0 bytes)")
        return
    if not _is_header(head) and (form := file_contents.form_of(head)):
        raise UserError(f"the shard {shard.address} is {file_contents.AS_SHARD[form]}")
    part, start = 0, 0
    while True:
        end = yield from _archive(file, part, start, shard, problems)
        if end is None or (start := _content_after(file, end)) is None:
            return
        file.seek(start)
        if not _is_header(file.read(BLOCK)):
            problems.append(
                f"{shard.stamp[0] - start} bytes after the end mark, from byte "
                f"{start} on, are not a tar and not read"
            )
            return
        part += 1


def _archive(
    file: BinaryIO, part: int, start: int, shard: Shard, problems: list[str]
) -> Generator[tuple[int, tarfile.TarInfo], None, int | None]:
    """Yields the members of the archive at byte `start`; returns the position of its
    end mark, None if it has none.
    """
    file.seek(start)
    size, position = shard.stamp[0], start
    try:
        tar = tarfile.open(fileobj=file, mode="r:")
        while (member := tar.next()) is not None:
            if tar.offset <= position or member.size < 0:
                problems.append(f"bad header at byte {position}; the rest is lost")
                return None
            position = tar.offset
            yield part, member
            if position > size:
                problems.append(f"truncated inside {member.name!r} (byte {size})")
                return None
    except (tarfile.TarError, ValueError, OverflowError) as error:
        if position == 0:
            raise UserError(
                f"the shard {shard.address} is not a tar file: {error}"
            ) from error
        problems.append(f"truncated or damaged after byte {position}: {error}")
        return None
    file.seek(position)
    block = file.read(BLOCK)
    if len(block) < BLOCK:
        problems.append(f"no end mark at byte {position}; it may be truncated there")
    elif any(block):
        problems.append(f"bad header at byte {position}; the rest is lost")
    else:
        return position
    return None


def _content_after(file: BinaryIO, position: int) -> int | None:
    """Returns the start of the first block from `position` on that is not all zeros;
    None if there is none.
    """
    file.seek(position)
    while chunk := file.read(128 * BLOCK):
        if rest := chunk.lstrip(b"\0"):
            zeros = len(chunk) - len(rest)
            return position + zeros - zeros % BLOCK
        position += len(chunk)
    return None


def _is_header(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True
