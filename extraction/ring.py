"""Memory that a reader process and its parent share: slots for prepared rows, and a few numbers on how it is going.

Whatever kills the reader, what it wrote here stays readable.
"""

import mmap
import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_HEADER_BYTES = mmap.PAGESIZE
_SLOT_BYTES = 4 << 20  # only what is written takes memory; larger rows travel through the pipe


@dataclass(frozen=True)
class InSlot:
    """Stands for a row's content, a tensor or a tuple of tensors, that lies in a slot."""

    slot: int
    layout: tuple[tuple[tuple[int, ...], torch.dtype], ...]  # shape and dtype of each
    several: bool


class Ring:
    """`fd` is a file of `size(slots)` bytes.

    Slots are filled and emptied in turn: `written` and `freed` count them. `item` is what the reader is at (0: at
    nothing), `beats` counts its signs of life; it sleeps until `freed` has reached `wanted` (0: it does not).
    """

    def __init__(self, fd: int, slots: int) -> None:
        self.slots = slots
        self._memory = mmap.mmap(fd, _size(slots))
        self._numbers = memoryview(self._memory)[:_HEADER_BYTES].cast("q")
        self._tensor = torch.frombuffer(self._memory, dtype=torch.uint8)
        self.written = 0

    @staticmethod
    def file(slots: int) -> int:
        """A file descriptor for a new ring."""
        fd = os.memfd_create("torch_zoo")
        os.ftruncate(fd, _size(slots))
        return fd

    item = property(lambda self: self._numbers[0], lambda self, value: self._set(0, value))
    beats = property(lambda self: self._numbers[1], lambda self, value: self._set(1, value))
    wanted = property(lambda self: self._numbers[2], lambda self, value: self._set(2, value))
    freed = property(lambda self: self._numbers[3], lambda self, value: self._set(3, value))

    def _set(self, index: int, value: int) -> None:
        self._numbers[index] = value

    @property
    def full(self) -> bool:
        return self.written - self.freed >= self.slots

    def put(self, content: Any) -> Any:
        """What stands for `content` in a message; `content` itself where it has no place in a slot."""
        tensors = content if isinstance(content, tuple) else (content,)
        if not all(isinstance(each, Tensor) for each in tensors) or sum(map(_room, tensors)) > _SLOT_BYTES:
            return content
        slot = self.written % self.slots
        at = _HEADER_BYTES + slot * _SLOT_BYTES
        for tensor in tensors:
            self._view(at, tensor.shape, tensor.dtype).copy_(tensor)
            at += _room(tensor)
        self.written += 1
        layout = tuple((tuple(tensor.shape), tensor.dtype) for tensor in tensors)
        return InSlot(slot, layout, isinstance(content, tuple))

    def take(self, content: Any) -> Any:
        """The content that `put` gave a place, as a copy; the slot is free then."""
        if not isinstance(content, InSlot):
            return content
        at, found = _HEADER_BYTES + content.slot * _SLOT_BYTES, []
        for shape, dtype in content.layout:
            found.append(self._view(at, shape, dtype).clone())
            at += _room(found[-1])
        self.freed += 1
        return tuple(found) if content.several else found[0]

    def _view(self, at: int, shape: tuple[int, ...] | torch.Size, dtype: torch.dtype) -> Tensor:
        num_bytes = torch.Size(shape).numel() * dtype.itemsize
        return self._tensor[at : at + num_bytes].view(dtype).view(shape)


def _size(slots: int) -> int:
    return _HEADER_BYTES + slots * _SLOT_BYTES


def _room(tensor: Tensor) -> int:
    """In whole cache lines, so that every tensor begins at one."""
    return -(-tensor.numel() * tensor.element_size() // 64) * 64
