"""What the presets of `preset=...` promise about shapes, held against what a model gives."""

from collections.abc import Mapping
from typing import Any

from utils.errors import UserError


def grid_shape(visual: Any, grid_pool: int = 1) -> tuple[int, int]:
    """(n, c) of an image's grid features, by arithmetic. UserError where the tower has no grid, or one too small."""
    shape = getattr(visual, "map_shape", None)
    if shape is None:
        raise UserError("features=grid: this image tower has no grid; expected features=global")
    c, i, j = shape
    if grid_pool > min(i, j):
        raise UserError(f"grid_pool={grid_pool}: the grid is {i} x {j} patches; expected {min(i, j)} at most")
    return (i // grid_pool) * (j // grid_pool), c


def check_preset(
    preset: Mapping[str, Any] | None, *, model_name: str, grid_shape: tuple[int, int] | None, global_dim: int
) -> None:
    """UserError where the model and its options give other shapes than the preset says.

    `preset`: `{"name", "grid": [n, c], "global": e}`. `grid_shape` is None where no grid is wanted.
    """
    if preset is None:
        return
    n, c = preset["grid"]
    problem = ""
    if grid_shape is not None and grid_shape != (n, c):
        problem = f"{n} x {c} grid features, model_name={model_name} gives {grid_shape[0]} x {grid_shape[1]}"
    elif global_dim != preset["global"]:
        problem = f"global features of {preset['global']} numbers, model_name={model_name} gives {global_dim}"
    if problem:
        raise UserError(
            f"preset={preset['name']} describes {problem}: drop one of the two (resolution and grid_pool count, too)"
        )
