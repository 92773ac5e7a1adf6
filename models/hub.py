"""The Hugging Face hub: its cache first, the network only for what is not there, and none of its code.

What is cached is taken as it is, without asking whether the hub has something newer: a run gives today what it gave
yesterday, and answers at once where there is no network (`huggingface_hub` itself tries for 24 seconds a file).
"""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies

T = TypeVar("T")
NOT_FOUND = (OSError, RuntimeError, ValueError)  # what the libraries raise for what is neither cached nor reached


def cached_first(call: Callable[[], T], *, offline: bool) -> T:
    """`call` in the cache alone, and once more with the network unless `offline`. Raises what `NOT_FOUND` lists."""
    try:
        with without_network():
            return call()
    except NOT_FOUND as error:
        if offline:
            raise OSError(f"not in the hub's cache, and offline=true: {error}") from error
    _check_network()
    with without_code():
        return call()


@contextmanager
def without_network() -> Iterator[None]:
    """The libraries of the hub see its cache alone."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    _forget_sessions()
    try:
        with without_code():
            yield
    finally:
        constants.HF_HUB_OFFLINE = before
        _forget_sessions()


@contextmanager
def without_code() -> Iterator[None]:
    """`transformers` refuses a repository that brings code of its own; else it asks on the terminal, for 15 seconds."""
    from transformers import dynamic_module_utils

    before = dynamic_module_utils.TIME_OUT_REMOTE_CODE
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
    try:
        yield
    finally:
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = before


def cached_files(repository: str, names: tuple[str, ...], cache: str | None) -> tuple[Path, ...]:
    """Those of a repository's files that are in the cache."""
    from huggingface_hub import try_to_load_from_cache

    found = (try_to_load_from_cache(repository, name, cache_dir=cache) for name in names)
    return tuple(Path(each) for each in found if isinstance(each, str) and os.path.isfile(each))


def _check_network() -> None:
    """OSError at once where the hub's name is not known to this machine, which is how most have no network."""
    from huggingface_hub import constants

    if getproxies():
        return
    host = urlsplit(constants.ENDPOINT).hostname or ""
    try:
        socket.getaddrinfo(host, 443)
    except OSError as error:
        raise OSError(f"not in the hub's cache, and no network: {host} is not found ({error.strerror})") from error


def _forget_sessions() -> None:
    """Before version 1 the hub's library decides whether it is offline when it opens a session, and keeps that."""
    import huggingface_hub.utils

    getattr(huggingface_hub.utils, "reset_sessions", lambda: None)()
