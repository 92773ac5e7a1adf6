"""A CLIP model small enough to be made anew for every test run."""

from pathlib import Path

import torch

from models.clip.model import CLIP
from tests.helpers.architectures import Architecture

TINY = Architecture(
    embed_dim=16, resolution=32, vision_layers=1, vision_width=64, patch_size=16, text_width=64, text_layers=1
)
TINY_RESNET = Architecture(
    embed_dim=16,
    resolution=64,
    vision_layers=(1, 1, 1, 1),
    vision_width=8,
    patch_size=None,
    text_width=64,
    text_layers=1,
)


def tiny_model(seed: int = 0, architecture: Architecture = TINY, activation: str = "quick_gelu") -> CLIP:
    """Random weights, the same for the same seed, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = architecture.build(activation)
        model.initialize()
    return model.eval()


def write_tiny_checkpoint(path: Path, seed: int = 0) -> Path:
    """A plain state dict with OpenAI's keys, about 13 MB (the vocabulary)."""
    torch.save(tiny_model(seed).state_dict(), path)
    return path
