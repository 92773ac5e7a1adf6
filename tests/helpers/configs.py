"""A job's config as `main.py` makes it of what a user types."""

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from utils.command_line import CONFIGS, prepare


def composed(job: str, *given: str) -> DictConfig:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(job, prepare(["--config-name", job, *given])[2:])
