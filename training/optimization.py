"""What is optimised how: parameter groups, their optimizers, and the moving average of the weights."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from utils.errors import UserError, check_number


def parameter_groups(
    parameters: Iterable[tuple[str, Tensor]],
    *,
    weight_decay: float,
    towers: Mapping[str, Mapping[str, float]] | None = None,
) -> list[dict[str, Any]]:
    """Groups for the optimizer: weights decay; gains, biases, the logit scale and all else below two dimensions do not.

    `towers` gives parts of the model their own settings, `{"visual.trunk": {"lr": 1e-4, "weight_decay": 0.0}}`, by the
    beginning of the parameters' names; the longest that fits counts, frozen or not. UserError where one fits none.
    """
    towers, fitting = dict(towers or {}), set()
    groups: dict[tuple[str, bool], list[Tensor]] = {}
    parameters = list(parameters)
    for name, parameter in parameters:
        own = max((p for p in towers if name == p or name.startswith(f"{p}.")), key=len, default="")
        fitting.add(own)
        if not parameter.requires_grad:
            continue
        # CLIP paper, section 2.5: all weights that are not gains or biases; positions and embeddings are weights.
        decays = parameter.ndim >= 2 and not name.endswith(("bias", "logit_scale"))
        groups.setdefault((own, decays), []).append(parameter)
    if unused := set(towers) - fitting:
        parts = sorted({".".join(name.split(".")[:2]) for name, _ in parameters})
        raise UserError(f"optimizer.towers: no weights in {', '.join(sorted(unused))}; found {', '.join(parts)}")
    result = []
    for (own, decayed), members in groups.items():
        settings = (
            {"weight_decay": weight_decay} | dict(towers.get(own, {})) | ({} if decayed else {"weight_decay": 0.0})
        )
        name = f"{own or 'all'}{'' if decayed else ' (no decay)'}"
        result.append({"params": members, "name": name} | settings)
    return result


def adamw(
    parameters: Iterable[tuple[str, Tensor]],
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.98),
    eps: float = 1e-6,
    weight_decay: float = 0.2,
    towers: Mapping[str, Mapping[str, float]] | None = None,
) -> torch.optim.AdamW:
    """Decoupled weight decay, Adam where it is 0; the defaults are the CLIP paper's for vision transformers."""
    check_number("optimizer.lr", lr, least=0)
    groups = parameter_groups(parameters, weight_decay=weight_decay, towers=towers)
    return torch.optim.AdamW(groups, lr=lr, betas=(betas[0], betas[1]), eps=eps, fused=True)


def moving_average(model: nn.Module, decay: float) -> AveragedModel:
    """Exponential moving average of weights and running statistics, the initial ones included.

    The decay is min(`decay`, (1 + updates) / (10 + updates)); counts of batches are copied.
    """

    @torch.no_grad()
    def update(averaged: list[Tensor], current: list[Tensor], updates: Tensor) -> None:
        share = 1 - min(decay, (1 + int(updates)) / (10 + int(updates)))
        for mean, value in zip(averaged, current, strict=True):
            mean.lerp_(value, share) if mean.is_floating_point() else mean.copy_(value)

    average = AveragedModel(model, multi_avg_fn=update, use_buffers=True)  # pyright: ignore[reportArgumentType]
    average.n_averaged += 1  # else the first update would replace the initial weights
    return average


def learning_rates(optimizer: Optimizer) -> dict[str, float]:
    """By group name; groups that differ only in decay have one rate."""
    groups = enumerate(optimizer.param_groups)
    return {group.get("name", str(number)).removesuffix(" (no decay)"): group["lr"] for number, group in groups}
