"""In which number format a model runs, and with which kernels: the options of `precision`.

`fp32` on the CPU runs the linears through oneDNN: more than twice as fast as PyTorch's default for the same float32
sums (difference about 3e-6 in the features; figures in benchmarks/results.md).
"""

import warnings
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.errors import UserError, check_option

Precision = Literal["auto", "fp32", "fp16", "bf16", "int8"]


class OneDNNLinear(nn.Module):
    """A float32 linear on the CPU through oneDNN's matrix product."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")


class Int8Linear(nn.Module):
    """Weights in int8 (one scale an output), inputs quantised as they come (one scale a call). CPU only."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        scales = weight.abs().amax(dim=1).clamp_min(1e-12).double() / 127
        zeros = torch.zeros(len(weight), dtype=torch.long)
        with warnings.catch_warnings():
            # The replacement (torchao) has no CPU kernel of this speed yet; `int8` reports clearly once this is gone.
            warnings.filterwarnings("ignore", message=".*quantized.*deprecated", category=UserWarning)
            quantized = torch.quantize_per_channel(weight, scales, zeros, axis=0, dtype=torch.qint8)
            self.packed = torch.ops.quantized.linear_prepack(quantized, linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.quantized.linear_dynamic(x, self.packed)


def to_precision(model: nn.Module, precision: Precision, device: torch.device) -> nn.Module:
    """Move `model` to `device` in that precision, in place. `auto`: fp16 on CUDA, fp32 elsewhere, as `clip.load`."""
    check_option("precision", precision, ["auto", *_CONVERSIONS])
    precision = resolve(precision, device)
    return _CONVERSIONS[precision](model.requires_grad_(False), device).to(device)


def resolve(precision: Precision, device: torch.device) -> Precision:
    if precision != "auto":
        return precision
    return "fp16" if device.type == "cuda" else "fp32"


def _fp32(model: nn.Module, device: torch.device) -> nn.Module:
    if device.type == "cpu" and _onednn_works():
        _replace_linears(model, OneDNNLinear)
    return model


def _fp16(model: nn.Module, device: torch.device) -> nn.Module:
    convert_weights(model, torch.float16)
    return model


def _bf16(model: nn.Module, device: torch.device) -> nn.Module:
    convert_weights(model, torch.bfloat16)
    return model


def _int8(model: nn.Module, device: torch.device) -> nn.Module:
    if device.type != "cpu":
        raise UserError(f"precision=int8 runs on the CPU, found device={device}; use fp16 or bf16 there")
    if not hasattr(torch.ops.quantized, "linear_dynamic") or "onednn" not in torch.backends.quantized.supported_engines:
        raise UserError(f"precision=int8 is not in this PyTorch ({torch.__version__}); use precision=bf16")
    torch.backends.quantized.engine = "onednn"
    _replace_linears(model, Int8Linear)
    return model


_CONVERSIONS: dict[str, Callable[[nn.Module, torch.device], nn.Module]] = {
    "fp32": _fp32,
    "fp16": _fp16,
    "bf16": _bf16,
    "int8": _int8,
}


def _replace_linears(model: nn.Module, kind: type[OneDNNLinear] | type[Int8Linear]) -> None:
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                setattr(parent, name, kind(child))


def _onednn_works() -> bool:
    """The operator is PyTorch's own but not public: use it only where it is there and right."""
    if not torch.backends.mkldnn.is_available():
        return False
    linear, x = nn.Linear(64, 32), torch.randn(2, 3, 64)
    with torch.no_grad():
        try:
            return torch.allclose(OneDNNLinear(linear)(x), F.linear(x, linear.weight, linear.bias), atol=1e-5)
        except (RuntimeError, AttributeError, TypeError):
            return False


def convert_weights(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Cast in place what OpenAI keeps in half precision: convolutions, linears and the two projections.

    LayerNorm, BatchNorm, embeddings and logit_scale stay float32.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
            module.to(dtype)
        for name in ("text_projection", "proj"):
            parameter = getattr(module, name, None)
            if isinstance(parameter, nn.Parameter):
                parameter.data = parameter.data.to(dtype)
    return model
