"""Files that are either whole or not there, whatever kills the run; and JSON as it is kept in them."""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from utils.errors import MediaError, UserError
from utils.part_files import part_file

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_PERMISSION = (errno.EACCES, errno.EPERM, errno.EROFS)
_TOO_MANY_OPEN = (errno.EMFILE, errno.ENFILE)
_IN_THE_WAY = (errno.EISDIR, errno.ENOTDIR, errno.EEXIST)
# What file systems without durable folders answer; the file itself is safe by then.
_FOLDER_NOT_SYNCABLE = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.ENOSYS)


@contextmanager
def atomic_write(path: Path | str) -> Iterator[BinaryIO]:
    """Gives a binary file that becomes `path` when the block ends well; else `path` stays as it was.

    Parent folders are made. The bytes go to a part file (`utils.part_files`) beside `path`, are flushed to the disk
    and renamed, so that a reader or a second writer never sees half a file. An exception in the block removes the
    part file; only a kill leaves it behind, until somebody writes there again.

    Raises UserError when the disk is full, the folder not writable or something else is in the way,
    and MediaError when only this name is impossible (too long).
    """
    path = Path(path)
    with ExitStack() as stack:
        try:
            file = stack.enter_context(part_file(path))
        except OSError as error:
            raise storage_error(path, error) from error
        try:
            yield file
        except BaseException as error:
            # OSErrors of the block that name a file are about that one: they are passed on as they are.
            # PyTorch answers a failed write with an error of its own, of which the disk's is the context.
            cause = error if isinstance(error, OSError) else error.__context__
            if isinstance(cause, OSError) and (_is_disk_full(cause) or _is_of_descriptor(cause)):
                raise storage_error(path, cause) from error
            raise
        try:
            file.flush()
            os.fsync(file.fileno())
            if os.name != "posix":  # Windows renames no open files; elsewhere the lock says until then that we live
                file.close()
            os.replace(file.name, path)
            _sync_folder(path.parent)
        except OSError as error:
            raise storage_error(path, error) from error


def _sync_folder(folder: Path) -> None:
    """Makes the rename itself durable; Windows has no such call and needs none."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _FOLDER_NOT_SYNCABLE:
            raise
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Deletes a file of ours if it is there. Raises UserError where that is not allowed."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(path, error) from error


def storage_error(path: Path, error: OSError) -> UserError:
    """One line for a failed write of `path`: what happened and what to do."""
    if _is_disk_full(error):
        return UserError(
            f"{path}: could not be written, the disk is full (or the quota used up): free some space or choose another "
            "output_path and run the same command again; finished files are kept"
        )
    if error.errno in _NO_PERMISSION:
        return UserError(f"{path}: not allowed to write there: choose another output_path or mend the permissions")
    if error.errno in _TOO_MANY_OPEN:
        return UserError(
            f"{path}: could not be opened, too many files are: raise the limit (ulimit -n) or lower workers and "
            "batch_size, and run the same command again; finished files are kept"
        )
    if error.errno == errno.ENAMETOOLONG:
        return MediaError(f"{path}: this name is too long for the file system: rename the input file")
    if error.errno in _IN_THE_WAY:
        return UserError(f"{path}: a file or folder of the same name is in the way: move it or change output_path")
    return UserError(f"{path}: could not be written ({error.strerror or error}): check the disk or change output_path")


def _is_disk_full(error: OSError) -> bool:
    # numpy reports a short write in words only: "100000 requested and 8192 written".
    return error.errno in _DISK_FULL or (error.errno is None and "requested and" in str(error))


def _is_of_descriptor(error: OSError) -> bool:
    """The system's answer to a write or flush, which know no name."""
    return error.errno is not None and error.filename is None


def plain(value: Any) -> Any:
    """`value` as it looks after a round trip through JSON (tuples become lists, keys strings), to be compared.

    Raises TypeError for objects without a stable text form and ValueError for nan and infinities: both would make
    equal settings look different on every run.
    """
    return json.loads(encode(value))


def encode(value: Any, *, indent: int | None = None) -> bytes:
    """UTF-8 JSON, keys in the given order. File names that are no valid UTF-8 are escaped. Raises as `plain`."""
    try:
        return json.dumps(value, default=_simple, allow_nan=False, ensure_ascii=False, indent=indent).encode()
    except UnicodeEncodeError:
        return json.dumps(value, default=_simple, allow_nan=False, indent=indent).encode()


def _simple(value: Any) -> Any:
    if isinstance(value, Path | Fraction):
        return str(value)
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be stored as JSON: {value!r}")
