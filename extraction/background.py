"""A thread that works behind the main loop, in order, a bounded number of calls behind it."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Background:
    """Calls run one after another. What one of them raises comes out of the next `run`, or of leaving the block.

    After a call that raised, those behind it do not run.
    """

    def __init__(self, *, depth: int) -> None:
        self._depth = depth  # calls waiting at a time; each holds its arguments in memory
        self._waiting: deque[Future[None]] = deque()
        self._stopped = False

    def run(self, call: Callable[..., None], *arguments: Any) -> None:
        self._collect(down_to=self._depth - 1)
        self._waiting.append(self._pool.submit(self._guarded, call, *arguments))

    def _guarded(self, call: Callable[..., None], *arguments: Any) -> None:
        if self._stopped:
            return
        try:
            call(*arguments)
        except BaseException:
            self._stopped = True
            raise

    def _collect(self, *, down_to: int) -> None:
        """Wait until at most so many calls are left; results that are there already are looked at in any case."""
        while self._waiting and (len(self._waiting) > down_to or self._waiting[0].done()):
            self._waiting.popleft().result()

    def __enter__(self) -> "Background":
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="write")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Waits for what is left. In an error, finished items behind it are not lost: they are handed on as well."""
        try:
            if kind is None:
                self._collect(down_to=0)
        finally:
            self._pool.shutdown(wait=True)
