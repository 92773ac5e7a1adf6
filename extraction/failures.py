"""A run whose items all fail alike is stopped: a disk that is gone would else cost every item that is left."""

import errno
import os

from utils.errors import MediaError, UserError, check_count
from utils.types import Item

# What is seldom of one file alone; its content, which may be damaged in a thousand files in a row, never stops a run.
_ERRORS = (
    *(errno.ENOENT, errno.EACCES, errno.EPERM, errno.EIO, errno.ENXIO, errno.ENODEV, errno.ENOMEM, errno.EMFILE),
    *(errno.ENFILE, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.ECONNREFUSED, errno.EHOSTDOWN),
)
_COMMON = (
    *(os.strerror(number).lower() for number in _ERRORS),
    *(
        "no such file",
        "the decoder crashed",
        "the decoder was killed",
        "no progress in reading",
        "reading it took more",
    ),
)


class FailuresInARow:
    """Counts those with the same reason, the item's own path aside. `limit` of them stop the run, 0 never does."""

    def __init__(self, limit: int) -> None:
        check_count("stop_after_failures", limit, least=0)
        self._limit, self._reason, self._number = limit, "", 0

    def end(self) -> None:
        """An item did not fail."""
        self._number = 0

    def add(self, item: Item, reason: str, error: Exception) -> None:
        """Raises UserError where this was the last one that is put up with."""
        reason = reason.replace(str(item.path), "").strip(": ")
        if isinstance(error, MediaError) and not any(common in reason.lower() for common in _COMMON):
            self._number = 0
            return
        self._number = self._number + 1 if reason == self._reason else 1
        self._reason = reason
        if self._limit and self._number >= self._limit:
            raise UserError(
                f"{self._number} inputs in a row failed for the same reason, the last is {item.path} ({reason}): is "
                "their disk there, and may they be read? Mend it and run the same command again; "
                "stop_after_failures=0 goes on whatever fails"
            )
