"""What runs of training left behind, and runs that are stopped on the way."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from training import fit
from training.checkpoint import load


def log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def state(folder: Path, name: str = "last.pt") -> dict:
    content = load(folder / name)
    return {key: content[key] for key in ("model", "trained", "optimizer", "schedule", "rng", "position")}


def assert_same(one, other) -> None:
    """To the bit, through all that a checkpoint is made of."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert one.equal(other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_same(left, right)
    else:
        assert one == other


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """A signal arrives during step number `steps`."""
    stop_in(monkeypatch, fit, "step", steps)


def stop_in(monkeypatch: pytest.MonkeyPatch, place: Any, name: str, times: int) -> None:
    """A signal arrives in call number `times` of a function."""
    call, done = getattr(place, name), []

    def counted(*args, **keywords):
        done.append(None)
        if len(done) == times:
            os.kill(os.getpid(), signal.SIGTERM)
        return call(*args, **keywords)

    monkeypatch.setattr(place, name, counted)
