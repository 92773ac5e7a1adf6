"""What `precision` does to the features, on the CPU."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from extraction.encoder import Encoder
from extraction.precision import Int8Linear, OneDNNLinear, Precision, convert, resolve, usable_device, why_no_cuda
from models.clip.model import CLIP
from models.clip.weights import load_model
from tests.helpers.architectures import Architecture
from tests.helpers.shared_data import PARITY
from tests.helpers.tiny_clip import TINY, TINY_RESNET, tiny_model
from utils.errors import UserError

CPU = torch.device("cpu")


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    one, other = one.astype(np.float64), other.astype(np.float64)
    return (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)


@pytest.mark.parametrize("shape", [(5, 64), (2, 3, 64), (1, 1, 64)])
@pytest.mark.parametrize("bias", [True, False])
def test_onednn_is_the_same_linear(shape: tuple[int, ...], bias: bool) -> None:
    linear, x = torch.nn.Linear(64, 32, bias=bias), torch.randn(shape)
    with torch.no_grad():
        torch.testing.assert_close(OneDNNLinear(linear)(x), F.linear(x, linear.weight, linear.bias), atol=1e-5, rtol=0)


@pytest.mark.parametrize("architecture", [TINY, TINY_RESNET], ids=["vit", "resnet"])
def test_fp32_is_the_plain_model(architecture: Architecture) -> None:
    pixels = torch.randint(0, 256, (4, 3, architecture.resolution, architecture.resolution), dtype=torch.uint8)
    fast, plain = (
        Encoder(tiny_model(architecture=architecture), device=CPU, precision="fp32"),
        Encoder(tiny_model(architecture=architecture), device=CPU, precision="fp32"),
    )
    plain.model = tiny_model(architecture=architecture)
    texts = ["a cat", "two dogs and a frisbee"]
    np.testing.assert_allclose(fast.images(pixels), plain.images(pixels), atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(fast.texts(texts), plain.texts(texts), atol=1e-5, rtol=1e-4)


def _tiny() -> CLIP:
    return tiny_model()


def _reference() -> CLIP:
    return load_model(PARITY / "tiny_vit.pt")


@pytest.mark.parametrize("load", [_tiny, pytest.param(_reference, marks=pytest.mark.shared)])
@pytest.mark.parametrize(("precision", "floor"), [("fp16", 0.9999), ("bf16", 0.999), ("int8", 0.99)])
def test_features_in_low_precision_point_the_same_way(
    load: Callable[[], CLIP], precision: Precision, floor: float
) -> None:
    exact, low = Encoder(load(), device=CPU, precision="fp32"), Encoder(load(), device=CPU, precision=precision)
    resolution = int(exact.model.visual.input_resolution)  # pyright: ignore
    pixels = torch.randint(0, 256, (6, 3, resolution, resolution), dtype=torch.uint8)
    texts = ["a photo of a cat", "two dogs", "a diagram"]
    for found, wanted in ((low.images(pixels), exact.images(pixels)), (low.texts(texts), exact.texts(texts))):
        assert found.dtype == np.float32
        assert not np.array_equal(found, wanted)  # it really is another precision
        assert cosines(found, wanted).min() >= floor


def test_int8_replaces_every_linear() -> None:
    model = tiny_model()
    model.to_precision("int8", CPU)
    kinds = [type(module) for module in model.modules()]
    assert torch.nn.Linear not in kinds
    assert kinds.count(Int8Linear) == 8  # four a block, a block a tower


@pytest.mark.parametrize(("device", "precision"), [("cpu", "fp32"), ("cuda:0", "fp16"), ("mps", "fp32")])
def test_auto_is_half_precision_on_cuda_only(device: str, precision: str) -> None:
    assert resolve("auto", torch.device(device)) == precision
    assert resolve("bf16", torch.device(device)) == "bf16"


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match=r"precision=fp61: did you mean fp16\? Expected one of auto, fp32"):
        convert(tiny_model(), "fp61", CPU)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="int8 runs on the CPU, found device=cuda"):
        convert(tiny_model(), "int8", torch.device("cuda"))


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            RuntimeError("The NVIDIA driver on your system is too old (found version 11040). Please update it."),
            "The NVIDIA driver on your system is too old (found version 11040); make install TORCH_BACKEND=auto",
        ),
        (AssertionError("Torch not compiled with CUDA enabled"), "(Torch not compiled with CUDA enabled), running on"),
        (RuntimeError("No CUDA GPUs are available"), "(No CUDA GPUs are available), running on the CPU"),
    ],
)
def test_a_card_that_cannot_be_used_is_told_with_pytorchs_reason(
    error: Exception, told: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def init() -> None:
        raise error

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.init", init)
    assert usable_device("cuda:0") == torch.device("cpu")
    (message,) = caplog.messages
    assert message.startswith("device=cuda:0: CUDA is not available here (")
    assert told in message


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a card there is no reason to tell")
def test_pytorch_gives_a_reason() -> None:
    assert "no reason" not in why_no_cuda()
