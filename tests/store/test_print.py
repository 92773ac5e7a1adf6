"""`Print`: the screen looks as with video_features."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from store.show import Print
from utils.errors import MediaError
from utils.types import Features

Make = Callable[..., Features]


def test_print_has_the_format_of_video_features(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    features = make(arrays={"clip": np.arange(6, dtype=np.float32).reshape(2, 3) / 4, "fps": np.array(19.62)})
    Print().show(features)
    assert capsys.readouterr().out == (
        "clip\n[[0.   0.25 0.5 ]\n [0.75 1.   1.25]]\nmax: 1.25000000; mean: 0.62500000; min: 0.00000000\n\n"
        "fps\n19.62\nmax: 19.62000000; mean: 19.62000000; min: 19.62000000\n\n"
    )


def test_print_equals_plain_prints(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    features = make(arrays={"clip": np.random.default_rng(0).normal(size=(40, 512)).astype(np.float32)})
    Print().show(features)
    printed = capsys.readouterr().out
    for key, value in features.arrays.items():
        print(key)
        print(value)
        print(f"max: {value.max():.8f}; mean: {value.mean():.8f}; min: {value.min():.8f}")
        print()
    assert printed == capsys.readouterr().out


def test_print_writes_no_files(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    features = make()
    Print().show(features)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["000.mp4"]


@pytest.mark.parametrize("value", [np.zeros((0, 8)), np.full((2, 2), np.nan)])
def test_print_does_not_pass_off_nothing_as_a_result(make: Make, value: np.ndarray) -> None:
    with pytest.raises(MediaError):
        Print().show(make(arrays={"clip": value}))
