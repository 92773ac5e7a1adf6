"""What holds arguments and results to their types while tests run."""

from collections.abc import Callable
from typing import Any

from beartype import beartype


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """By beartype, except for protocols: `isinstance` cannot tell them, their contracts have tests of their own."""
    for name, hint in list(getattr(function, "__annotations__", {}).items()):
        if getattr(hint, "_is_protocol", False) and not getattr(hint, "_is_runtime_protocol", False):
            function.__annotations__[name] = object
    return beartype(function)
