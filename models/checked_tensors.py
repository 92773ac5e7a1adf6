"""Weights out of a file: tensors of numbers, as many as can lie in it, before any of them is used."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from utils.errors import UserError

_MOST_PACKED = 64  # weights a byte of the file: tensors may share their values, but not to make a bomb
_FREE = 1 << 26


def check_tensors(path: Path, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """UserError for weights that are whole numbers, complex, quantised, sparse or empty of values, nan or infinite.

    `expected` is the model's own state; what it does not have, and shapes, are told elsewhere.
    """
    numbers = sum(value.numel() for value in state.values())
    if numbers > _MOST_PACKED * path.stat().st_size + _FREE:
        raise UserError(f"{path}: {numbers:,} weights in {path.stat().st_size:,} bytes: expanded tensors; save copies")
    for key, value in state.items():
        if value.layout != torch.strided or value.is_meta or value.is_quantized:
            kind = "no values (device meta)" if value.is_meta else f"{value.layout} or quantised"
            raise UserError(f"{path}: {key} has {kind}; expected ordinary tensors: save model.state_dict() of float32")
        if key in expected and value.is_floating_point() != expected[key].is_floating_point():
            raise UserError(f"{path}: {key} is {value.dtype}, expected {expected[key].dtype}")
        if value.is_floating_point() and not torch.isfinite(value.float()).all():
            raise UserError(
                f"{path}: {key} holds nan or infinite values: the training went wrong, or the file is damaged"
            )
