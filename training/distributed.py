"""Several processes as one, started by `torchrun`; with a single process everything here does nothing.

The contract of the gradients: every process computes the loss of the whole batch on gathered features
(`loss(gather(images), gather(texts), logit_scale, gather(ids))`), then `average_gradients`
takes the mean over the processes. `gather` passes back the sum of all processes' gradients, so that the mean is
exactly the gradient of one process with the whole batch, for tower and loss parameters alike.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor, nn

from extraction.precision import usable_device
from utils.errors import UserError


@contextmanager
def process_group(device: str = "cuda:0") -> Iterator[torch.device]:
    """Joins the other processes where `torchrun` started several, and gives this one's device.

    Cards are dealt out by the local rank and talk through NCCL, CPUs through Gloo.
    """
    chosen = usable_device(device)
    if "LOCAL_RANK" not in os.environ:
        yield chosen
        return
    if chosen.type == "cuda":
        local_rank, cards = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local_rank >= cards:
            raise UserError(f"device={device}: process {local_rank} finds {cards} card(s); lower --nproc-per-node")
        chosen = torch.device("cuda", local_rank)
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield chosen
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """Process 0 writes files and reports."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def share_buffers(model: nn.Module) -> None:
    """Give all the running statistics of the first: BatchNorm's differ, as every process sees its own rows."""
    if world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


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


def gather(x: Shaped[Tensor, "b ..."]) -> Shaped[Tensor, "n ..."]:
    """The rows of all processes in order of their rank, with gradient. Every process brings the same number."""
    return _Gather.apply(x) if world_size() > 1 else x  # pyright: ignore[reportReturnType]


class _Gather(torch.autograd.Function):
    """Back: the sum over processes of what they want changed in this process's rows.

    An own function as PyTorch's counterpart in `torch.distributed.nn` is on its way out.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(world_size())[rank()]


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace each gradient by its mean over the processes, which must have gradients for the same parameters.

    All travel as one vector: one message instead of hundreds.
    """
    if world_size() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    total = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(total)
    total /= world_size()
    for gradient, mean in zip(gradients, total.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view(gradient.shape))
