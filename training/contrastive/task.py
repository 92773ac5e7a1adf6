"""Contrastive training of a CLIP model as a task: the gradient of a batch, and one pass over held-out pairs."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from extraction.preprocess import normalize
from models.clip.description import describe, told_by_shapes
from models.clip.model import CLIP
from pairs.batches import Batch, InputSize, Pairs, PairSplits
from pairs.loading import Loading
from training import distributed
from training.checkpoint import random_state, restore_random_state, save
from training.compute import Compute
from training.task import LOWEST_LOSS, Goal, Values

Evaluator = Callable[[CLIP], Mapping[str, float]]


@dataclass
class ContrastiveTask:
    """Image and text of a pair find each other. The best model has the lowest mean of the held-out parts' losses."""

    model: CLIP
    loss: nn.Module
    data: PairSplits
    evaluators: Sequence[Evaluator] = ()
    goal: Goal = LOWEST_LOSS
    unreadable: int = 0  # images of a stream so far

    @property
    def settings(self) -> dict[str, Any]:
        return {}

    def batches(self, loading: Loading, *, epoch: int, start: int = 0) -> Iterator[Batch]:
        return self.data.train.batches(input_size(self.model), loading, epoch=epoch, start=start)

    def backward(self, batch: Batch, compute: Compute, accumulation: int = 1) -> Values:
        self.unreadable += batch.unreadable
        loss = backward(self.model, self.loss, batch, compute, accumulation)
        scale = self.model.logit_scale.detach().exp()
        return {"loss": loss, "logit_scale": scale, "unreadable_images": self.unreadable}

    def after_step(self) -> None:
        self.model.clamp_logit_scale()

    def validate(self, model: CLIP, compute: Compute, loading: Loading) -> dict[str, float]:
        """Numbers by name; `held_out/loss` is the mean over the held-out parts. Evaluators may add what they like."""
        metrics: dict[str, float] = {}
        for name, pairs in self.data.validation.items():
            found = validate(model, self.loss, pairs, compute, loading.batch_size)
            metrics |= {f"{name}/{key}": value for key, value in found.items()}
        losses = [metrics[f"{name}/loss"] for name in self.data.validation]
        metrics["held_out/loss"] = sum(losses) / len(losses)
        for evaluator in self.evaluators:
            metrics |= evaluator(model)
        return metrics

    def description(self, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        return {"architecture": describe(self.model)}

    def export(self, model: CLIP, folder: Path) -> None:
        export(model, folder / "model.pt")


def input_size(model: CLIP) -> InputSize:
    visual = model.visual
    return InputSize(visual.input_resolution, visual.resize)  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class TowerInputs:
    """A batch as the towers take it; a caption that occurs several times is encoded once."""

    pixels: Float[Tensor, "b 3 n n"]
    tokens: Int[Tensor, "u t"]
    token_row: Int[Tensor, " b"]

    def parts(self, number: int) -> Iterator["TowerInputs"]:
        for pixels, rows in zip(self.pixels.chunk(number), self.token_row.chunk(number), strict=True):
            used, token_row = rows.unique(return_inverse=True)
            yield TowerInputs(pixels, self.tokens[used], token_row)


def inputs_of(batch: Batch, model: CLIP, device: torch.device) -> TowerInputs:
    """uint8 travels, the device normalises; captions that are too long are cut, as they come from the web."""
    visual = model.visual
    pixels = normalize(batch.images.to(device, non_blocking=True), visual.mean, visual.std)
    number: dict[str, int] = {}
    rows = [number.setdefault(caption, len(number)) for caption in batch.captions]
    tokens = model.tokenize(list(number), truncate=True)
    pixels = pixels.contiguous(memory_format=torch.channels_last)  # the layout convolutions are fastest in
    return TowerInputs(pixels, tokens.to(device), torch.tensor(rows, device=device))


def encode(model: CLIP, inputs: TowerInputs, compute: Compute) -> tuple[Float[Tensor, "b e"], Float[Tensor, "b e"]]:
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


@torch.no_grad()
def validate(model: CLIP, loss: nn.Module, rows: Pairs, compute: Compute, batch_size: int) -> dict[str, float]:
    """Loss over batches of the training's size (it depends on that), recall@1 both ways over all rows.

    Every process does all of it: they must agree, as schedules may follow the loss.
    """
    model.eval()
    order = rows.order(torch.Generator().manual_seed(0))  # the same batches each time, classes mixed
    images, texts, ids, total = [], [], [], 0.0
    for part in order.split(batch_size):
        batch = rows.batch(part, input_size(model))
        image_features, text_features = encode(model, inputs_of(batch, model, compute.device), compute)
        batch_ids = batch.ids.to(compute.device)
        total += float(loss(image_features, text_features, model.logit_scale, batch_ids)) * len(part)
        images.append(F.normalize(image_features, dim=1))
        texts.append(F.normalize(text_features, dim=1))
        ids.append(batch_ids)
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


def export(model: CLIP, path: Path, dtype: torch.dtype = torch.float16) -> None:
    """The weights alone under OpenAI's keys, by default in half precision, as OpenAI's own files are.

    A plain state dict where its shapes tell the architecture, for every tool that reads OpenAI's layout; else the
    description goes with it, for `clip.load` and `model_name=`.
    """
    state = {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
    state = {key: value.to(dtype) if value.is_floating_point() else value for key, value in state.items()}
    save(path, state if told_by_shapes(model) else {"model": state, "architecture": describe(model)})
