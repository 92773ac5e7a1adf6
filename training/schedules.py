"""Learning rates over time (config group `schedule`): each option is a function that gives one of PyTorch's schedulers.

Those over the steps are a share of the peak rate for each step (0 = the first), and are stepped after every step. The
other follows the validation's cost (`Goal.cost`, lower is better), and is stepped after every epoch.
"""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from utils.errors import UserError

Schedule = LambdaLR | ReduceLROnPlateau


def cosine(optimizer: Optimizer, total_steps: int, *, warmup_steps: int, final_share: float = 0.0) -> LambdaLR:
    """Linear up over the warm-up, then half a cosine over the rest of the run.

    The last warm-up step has the full rate; after `total_steps` it stays at `final_share`.
    """

    def share(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        return final_share + (1 - final_share) * 0.5 * (1 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, share)


def noam(
    optimizer: Optimizer, total_steps: int, *, warmup_steps: int | None = None, warmup_share: float | None = None
) -> LambdaLR:
    """Linear up, then down with the root of the steps. The optimizer's `lr` is the peak.

    Paper: Vaswani et al. 2017, section 5.3: width^-0.5 min(s^-0.5, s warmup^-1.5), whose peak is (width warmup)^-0.5.
    The warm-up is given in steps or as a share of the run; a run shorter than its warm-up never has the peak rate.
    """
    if (warmup_steps is None) == (warmup_share is None):
        raise UserError(f"schedule: warmup_steps={warmup_steps}, warmup_share={warmup_share}; expected one of them")
    steps = max(1, round(total_steps * warmup_share) if warmup_share is not None else warmup_steps or 1)
    return LambdaLR(optimizer, lambda step: min((step + 1) / steps, (steps / (step + 1)) ** 0.5))


def constant(optimizer: Optimizer, total_steps: int) -> LambdaLR:
    """The rates stay as they are."""
    return LambdaLR(optimizer, lambda step: 1.0)


def plateau(optimizer: Optimizer, total_steps: int, *, factor: float = 0.8, patience: int = 1) -> ReduceLROnPlateau:
    """Rates times `factor` once the cost has not fallen for more than `patience` epochs (seed 1)."""
    return ReduceLROnPlateau(optimizer, mode="min", factor=factor, patience=patience)
