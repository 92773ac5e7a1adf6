"""Linear probe: how much of the classes a straight line can read off the frozen features.

Logistic regression with an L2 penalty by L-BFGS, at most 1000 iterations, the penalty chosen on a held-out part
(Radford et al. 2021, appendix A.3). Features are normalised first, so that the grid of penalties fits every model.
"""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64

from evaluation.clip.zero_shot import accuracies
from evaluation.result import Result
from evaluation.subject import Subject, unit_rows
from pairs.class_images import class_images
from utils.errors import UserError

# Weight of |W|^2 / 2 against the mean cross-entropy.
PENALTIES = tuple(10.0**exponent for exponent in range(-1, -10, -1))  # falling: each fit starts where the last ended
HELD_OUT_SHARE = 0.2
ITERATIONS = 1000
Line = tuple[np.ndarray, np.ndarray]  # weight (classes, e), bias (classes,)


class LinearProbe:
    """Fitted on `probe_train_path`, measured on `class_images_path`: folders (or zips) with a folder per class."""

    def __init__(self, *, probe_train_path: str | None, class_images_path: str | None, seed: int = 0) -> None:
        self.train = class_images(probe_train_path, key="probe_train_path")
        self.test = class_images(class_images_path, key="class_images_path")
        if self.train.class_names != self.test.class_names:
            raise UserError(f"{self.train.path} and {self.test.path} differ in their classes")
        self.seed = seed

    def __call__(self, subject: Subject) -> Result:
        train = unit_rows(subject.images(self.train.images, title="linear probe, training part"))
        test = unit_rows(subject.images(self.test.images, title="linear probe, test part"))
        penalty, tried = choose_penalty(train, self.train.labels, seed=self.seed)
        weight, bias = fit(train, self.train.labels, penalty=penalty)
        return Result(
            data={
                "probe_train_path": self.train.path,
                "num_train_images": len(train),
                "class_images_path": self.test.path,
                "num_images": len(test),
            },
            metrics=accuracies(test @ weight.T + bias, self.test.labels) | {"penalty": penalty},
            details={"held_out_top1_percent_by_penalty": tried},
        )


def choose_penalty(
    features: Float[np.ndarray, "n e"], labels: Int64[np.ndarray, " n"], *, seed: int
) -> tuple[float, dict[str, float]]:
    """The penalty with the best accuracy on a held-out fifth (of equals the largest), and the accuracy of each."""
    order = np.random.default_rng(seed).permutation(len(labels))
    held_out, rest = np.split(order, [round(HELD_OUT_SHARE * len(order))])
    num_classes = int(labels.max()) + 1
    tried, start = {}, None
    for penalty in PENALTIES:
        start = fit(features[rest], labels[rest], penalty=penalty, num_classes=num_classes, start=start)
        right = (features[held_out] @ start[0].T + start[1]).argmax(axis=1) == labels[held_out]
        tried[penalty] = 100 * float(right.mean())
    best = max(PENALTIES, key=lambda penalty: (tried[penalty], penalty))
    return best, {f"{penalty:.1e}": percent for penalty, percent in tried.items()}


def fit(
    features: Float[np.ndarray, "n e"],
    labels: Int64[np.ndarray, " n"],
    *,
    penalty: float,
    num_classes: int | None = None,
    start: Line | None = None,
) -> Line:
    """(weight, bias) that minimise mean cross-entropy + penalty / 2 * |weight|^2; the bias is free."""
    x, y = torch.from_numpy(features).float(), torch.from_numpy(labels)
    classes = num_classes or int(labels.max()) + 1
    weight, bias = map(torch.from_numpy, start) if start else (torch.zeros(classes, x.shape[1]), torch.zeros(classes))
    weight, bias = weight.clone().requires_grad_(), bias.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=ITERATIONS, tolerance_grad=1e-6, tolerance_change=1e-9, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(x @ weight.T + bias, y) + 0.5 * penalty * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)  # pyright: ignore[reportArgumentType]
    return weight.detach().numpy(), bias.detach().numpy()
