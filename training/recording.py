"""What a run says while it goes: the bar, TensorBoard, and `log.jsonl`, one line an epoch."""

import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch import Tensor

from store.files import storage_error
from store.ledger import append_line
from store.locks import remove_lock
from training.curves import Curves
from training.distributed import rank
from utils.errors import UserError
from utils.progress_bar import progress_bar
from utils.signals import fleeting


class Recorder:
    """Curves are over the global step; a resumed run goes on in the same files. Only the first process records.

    UserError where another run records in the folder: two would overwrite each other's checkpoints.
    """

    def __init__(self, folder: Path, total_steps: int, *, first_step: int, batch_size: int) -> None:
        self._log, self._first_step, self._batch_size = folder / "log.jsonl", first_step, batch_size
        self._started_seconds = time.monotonic()
        self._curves = None
        silent = rank() != 0
        with ExitStack() as opened:
            if not silent:
                opened.callback(remove_lock, _only_one_in(folder))
                self._curves = opened.enter_context(closing(Curves(folder / "tensorboard", first_step=first_step + 1)))
            self._opened = opened.pop_all()
        self._bar = progress_bar(total=total_steps, first=first_step, unit=" steps", silent=silent)

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        self._opened.close()

    def step(self, number: int, values: Mapping[str, float | Tensor], rates: Mapping[str, float]) -> None:
        """After step `number` (1 = the first), which had these learning rates."""
        images_per_second = self._batch_size * (number - self._first_step) / self.seconds
        self._bar.set_postfix_str(f"loss {float(values['loss']):.4f}, {images_per_second:.0f} img/s", refresh=False)
        self._bar.update(1)
        if self._curves is None:  # values would be fetched from the device in vain
            return
        numbers = {key: float(value) for key, value in values.items()} | {"images_per_second": images_per_second}
        shown = {f"train/{key}": value for key, value in numbers.items()}
        self._curves.add(number, shown | {f"rate/{name}": rate for name, rate in rates.items()})

    def epoch(self, number: int, epoch: int, values: Mapping[str, float]) -> None:
        """After the evaluation at the end of epoch `epoch` (1 = the first)."""
        if self._curves is None:
            return
        self._curves.add(number, values)
        line: dict[str, Any] = {"epoch": epoch, "step": number, "seconds": round(self.seconds, 1)}
        append_line(self._log, line | {key: round(value, 5) for key, value in values.items()})
        shown = ", ".join(f"{key} {value:.4g}" for key, value in values.items())
        self._bar.write(f"epoch {epoch}: {shown}")

    @property
    def seconds(self) -> float:
        """Since this process began to train."""
        return time.monotonic() - self._started_seconds


def _only_one_in(folder: Path) -> FileLock:
    """Holds the folder, which is made, until it is released, or the process ends in whatever way."""
    lock = FileLock(folder / ".running")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        Path(lock.lock_file).touch()  # OSError where nothing can be written
    except OSError as error:
        raise storage_error(folder, error) from error
    try:
        lock.acquire(blocking=False)
        fleeting.add(str(lock.lock_file))
    except Timeout:
        raise UserError(
            f"{folder}: another process trains into this folder: wait for its end, or change output_path"
        ) from None
    except (OSError, NotImplementedError):  # a disk without locks: nobody is kept out
        pass
    return lock
