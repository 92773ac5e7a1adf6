"""Batches on their way to the device."""

from collections.abc import Iterator
from dataclasses import replace

import torch

from training.captioning.data import CaptionBatch


def parts(batch: CaptionBatch, number: int, device: torch.device) -> Iterator[CaptionBatch]:
    """Up to `number` parts of nearly the same size, one after another on the device.

    Embeddings stay where they are: rewards and metrics are computed on the CPU.
    """
    for rows in torch.arange(len(batch)).chunk(number):
        some = slice(int(rows[0]), int(rows[-1]) + 1)
        yield replace(
            batch,
            grids=batch.grids[some].to(device, non_blocking=True),
            grid_mask=None if batch.grid_mask is None else batch.grid_mask[some].to(device, non_blocking=True),
            labels=batch.labels[some].to(device, non_blocking=True),
            mask=batch.mask[some].to(device, non_blocking=True),
            references=batch.references[some],
            embeddings=None if batch.embeddings is None else batch.embeddings[some],
            image_ids=batch.image_ids[some],
        )
