"""torch_zoo: `python main.py KEY=VALUE ...` runs the job of configs/extract.yaml; `--config-name` picks another."""

import os
import sys
import warnings

from utils.signals import exit_status, listen, stoppable

if __name__ == "__main__":  # before the imports that take seconds
    listen()
    warnings.filterwarnings("ignore", "CUDA initialization", UserWarning)  # told in one line: see `usable_device`

# Before PyTorch is loaded: its threads would spin while they wait, and starve the decoder's.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import importlib

import hydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, MissingMandatoryValue, OmegaConfBaseException

from utils.build import build
from utils.command_line import CONFIGS
from utils.errors import UserError, first_line, user_error_in
from utils.help_page import help_page, is_asked
from utils.hydra_arguments import for_hydra
from utils.streams import open_all, stdout_is_gone

STOPPED_BY_SIGNAL = 128  # and more: that of a run which a signal has stopped
statuses = [0]  # of all runs: with -m there are several


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="extract")
def main(config: DictConfig) -> None:
    if config.get("workers", 0) != 0:
        from extraction.readers import make_ready  # late: other jobs have no readers

        make_ready()
    try:
        importlib.import_module(config.job._target_.rpartition(".")[0])  # takes seconds: see `utils.signals`
        with stoppable():
            status = build(OmegaConf.to_container(config.job, resolve=True, throw_on_missing=True))
            sys.stdout.flush()
    except BrokenPipeError as error:
        stdout_is_gone(error, saving=False)
    except (MissingMandatoryValue, InterpolationToMissingValueError) as error:  # `query: ???` in the job's file
        key = first_line(error).rpartition(": ")[2]
        sys.exit(f"error: {key}: this job needs it; give {key}=...")
    except OmegaConfBaseException as error:  # `${...}` in a file that leads nowhere
        sys.exit(f"error: {first_line(error)}")
    except KeyboardInterrupt as stop:  # of a job, or a moment of one, that has no account of its own
        print(f"\nstopped ({stop}): nothing half written is left, the same command does the rest", file=sys.stderr)
        sys.exit(exit_status(stop))
    except Exception as error:
        sys.exit(f"error: {user_error_in(error)}")
    if status >= STOPPED_BY_SIGNAL:
        sys.exit(status)
    statuses.append(status)


if __name__ == "__main__":
    open_all()
    try:
        os.getcwd()
    except OSError as error:
        sys.exit(f"error: the current folder is gone or closed ({error.strerror}): go to another one")
    try:
        if is_asked(sys.argv[1:]):
            print(help_page(sys.argv[1:]), end="")
            sys.exit()
        sys.argv[1:] = for_hydra(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
    main()
    sys.exit(max(statuses))
