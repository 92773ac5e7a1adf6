"""What processes that train together have to agree on, beside the gradients (`training.distributed`)."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from training.distributed import world_size


def share_buffers(model: nn.Module) -> None:
    """Give all the running statistics of the first: BatchNorm's differ, as every process sees its own rows."""
    if world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


def any_process(flag: bool, device: torch.device) -> bool:
    """True everywhere if it is true somewhere: a signal may reach the processes at different steps."""
    if world_size() == 1:
        return flag
    flags = torch.tensor(int(flag), device=device)
    dist.all_reduce(flags)
    return bool(flags)


def from_all(value: Any) -> list[Any]:
    """What each process brings, in order of their rank."""
    if world_size() == 1:
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def sum_of_all(value: Tensor) -> Tensor:
    """The sum of what the processes bring."""
    if world_size() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total
