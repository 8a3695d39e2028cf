"""Files that are there whole, or as they were: whatever ends a process, and a power failure too."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that takes a path's place once the block has ended and its bytes are on the disk.

    Until then, and if the block raises, what was there stays. It is written beside the path, as `.<name>`, since only
    within one file system a file can take another's place at once.

    Args:
        path: of the file that is to be; folders above it are made.

    Raises:
        OSError: if it cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     kept = Path(folder) / "kept.txt"
        ...     with replacing(kept) as file:
        ...         _ = file.write(b"all of it")
        ...     kept.read_bytes()
        b'all of it'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}")
    try:
        with aside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # The name, too, is to be on the disk; some file systems have no such thing for a folder, and the file is there.
        try:
            os.fsync(folder)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
                raise
    finally:
        os.close(folder)
