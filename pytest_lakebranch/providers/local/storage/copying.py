"""Ways to bring the content of one file into another."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator

FICLONE = 0x40049409
CANNOT = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.ENOTTY)
"""What the system says when one way to copy is not possible between these two files."""
CHUNK = 1 << 20
NO_DATA = errno.ENXIO


def share_blocks(source: int, target: int) -> None:
    """Let ``target`` share the blocks of ``source`` until either is written (FICLONE)."""
    fcntl.ioctl(target, FICLONE, source)


def share_or_copy(source: int, target: int, size: int) -> None:
    """Share blocks where the file system can, else copy."""
    try:
        share_blocks(source, target)
    except OSError as error:
        if error.errno not in CANNOT:
            raise
        copy_data(source, target, size)


def copy_data(source: int, target: int, size: int) -> None:
    """Copy ``size`` bytes, or fewer when the file ends earlier; what is a hole stays one."""
    if os.fstat(source).st_blocks * 512 >= size:
        _copy_range(source, target, 0, size)
        return
    for start, end in _data(source, size):
        _copy_range(source, target, start, end - start)
    os.ftruncate(target, size)


def _data(source: int, size: int) -> Iterator[tuple[int, int]]:
    """The stretches of a file that are not holes."""
    end = 0
    while end < size:
        try:
            start = os.lseek(source, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == NO_DATA:
                return
            raise
        end = os.lseek(source, start, os.SEEK_HOLE)
        yield start, min(end, size)


def _copy_range(source: int, target: int, offset: int, count: int) -> None:
    """In the kernel where it can be, without bringing the bytes here."""
    done = 0
    try:
        while done < count:
            copied = os.copy_file_range(source, target, count - done, offset + done, offset + done)
            if not copied:
                return
            done += copied
    except (OSError, AttributeError) as error:
        if isinstance(error, OSError) and error.errno not in CANNOT:
            raise
        _read_and_write(source, target, offset + done, count - done)


def _read_and_write(source: int, target: int, offset: int, count: int) -> None:
    while count > 0 and (data := os.pread(source, min(CHUNK, count), offset)):
        os.pwrite(target, data, offset)
        offset += len(data)
        count -= len(data)
