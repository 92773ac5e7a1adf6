"""How long loops tell how far they are: a bar on a terminal; a line now and then in a file, in a pipe, under SLURM."""

import sys
from collections.abc import Iterable
from time import time
from typing import TypeVar, cast

from tqdm import tqdm

LINE_EVERY_SECONDS = 30.0
_LINE = "{desc}{n_fmt} of {total_fmt}{unit}, {rate_noinv_fmt}, {remaining} left{postfix}"
_LAST_LINE = "{desc}{n_fmt}{unit} in {elapsed}, {rate_noinv_fmt}{postfix}"
_PASSING_SECONDS = 2.0

T = TypeVar("T")


class Lines(tqdm):
    """Instead of a bar that is redrawn: a line every 30 seconds, and one at the end."""

    _written: float | None = None  # when the last line was, by tqdm's clock

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        last = self.start_t if self._written is None else self._written
        if msg is None and time() - last >= LINE_EVERY_SECONDS:
            self._written = time()
            self._write(_LINE if self.total else _LAST_LINE)

    def clear(self, *_: object, **__: object) -> None:
        """Lines stay."""

    def close(self) -> None:
        if not self.disable and self.n > self.initial and (self.leave or self._written is not None):
            self._write(_LAST_LINE)
        self.leave = False
        super().close()

    def _write(self, bar_format: str) -> None:
        self.bar_format = bar_format
        self.desc = f"{self.desc.removesuffix(': ')}: " if self.desc else ""  # tqdm puts the colon on here and there
        self.fp.write(str(self).replace(",  ", ", ") + "\n")  # rates are five characters wide
        self.fp.flush()


def progress_bar(
    over: Iterable[T] | None = None,
    title: str = "",
    *,
    unit: str = "",
    total: int | None = None,
    first: int = 0,
    passing: bool = False,
    silent: bool = False,
) -> "tqdm[T]":
    """`for x in progress_bar(xs, "reading"):`, or `with progress_bar(total=n) as bar:` and `bar.update(1)`; on stderr.

    `first` steps were done before. `passing` is for what comes before the real work: on a terminal it is shown from
    the third second on, until it is done; elsewhere only if it takes as long as a line.
    """
    draws = sys.stderr is not None and sys.stderr.isatty()
    bar = (tqdm if draws else Lines)(
        over,
        desc=title,
        unit=unit,
        unit_scale=unit == "B",
        total=total,
        initial=first,
        leave=not passing,
        delay=0 if draws and not passing else _PASSING_SECONDS,
        disable=silent or sys.stderr is None,
        dynamic_ncols=draws,
        smoothing=0.1 if draws else 0,  # 0: rates over the whole run
        miniters=None if draws else 0,  # 0: the clock is looked at in every step, which is cheap
    )
    return cast("tqdm[T]", bar)
