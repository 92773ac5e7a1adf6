"""What training minimises (config group `loss`): all are called alike, on the features of all processes.

    loss(image_features, text_features, logit_scale, image_ids) -> scalar

Row k of both features is one pair; features come as the towers give them, not normalised. `logit_scale` is the
model's parameter, the logarithm of the factor on the cosines (`CLIP.clamp_logit_scale` keeps it in range after each
step). Equal `image_ids` mean captions of one image; losses that do not use them say so.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn


class ClipLoss(nn.Module):
    """Symmetric InfoNCE: of all texts, which is this image's, and the reverse; the mean of the two cross-entropies.

    Paper: Radford et al. 2021, figure 3: another caption of the same image is a negative. With `by_image` all n
    captions of an image are right, each with the target 1/n (original: the repair of seed 1, its PR 28).
    """

    def __init__(self, *, by_image: bool = False) -> None:
        super().__init__()
        self.by_image = by_image

    def forward(
        self,
        image_features: Float[Tensor, "b e"],
        text_features: Float[Tensor, "b e"],
        logit_scale: Float[Tensor, ""],
        image_ids: Int64[Tensor, " b"],
    ) -> Float[Tensor, ""]:
        logits = logit_scale.exp() * cosines(image_features, text_features)
        targets = torch.arange(len(logits), device=logits.device)
        if self.by_image:
            positives = same_image(image_ids).to(logits.dtype)
            targets = positives / positives.sum(dim=1, keepdim=True)  # symmetric: serves both directions
        return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.t(), targets)) / 2


class SoftTargets(nn.Module):
    """Cross-entropy against targets from the features' own similarities: seed 1 as it was, for comparison.

    L = T I^T / t and P = softmax((I I^T + T T^T) / 2 * t) on raw features; per row -P log softmax(L) for texts and
    -P^T log softmax(L^T) for images, averaged. Known problems, kept: no normalisation; rows of P^T do not sum to 1;
    P moves with the model (gradients flow through it), which permits degenerate solutions. `ClipLoss` has none.
    `temperature` is t, fixed; `image_ids` and the value of `logit_scale` are not used.
    """

    def __init__(self, *, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(
        self,
        image_features: Float[Tensor, "b e"],
        text_features: Float[Tensor, "b e"],
        logit_scale: Float[Tensor, ""],
        image_ids: Int64[Tensor, " b"],
    ) -> Float[Tensor, ""]:
        images, texts = image_features.float(), text_features.float()
        with torch.autocast(images.device.type, enabled=False):
            logits = texts @ images.t() / self.temperature
            targets = ((images @ images.t() + texts @ texts.t()) / 2 * self.temperature).softmax(dim=1)
        texts_loss = -(targets * logits.log_softmax(dim=1)).sum(dim=1)
        images_loss = -(targets.t() * logits.t().log_softmax(dim=1)).sum(dim=1)
        # Every parameter gets a gradient, be it zero: processes and optimizers then need no special case.
        return ((texts_loss + images_loss) / 2).mean() + 0 * logit_scale


class Sigmoid(nn.Module):
    """Each image with each text is one yes-or-no question; `bias` is learned.

    Paper: Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training", algorithm 1: the sum over all b x b
    questions, divided by b. It starts from bias -10 and a factor of 10 on the cosines (this model's starts at 14.3).
    Deliberate difference: pairs with equal `image_ids` are a yes, not only the diagonal.
    """

    def __init__(self, *, bias: float = -10.0) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(float(bias)))

    def forward(
        self,
        image_features: Float[Tensor, "b e"],
        text_features: Float[Tensor, "b e"],
        logit_scale: Float[Tensor, ""],
        image_ids: Int64[Tensor, " b"],
    ) -> Float[Tensor, ""]:
        logits = logit_scale.exp() * cosines(image_features, text_features) + self.bias
        signs = 2 * same_image(image_ids).to(logits.dtype) - 1
        return -F.logsigmoid(signs * logits).sum() / len(logits)


def cosines(images: Float[Tensor, "b e"], texts: Float[Tensor, "n e"]) -> Float[Tensor, "b n"]:
    """In float32 whatever the features' precision: times 100 a half's rounding would be a tenth of a logit."""
    with torch.autocast(images.device.type, enabled=False):
        return F.normalize(images.float(), dim=-1) @ F.normalize(texts.float(), dim=-1).t()


def same_image(image_ids: Int64[Tensor, " b"]) -> Bool[Tensor, "b b"]:
    return image_ids.unsqueeze(0) == image_ids.unsqueeze(1)
