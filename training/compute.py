"""Where and how precisely a training job computes."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch

from utils.errors import UserError, check_option

Precision = Literal["fp32", "bf16", "fp16"]
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Compute:
    """Weights and their updates are float32; `precision` is that of the forward pass."""

    device: torch.device
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        check_option("precision", self.precision, get_args(Precision))
        if self.precision == "fp16" and self.device.type != "cuda":
            raise UserError("precision=fp16 trains on CUDA only: use bf16 or fp32 on the CPU")

    @cached_property
    def scaler(self) -> torch.amp.GradScaler:  # pyright: ignore[reportPrivateImportUsage]
        """Disabled it passes everything through. Only fp16 has so small a range that gradients must be scaled."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")  # pyright: ignore

    def autocast(self) -> AbstractContextManager:
        dtype = _AUTOCAST.get(self.precision)
        return torch.autocast(self.device.type, dtype) if dtype else nullcontext()
