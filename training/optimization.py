"""What is optimised how: parameter groups, learning rates over time, and the moving average of the weights."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from utils.errors import UserError, check_number


def parameter_groups(
    parameters: Iterable[tuple[str, Tensor]],
    *,
    weight_decay: float,
    towers: Mapping[str, Mapping[str, float]] | None = None,
) -> list[dict[str, Any]]:
    """Groups for the optimizer: weights decay; gains, biases, the logit scale and all else below two dimensions do not.

    `towers` gives parts of the model their own settings, `{"visual.trunk": {"lr": 1e-4, "weight_decay": 0.0}}`, by the
    beginning of the parameters' names; the longest that fits counts. UserError where one fits nothing.
    """
    towers = dict(towers or {})
    groups: dict[tuple[str, bool], list[Tensor]] = {}
    parameters = [(name, parameter) for name, parameter in parameters if parameter.requires_grad]
    for name, parameter in parameters:
        own = max((p for p in towers if name == p or name.startswith(f"{p}.")), key=len, default="")
        groups.setdefault((own, decays(name, parameter)), []).append(parameter)
    unused = set(towers) - {own for own, _ in groups}
    if unused:
        parts = sorted({".".join(name.split(".")[:2]) for name, _ in parameters})
        raise UserError(
            f"optimizer.towers: no trainable weights in {', '.join(sorted(unused))}; found {', '.join(parts)}"
        )
    result = []
    for (own, decayed), members in groups.items():
        settings = (
            {"weight_decay": weight_decay} | dict(towers.get(own, {})) | ({} if decayed else {"weight_decay": 0.0})
        )
        name = f"{own or 'all'}{'' if decayed else ' (no decay)'}"
        result.append({"params": members, "name": name} | settings)
    return result


def decays(name: str, parameter: Tensor) -> bool:
    """CLIP paper, section 2.5: all weights that are not gains or biases; positions and embeddings are weights."""
    return parameter.ndim >= 2 and not name.endswith(("bias", "logit_scale"))


def adamw(
    parameters: Iterable[tuple[str, Tensor]],
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.98),
    eps: float = 1e-6,
    weight_decay: float = 0.2,
    towers: Mapping[str, Mapping[str, float]] | None = None,
) -> torch.optim.AdamW:
    """Decoupled weight decay; the defaults are the CLIP paper's for vision transformers."""
    check_number("optimizer.lr", lr, least=0)
    groups = parameter_groups(parameters, weight_decay=weight_decay, towers=towers)
    return torch.optim.AdamW(groups, lr=lr, betas=(betas[0], betas[1]), eps=eps, fused=True)


def adam(
    parameters: Iterable[tuple[str, Tensor]],
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    towers: Mapping[str, Mapping[str, float]] | None = None,
) -> torch.optim.Adam:
    """Adam without weight decay, as captioners are trained."""
    check_number("optimizer.lr", lr, least=0)
    groups = parameter_groups(parameters, weight_decay=0.0, towers=towers)
    return torch.optim.Adam(groups, lr=lr, betas=(betas[0], betas[1]), eps=eps, fused=True)


class Schedule(Protocol):
    """Changes the optimizer's learning rates after every step, after every epoch, or both.

    `cost` tells how good the validation was, lower is better: of CLIP models the held-out loss (`Goal.cost`).
    """

    def after_step(self) -> None: ...
    def after_epoch(self, cost: float) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def warmup_cosine(step: int, *, total_steps: int, warmup_steps: int, final_share: float = 0.0) -> float:
    """Share of the peak rate for `step` (0 = the first): linear up over the warm-up, then half a cosine.

    The last warm-up step has the full rate; after `total_steps` it stays at `final_share`.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return final_share + (1 - final_share) * 0.5 * (1 + math.cos(math.pi * progress))


class _EachStep:
    """A share of the peak rate for each step (0 = the first), set after every step."""

    def __init__(self, optimizer: Optimizer, share: Callable[[int], float]) -> None:
        self._rule = LambdaLR(optimizer, share)

    def after_step(self) -> None:
        self._rule.step()

    def after_epoch(self, cost: float) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return self._rule.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rule.load_state_dict(state)


class Cosine(_EachStep):
    """Warm-up and cosine over the whole run, stepped after every step."""

    def __init__(self, optimizer: Optimizer, total_steps: int, *, warmup_steps: int, final_share: float = 0.0) -> None:
        def share(step: int) -> float:
            return warmup_cosine(step, total_steps=total_steps, warmup_steps=warmup_steps, final_share=final_share)

        super().__init__(optimizer, share)


def noam(step: int, *, warmup_steps: int) -> float:
    """Share of the peak rate for `step` (0 = the first): linear up, then down with the root of the steps.

    Paper: Vaswani et al. 2017, section 5.3: width^-0.5 min(s^-0.5, s warmup^-1.5), whose peak is (width warmup)^-0.5.
    """
    return min((step + 1) / warmup_steps, (warmup_steps / (step + 1)) ** 0.5)


class Noam(_EachStep):
    """Stepped after every step. The optimizer's `lr` is the peak: of the paper's, (width x warmup_steps)^-0.5.

    The warm-up is given in steps or as a share of the run; a run shorter than its warm-up never has the peak rate.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        *,
        warmup_steps: int | None = None,
        warmup_share: float | None = None,
    ) -> None:
        if (warmup_steps is None) == (warmup_share is None):
            raise UserError(f"schedule: warmup_steps={warmup_steps}, warmup_share={warmup_share}; expected one of them")
        steps = max(1, round(total_steps * warmup_share) if warmup_share is not None else warmup_steps or 1)
        super().__init__(optimizer, lambda step: noam(step, warmup_steps=steps))


class Constant:
    """The rates stay as they are."""

    def __init__(self, optimizer: Optimizer, total_steps: int) -> None:
        pass

    def after_step(self) -> None:
        pass

    def after_epoch(self, cost: float) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class Plateau:
    """Rates times `factor` once the validation's cost has not fallen for more than `patience` epochs (seed 1)."""

    def __init__(self, optimizer: Optimizer, total_steps: int, *, factor: float = 0.8, patience: int = 1) -> None:
        self._rule = ReduceLROnPlateau(optimizer, mode="min", factor=factor, patience=patience)

    def after_step(self) -> None:
        pass

    def after_epoch(self, cost: float) -> None:
        self._rule.step(cost)

    def state_dict(self) -> dict[str, Any]:
        return self._rule.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rule.load_state_dict(state)


class MovingAverage:
    """Exponential moving average of the weights, from the start: decay is min(`decay`, (1 + step) / (10 + step))."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {key: value.detach().clone() for key, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        current = model.state_dict()
        keys = [key for key, value in current.items() if value.is_floating_point()]
        for key in keys:
            self.state[key].lerp_(current[key], 1 - decay)
        for key in set(current) - set(keys):  # counts of batches
            self.state[key].copy_(current[key])

    def load(self, state: Mapping[str, Tensor]) -> None:
        for key, value in state.items():
            self.state[key].copy_(value)

    @contextmanager
    def in_place_of(self, model: nn.Module) -> Iterator[None]:
        """The model has the averaged weights inside the block, its own again afterwards."""
        own = {key: value.clone() for key, value in model.state_dict().items()}
        model.load_state_dict(self.state)
        try:
            yield
        finally:
            model.load_state_dict(own)


def learning_rates(optimizer: Optimizer) -> dict[str, float]:
    """By group name; groups that differ only in decay have one rate."""
    groups = enumerate(optimizer.param_groups)
    return {group.get("name", str(number)).removesuffix(" (no decay)"): group["lr"] for number, group in groups}
