"""Files that are read as a whole: what is no file is refused before it is opened.

Opening a pipe waits until somebody writes into it, a device never ends, and some names no file can have. All of that is
an OSError here, so that whoever says "cannot be read" for a missing file says it for these, too.
"""

import errno
import os
import stat
from pathlib import Path

_KINDS = {
    stat.S_IFIFO: "a pipe (FIFO), not a file",
    stat.S_IFSOCK: "a socket, not a file",
    stat.S_IFCHR: "a device, not a file",
    stat.S_IFBLK: "a device, not a file",
    stat.S_IFDIR: "a folder, not a file",
}


def check_plain(path: str | os.PathLike[str]) -> os.stat_result:
    """What the system says of a file. OSError for anything that is none, `strerror` says what it is."""
    try:
        facts = os.stat(path)
    except ValueError as error:  # NUL, or half a surrogate out of a json
        raise OSError(errno.EINVAL, f"no name of a file: {error}") from error
    if not stat.S_ISREG(facts.st_mode):
        kind = _KINDS.get(stat.S_IFMT(facts.st_mode), "not a file")
        raise OSError(errno.EISDIR if stat.S_ISDIR(facts.st_mode) else errno.EINVAL, kind)
    return facts


def read_plain(path: str | os.PathLike[str], *, most_bytes: int | None = None) -> bytes:
    """OSError for one with more than `most_bytes`, too."""
    size = check_plain(path).st_size
    if most_bytes is not None and size > most_bytes:
        raise OSError(errno.EFBIG, f"{size:,} bytes, {most_bytes:,} at most are expected")
    return Path(path).read_bytes()
