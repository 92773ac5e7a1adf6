"""One optimizer step of contrastive training, and one pass over held-out pairs."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.optim import Optimizer

from models.clip.model import CLIP
from models.clip.preprocess import normalize
from models.clip.text import TextTransformer
from training import distributed
from training.checkpoint import random_state, restore_random_state
from training.pairs import Batch, Pairs, View
from utils.errors import UserError, check_option

Precision = Literal["fp32", "bf16", "fp16"]
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Compute:
    """Where and how precisely: weights and their updates are float32, `precision` is that of the forward pass."""

    device: torch.device
    precision: Precision = "fp32"
    scaler: torch.amp.GradScaler = field(init=False)  # pyright: ignore[reportPrivateImportUsage]

    def __post_init__(self) -> None:
        check_option("precision", self.precision, get_args(Precision))
        if self.precision == "fp16" and self.device.type != "cuda":
            raise UserError("precision=fp16 trains on CUDA only: use bf16 or fp32 on the CPU")
        # Disabled it passes everything through. Only fp16 has so small a range that gradients must be scaled.
        scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")  # pyright: ignore
        object.__setattr__(self, "scaler", scaler)

    def autocast(self) -> AbstractContextManager:
        dtype = _AUTOCAST.get(self.precision)
        return torch.autocast(self.device.type, dtype) if dtype else nullcontext()


@dataclass(frozen=True)
class Inputs:
    """A batch as the towers take it; a caption that occurs several times is encoded once."""

    pixels: Float[Tensor, "b 3 n n"]
    tokens: Int[Tensor, "u t"]
    token_row: Int[Tensor, " b"]

    def parts(self, number: int) -> Iterator["Inputs"]:
        for pixels, rows in zip(self.pixels.chunk(number), self.token_row.chunk(number), strict=True):
            used, token_row = rows.unique(return_inverse=True)
            yield Inputs(pixels, self.tokens[used], token_row)


def inputs_of(batch: Batch, model: CLIP, device: torch.device) -> Inputs:
    """uint8 travels, the device normalises; captions that are too long are cut, as they come from the web."""
    visual = model.visual
    pixels = normalize(batch.images.to(device, non_blocking=True), visual.mean, visual.std)  # pyright: ignore[reportArgumentType]
    number: dict[str, int] = {}
    rows = [number.setdefault(caption, len(number)) for caption in batch.captions]
    tokens = model.tokenize(list(number), truncate=True)
    if isinstance(model.text, TextTransformer):
        # Causal attention, read at the end token: what stands after the last end changes nothing and costs time.
        tokens = tokens[:, : int(tokens.argmax(dim=1).max()) + 1]
    pixels = pixels.contiguous(memory_format=torch.channels_last)  # the layout convolutions are fastest in
    return Inputs(pixels, tokens.to(device), torch.tensor(rows, device=device))


def encode(model: CLIP, inputs: Inputs, compute: Compute) -> tuple[Float[Tensor, "b e"], Float[Tensor, "b e"]]:
    """Features as float32, not normalised: the loss is always computed in full precision."""
    with compute.autocast():
        image_features = model.encode_image(inputs.pixels)
        text_features = model.encode_text(inputs.tokens)
    return image_features.float(), text_features.float()[inputs.token_row]


def backward(model: CLIP, loss: nn.Module, batch: Batch, compute: Compute, accumulation: int = 1) -> float:
    """Adds the gradients of the loss over the whole batch, of all processes; returns the loss.

    With `accumulation` > 1 the towers see that many parts one after another, yet every pair is compared with every
    other: features first, without a graph; then the loss and its gradient with respect to them; then each part once
    more, carrying that gradient into the weights (GradCache, Gao et al. 2021). Dropout is the same both times.
    """
    inputs, ids = inputs_of(batch, model, compute.device), batch.ids.to(compute.device)
    if accumulation == 1:
        return _loss_backward(encode(model, inputs, compute), model, loss, ids, compute)
    states, features = [], []
    with torch.no_grad():
        for part in inputs.parts(accumulation):
            states.append(random_state())
            features.append(encode(model, part, compute))
    images, texts = (torch.cat(parts).requires_grad_() for parts in zip(*features, strict=True))
    value = _loss_backward((images, texts), model, loss, ids, compute)
    assert images.grad is not None
    assert texts.grad is not None
    gradients = zip(images.grad.chunk(accumulation), texts.grad.chunk(accumulation), strict=True)
    for part, state, gradient in zip(inputs.parts(accumulation), states, gradients, strict=True):
        restore_random_state(state)
        torch.autograd.backward(encode(model, part, compute), gradient)
    return value


def _loss_backward(
    features: tuple[Tensor, Tensor], model: CLIP, loss: nn.Module, ids: Tensor, compute: Compute
) -> float:
    images, texts = (distributed.gather(side) for side in features)
    value = loss(images, texts, model.logit_scale, distributed.gather(ids))
    compute.scaler.scale(value).backward()
    return float(value.detach())


def step(
    model: CLIP,
    loss: nn.Module,
    optimizer: Optimizer,
    batch: Batch,
    compute: Compute,
    *,
    accumulation: int = 1,
    max_norm: float | None = None,
) -> tuple[float, float]:
    """One update. Returns (loss, norm of the gradient). UserError before the weights change if either is not finite."""
    optimizer.zero_grad(set_to_none=True)
    value = backward(model, loss, batch, compute, accumulation)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    distributed.average_gradients(parameters)
    compute.scaler.unscale_(optimizer)
    norm = float(nn.utils.clip_grad_norm_(parameters, max_norm or math.inf))
    # In fp16 a gradient that overflows is part of the method: the scaler leaves that step out and scales less.
    overflow = compute.scaler.is_enabled() and compute.scaler.get_scale() > 1
    if not math.isfinite(value) or not (math.isfinite(norm) or overflow):
        raise UserError(
            f"the loss is {value}, the norm of its gradient {norm}; the weights were not changed. Lower the learning "
            f"rate, set max_norm or look at the data; image ids of the batch: {_some(batch.ids)}"
        )
    compute.scaler.step(optimizer)
    compute.scaler.update()
    model.clamp_logit_scale()
    return value, norm


def _some(ids: Tensor) -> str:
    shown = ", ".join(map(str, ids[:64].tolist()))
    return f"{shown}, ... ({len(ids)} in all)" if len(ids) > 64 else shown


@torch.no_grad()
def validate(
    model: CLIP, loss: nn.Module, rows: Pairs, view: View, compute: Compute, batch_size: int
) -> dict[str, float]:
    """Loss over batches of the training's size (it depends on that), recall@1 both ways over all rows.

    Every process does all of it: they must agree, as schedules may follow the loss.
    """
    was_training = model.training
    model.eval()
    order = rows.order(torch.Generator().manual_seed(0))  # the same batches each time, classes mixed
    images, texts, ids, total = [], [], [], 0.0
    for part in order.split(batch_size):
        batch = rows.batch(part, view)
        image_features, text_features = encode(model, inputs_of(batch, model, compute.device), compute)
        batch_ids = batch.ids.to(compute.device)
        total += float(loss(image_features, text_features, model.logit_scale, batch_ids)) * len(part)
        images.append(F.normalize(image_features, dim=1))
        texts.append(F.normalize(text_features, dim=1))
        ids.append(batch_ids)
    model.train(was_training)
    image, text, group = torch.cat(images), torch.cat(texts), torch.cat(ids)
    return {
        "loss": total / len(order),
        "image_to_text_r1": recall_at_1(image, text, group),
        "text_to_image_r1": recall_at_1(text, image, group),
    }


def recall_at_1(queries: Float[Tensor, "n e"], candidates: Float[Tensor, "n e"], ids: Int[Tensor, " n"]) -> float:
    """Share of the queries whose best candidate has their id; a tie with another id is a miss."""
    hits = 0
    for start in range(0, len(queries), 1024):
        scores = queries[start : start + 1024] @ candidates.t()
        same = ids[start : start + 1024, None] == ids
        best_other = scores.masked_fill(same, -math.inf).amax(dim=1)
        hits += int((scores.masked_fill(~same, -math.inf).amax(dim=1) > best_other).sum())
    return hits / len(queries)
