"""Objects from a job's config: what `_target_` names is called with what stands beside it.

Hydra's own `instantiate` resolves interpolations once more on its way, and so reads values as if they were configs:
it looks for a key `x` where a file is named `${x}.jpg`. Here values come resolved, and are left alone.
"""

import importlib
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from utils.errors import UserError, first_line

NAMES_CODE = ("_target_", "_partial_", "_args_", "_recursive_", "_convert_")  # to Hydra; the first two also here


def build(node: Any, place: str = "job") -> Any:
    """`node`, plain dicts, lists and values, with every dict that has a `_target_` replaced by what that gives.

    With `_partial_: true` it is called later, with further arguments. UserError for arguments that it does not take.
    """
    if isinstance(node, list):
        return [build(each, f"{place}.{number}") for number, each in enumerate(node)]
    if not isinstance(node, dict):
        return node
    inside = {key: build(value, f"{place}.{key}") for key, value in node.items()}
    if "_target_" not in inside:
        return inside
    target, later = found(inside.pop("_target_")), inside.pop("_partial_", False)
    try:
        signature = inspect.signature(target)
        (signature.bind_partial if later else signature.bind)(**inside)
    except TypeError as error:
        raise UserError(f"{place}: {target.__module__}.{target.__qualname__}: {first_line(error)}") from error
    except ValueError:  # no signature is known of some that are written in C
        pass
    return partial(target, **inside) if later else target(**inside)


def found(name: str) -> Callable[..., Any]:
    """`models.load.load` -> that function. UserError where there is none."""
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, ValueError, AttributeError) as error:
        raise UserError(f"_target_: {name}: {first_line(error)}; expected package.module.name") from error
