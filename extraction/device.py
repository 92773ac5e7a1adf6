"""Which device a model runs on."""

import logging

import torch

from utils.errors import UserError

logger = logging.getLogger(__name__)


def usable_device(device: str) -> torch.device:
    """The device asked for; the CPU, with a warning, where it needs CUDA and there is none."""
    try:
        wanted = torch.device(str(device))
    except RuntimeError as error:
        raise UserError(f"device={device}: expected a PyTorch device such as cuda:0 or cpu") from error
    if wanted.type == "cuda" and not torch.cuda.is_available():
        logger.warning("device=%s: CUDA is not available here, running on the CPU (device=cpu says so itself)", device)
        return torch.device("cpu")
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device={device}: this machine has {torch.cuda.device_count()} GPU(s), counted from cuda:0")
    return wanted
