"""`training.curves`: TensorBoard reads what it writes, and a disk that fails is one line."""

import resource
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training.curves import Curves
from utils.errors import UserError


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    board = EventAccumulator(str(folder)).Reload()
    return {tag: [(each.step, each.value) for each in board.Scalars(tag)] for tag in board.Tags()["scalars"]}


def test_tensorboard_reads_what_is_there_after_every_step(tmp_path: Path) -> None:
    curves = Curves(tmp_path, first_step=1)
    curves.add(1, {"loss": 0.5, "rate": 0.25})
    curves.add(2, {"loss": 0.75})
    assert read(tmp_path) == {"loss": [(1, 0.5), (2, 0.75)], "rate": [(1, 0.25)]}  # of a run that still writes
    curves.close()


def test_a_resumed_run_takes_back_what_it_does_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for clock, (first_step, loss) in enumerate([(1, 0.5), (2, 0.75)], start=1_700_000_000):
        monkeypatch.setattr("training.curves.time.time", lambda clock=clock: float(clock))
        curves = Curves(tmp_path, first_step=first_step)
        for step in range(first_step, 4):
            curves.add(step, {"loss": loss})
        curves.close()
    assert read(tmp_path) == {"loss": [(1, 0.5), (2, 0.75), (3, 0.75)]}


def test_a_full_disk_is_one_clear_line(tmp_path: Path) -> None:
    curves, (soft, hard) = Curves(tmp_path, first_step=1), resource.getrlimit(resource.RLIMIT_FSIZE)
    (path,) = tmp_path.iterdir()
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, hard))
    try:
        with pytest.raises(UserError, match="the disk is full") as caught:
            curves.add(1, {"loss": 0.5})
        curves.close()  # which writes the rest, in vain
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
