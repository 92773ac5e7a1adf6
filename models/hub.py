"""The Hugging Face hub: its cache first, and the network only for what is not there.

What is cached is taken as it is, without asking whether the hub has something newer: a run gives today what it gave
yesterday, and answers at once where there is no network (`huggingface_hub` itself tries for 24 seconds a file).
"""

import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from ssl import SSLError
from typing import TypeVar

T = TypeVar("T")
_PATIENCE_SECONDS = 5
NOT_FOUND = (OSError, RuntimeError, ValueError)  # what the libraries raise for what is neither cached nor reached


def cached_first(call: Callable[[], T], *, offline: bool, cache: str | None = None) -> T:
    """`call` in the cache alone, and once more with the network unless `offline`. Raises what `NOT_FOUND` lists.

    `cache` is the folder that `call` looks in, for the message; None is the library's own.
    """
    from huggingface_hub import constants

    where = f"not in the hub's cache ({cache or constants.HF_HUB_CACHE})"
    try:
        with without_network():
            return call()
    except NOT_FOUND as error:
        if offline:
            raise OSError(f"{where}, and offline=true: {error}") from error
    _check_network(where)
    return call()


@contextmanager
def without_network() -> Iterator[None]:
    """The libraries of the hub see its cache alone."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    _forget_sessions()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
        _forget_sessions()


def cached_files(repository: str, names: tuple[str, ...], cache: str | None) -> tuple[Path, ...]:
    """Those of a repository's files that are in the cache."""
    from huggingface_hub import try_to_load_from_cache

    found = (try_to_load_from_cache(repository, name, cache_dir=cache) for name in names)
    return tuple(Path(each) for each in found if isinstance(each, str) and os.path.isfile(each))


def _check_network(where: str) -> None:
    """OSError where nobody answers at the hub's address. Proxies are those of the environment."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise OSError(f"{where}, and HF_HUB_OFFLINE is set")
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=_PATIENCE_SECONDS)
    except urllib.error.HTTPError:
        pass  # an answer, too
    except OSError as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, SSLError):  # certificates that only the hub's library knows: let it try
            return
        told = getattr(reason, "strerror", None) or reason
        raise OSError(f"{where}, and {constants.ENDPOINT} cannot be reached ({told})") from error


def _forget_sessions() -> None:
    """Before version 1 the hub's library decides whether it is offline when it opens a session, and keeps that."""
    import huggingface_hub.utils

    getattr(huggingface_hub.utils, "reset_sessions", lambda: None)()
