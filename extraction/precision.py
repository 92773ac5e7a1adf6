"""On which device and in which number format a model runs, and with which kernels: `device` and `precision`.

`fp32` on the CPU runs the linears through oneDNN: more than twice as fast as PyTorch's default for the same float32
sums (difference about 3e-6 in the features; figures in benchmarks/results.md).
"""

import logging
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.errors import UserError, check_option, first_line

logger = logging.getLogger(__name__)

Precision = Literal["auto", "fp32", "fp16", "bf16", "int8"]
HALF: dict[str, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16}


class OneDNNLinear(nn.Linear):
    """A float32 linear on the CPU through oneDNN's matrix product. A linear still: models ask whether theirs are."""

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")


class Int8Linear(nn.Linear):
    """Weights in int8 (one scale an output), inputs quantised as they come (one scale a call). CPU only."""

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
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

    @property
    def weight(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """For modules that look at their layers' weights (their type, most often) or compute with them themselves."""
        return torch.ops.quantized.linear_unpack(self.packed)[0].dequantize()

    @property
    def bias(self) -> Tensor | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return torch.ops.quantized.linear_unpack(self.packed)[1]


def usable_device(device: str) -> torch.device:
    """The device asked for; the CPU, with a warning, where it needs CUDA and there is none."""
    try:
        wanted = torch.device(str(device))
    except RuntimeError as error:
        raise UserError(f"device={device}: expected a PyTorch device such as cuda:0 or cpu") from error
    if wanted.type == "cuda" and not torch.cuda.is_available():
        found = f"CUDA is not available here ({why_no_cuda()})"
        logger.warning("device=%s: %s, running on the CPU (device=cpu says so itself)", device, found)
        return torch.device("cpu")
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device={device}: this machine has {torch.cuda.device_count()} GPU(s), counted from cuda:0")
    return wanted


def why_no_cuda() -> str:
    """PyTorch's own reason, its first sentence: a build without CUDA, no driver, one that is too old, a hidden card."""
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        reason = first_line(error).partition(". ")[0].removesuffix(".")
        return reason + ("; make install TORCH_BACKEND=auto takes an older build" if "too old" in reason else "")
    return "PyTorch gives no reason"


def resolve(precision: Precision, device: torch.device) -> Precision:
    """`auto` is fp16 on CUDA, fp32 elsewhere, as `clip.load`. UserError for what cannot run there."""
    check_option("precision", precision, get_args(Precision))
    if precision == "auto":
        return "fp16" if device.type == "cuda" else "fp32"
    if precision == "int8" and device.type != "cpu":
        raise UserError(f"precision=int8 runs on the CPU, found device={device}; use fp16 or bf16 there")
    if precision == "int8" and not (
        hasattr(torch.ops.quantized, "linear_dynamic") and "onednn" in torch.backends.quantized.supported_engines
    ):
        raise UserError(f"precision=int8 is not in this PyTorch ({torch.__version__}); use precision=bf16")
    if precision in HALF and device.type == "cpu" and not _computes(HALF[precision]):
        raise UserError(f"precision={precision} does not run on the CPU with PyTorch {torch.__version__}; use fp32")
    return precision


def convert(
    model: nn.Module,
    precision: Precision,
    device: torch.device,
    *,
    cast: Callable[[nn.Module, torch.dtype], None] | None = None,
) -> None:
    """Bring any module to `device` in that precision, in place, for inference.

    Half precision casts layers of weights (`cast_layers`, or `cast`) and leaves norms, embeddings and loose parameters
    in float32: such a module runs its passes under `autocast`, unless its own code minds the types.
    """
    precision = resolve(precision, device)
    model.eval().requires_grad_(False)
    if precision in HALF:
        (cast or cast_layers)(model, HALF[precision])
    elif precision == "int8":
        torch.backends.quantized.engine = "onednn"
        _replace_linears(model, Int8Linear)
    elif device.type == "cpu" and _onednn_works():
        _replace_linears(model, OneDNNLinear)
    model.to(device)


def cast_layers(model: nn.Module, dtype: torch.dtype) -> None:
    """Convolutions, linears and PyTorch's own attention to `dtype`, in place."""
    for module in model.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear | nn.MultiheadAttention):
            module.to(dtype)


def weights_dtype(model: nn.Module) -> torch.dtype:
    """Half precision if any weight is kept in it, else float32."""
    kinds = (parameter.dtype for parameter in model.parameters())
    return next((kind for kind in kinds if kind in HALF.values()), torch.float32)


def autocast(model: nn.Module, device: torch.device) -> AbstractContextManager[Any]:
    """For the passes of a module that `convert` may have brought to half precision; nothing for one in float32."""
    dtype = weights_dtype(model)
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype=dtype)


@cache
def _computes(dtype: torch.dtype) -> bool:
    """Whether the CPU has kernels for it: older PyTorch lacks those of fp16."""
    x = torch.ones(1, 1, 4, 4, dtype=dtype)
    try:
        F.scaled_dot_product_attention(x, x, x)
        F.linear(F.conv2d(x, x[..., :1, :1]), x[0, 0])
    except RuntimeError:
        return False
    return True


def _replace_linears(model: nn.Module, kind: type[OneDNNLinear] | type[Int8Linear]) -> None:
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:  # others have a computation of their own
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
