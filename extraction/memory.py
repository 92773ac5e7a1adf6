"""Batches that do not fit the device's memory are computed in pieces, as large as fit; how large is found out once."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from utils.errors import UserError

logger = logging.getLogger(__name__)

Arrays = dict[str, np.ndarray]


class Pieces:
    """Halves batches where the memory is out, from then on all of them.

    Promised is what the features are, not their last bits: rows are computed in smaller company then.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._most: int | None = None  # rows that fit

    def __call__(self, compute: Callable[[Any], Arrays], rows: Any) -> Arrays:
        """`compute(rows)`; `rows` is a tensor or a list. UserError where not even one row fits."""
        most = self._most
        if most and len(rows) > most:
            pieces = [self(compute, rows[start : start + most]) for start in range(0, len(rows), most)]
            return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
        try:
            return compute(rows)
        except torch.OutOfMemoryError as error:
            if len(rows) == 1:
                raise UserError(
                    f"device={self._device}: its memory does not even hold a batch of one: end what else runs there, "
                    "or give another device, a lower precision or a smaller model"
                ) from error
        self._halve(len(rows))  # here, where nothing holds the tensors any more
        return self(compute, rows)

    def _halve(self, num_rows: int) -> None:
        self._most = (num_rows + 1) // 2
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        logger.warning(
            "device=%s: its memory does not hold batches of %d: %d at a time from now on. The last digits of features "
            "may differ from those of other runs; batch_size=%d gives the same ones every time",
            self._device,
            num_rows,
            self._most,
            self._most,
        )
