"""Semantic textual similarity: do sentences that people find alike have features that are alike?

Spearman and Pearson correlation of the people's scores with the cosine, on each task; the usual figure is the mean
Spearman of six tasks (STS12-16 and SICK-R). The sub-corpora of one year are pooled before correlating. Where STS12
lacks MSRvid, its metrics and the mean are named so: they are not the figures of papers.
"""

from functools import partial

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from evaluation.clip.sts_files import SIX, ScoredPairs, read_sts
from evaluation.result import Result
from evaluation.subject import Subject, unit_rows


class TextSimilarity:
    """`sts_path` holds `semeval-sts/` and `sick2014/`; `stsb_path` is a csv. Either may be null."""

    def __init__(self, *, sts_path: str | None = None, stsb_path: str | None = None) -> None:
        self.tasks = read_sts(sts_path, stsb_path)
        self._paths = {"sts_path": sts_path, "stsb_path": stsb_path}

    def __call__(self, subject: Subject) -> Result:
        cosines = {task.name: self._cosines(subject, task) for task in self.tasks}
        found = {task.name: spearman(cosines[task.name], task.scores) for task in self.tasks}
        linear = {task.name: pearson(cosines[task.name], task.scores) for task in self.tasks}
        metrics = {f"{task.metric}_spearman": found[task.name] for task in self.tasks}
        if all(name in found for name in SIX):
            mean = "mean_of_six" + "".join(task.metric.removeprefix(task.name) for task in self.tasks)
            metrics[f"{mean}_spearman"] = float(np.mean([found[name] for name in SIX]))
            metrics[f"{mean}_pearson"] = float(np.mean([linear[name] for name in SIX]))
        return Result(
            data={**self._paths, "pairs": {f"{task.name}{task.note}": len(task.scores) for task in self.tasks}},
            metrics=metrics,
            details={"pearson": linear},
            plots={"tasks": partial(plot_tasks, spearman_of=found)},
        )

    def _cosines(self, subject: Subject, task: ScoredPairs) -> Float[np.ndarray, " n"]:
        features = unit_rows(subject.texts([*task.first, *task.second]).astype(np.float64))
        cosines = (features[: len(task.first)] * features[len(task.first) :]).sum(axis=1)
        return np.round(cosines, 7)  # features are float32: what follows is noise, and would rank what is equal


def spearman(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float:
    """Correlation of the ranks, equal values sharing their mean rank; 0 where one side does not vary."""
    return pearson(_ranks(x), _ranks(y))


def pearson(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float:
    """0 where one side does not vary: features that are all alike say nothing."""
    x, y = x - x.mean(), y - y.mean()
    lengths = np.linalg.norm(x) * np.linalg.norm(y)
    return float(x @ y / lengths) if lengths > 1e-12 * len(x) else 0.0


def _ranks(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[place]  # mean of the ranks last-count+1 .. last


def plot_tasks(axes: Axes, *, spearman_of: dict[str, float]) -> None:
    bars = axes.bar(list(spearman_of), list(spearman_of.values()), color="#4472a8")
    axes.bar_label(bars, fmt="%.3f")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(ylabel="Spearman's rho", title="semantic textual similarity")
    axes.margins(y=0.15)
