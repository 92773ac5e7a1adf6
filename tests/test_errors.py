"""`utils.errors.user_error_in`: the last net for errors that no one has told in words."""

import errno
import os
from pathlib import Path

import pytest
from hydra.errors import InstantiationException

from utils.errors import UserError, user_error_in


def hydra_answer(error: Exception) -> InstantiationException:
    answer = InstantiationException("Error in call to target: ...\nfull_key: job")
    answer.__cause__ = error
    return answer


def test_a_file_that_no_one_has_told_of(tmp_path: Path) -> None:
    error = OSError(errno.EIO, os.strerror(errno.EIO), str(tmp_path))
    line = str(user_error_in(hydra_answer(error)))
    assert line.startswith(f"{tmp_path}: {os.strerror(errno.EIO)}: ")
    assert "\n" not in line
    assert str(user_error_in(error)) == line  # before the job began
    assert str(user_error_in(OSError(errno.EMFILE, "x"))).startswith("x: ")  # of no file, as in a thread's


def test_what_was_told_is_not_told_otherwise() -> None:
    told = UserError("words")
    told.__cause__ = OSError(errno.EIO, "x", "file")
    assert user_error_in(hydra_answer(told)) is told


@pytest.mark.parametrize("error", [ValueError("a bug"), OSError("of a library, without a number"), KeyError("x")])
def test_bugs_keep_their_traceback(error: Exception) -> None:
    answer = hydra_answer(error)
    with pytest.raises(InstantiationException) as caught:
        user_error_in(answer)
    assert caught.value is answer
