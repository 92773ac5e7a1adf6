"""JSON as it is used on disk: plain values in, UTF-8 out, the same value back."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np


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
