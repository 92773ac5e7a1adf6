"""What Hydra is given to start: nothing that it would answer with many lines, and nothing that it leaves behind."""

import atexit
import shutil
import tempfile
from collections.abc import Sequence

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from utils.command_line import CONFIGS, FLAGS_WITH_VALUES, has_many_runs, job_name, prepare, quoted
from utils.errors import UserError, first_line

_OF_JOB = ("--config-name", "-cn")


def for_hydra(arguments: Sequence[str]) -> list[str]:
    """The arguments of `main.py` for Hydra. UserError where it could make no config of them.

    With `-m`, Hydra keeps a copy of the config in a folder `multirun`, which nobody reads: here in one that is gone at
    the end.
    """
    flags, overrides = flags_first(arguments)
    prepared = prepare([*flags, *overrides])
    overrides = prepared[len(flags) :]
    if not has_many_runs(flags):
        if all(each.partition("=")[0] in _OF_JOB for each in flags if each.startswith("-")):
            _check(job_name(arguments), overrides)
    elif not any(each.startswith(("hydra.sweep", "hydra/launcher")) for each in overrides):
        folder = tempfile.mkdtemp()
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        prepared.append(f"hydra.sweep.dir={quoted(folder)}")
    return prepared


def flags_first(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Flags, with their values, and overrides: Hydra takes no flag between two overrides."""
    flags, overrides, waiting = [], [], list(arguments)
    while waiting:
        argument = waiting.pop(0)
        (flags if argument.startswith("-") else overrides).append(argument)
        if argument in FLAGS_WITH_VALUES and waiting:
            flags.append(waiting.pop(0))
    return flags, overrides


def _check(job: str, overrides: list[str]) -> None:
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            compose(job, overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"{first_line(error)} (README.md lists the keys)") from error
