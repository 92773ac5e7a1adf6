"""The Hugging Face hub: asked once whether it answers, as its own library tries for minutes where it does not."""

import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from ssl import SSLError
from typing import TypeVar

from utils.errors import UserError

T = TypeVar("T")
NOT_FOUND = (OSError, RuntimeError, ValueError)  # what the libraries raise for what is neither cached nor reached
_PATIENCE_SECONDS = 5


def cached_first(call: Callable[[], T], *, offline: bool, cache: str | None = None) -> T:
    """`call` with the hub's cache alone, and once more with the network unless `offline`. Raises `NOT_FOUND`.

    What is cached is taken as it is, without asking whether the hub has something newer: a run gives today what it
    gave yesterday, and the network is not needed for it. `cache` is the folder that `call` looks in, for the message;
    None is the library's own.
    """
    from huggingface_hub import constants  # late: slow to import

    where = f"not in the hub's cache ({cache or constants.HF_HUB_CACHE})"
    try:
        with cache_alone():
            return call()
    except UserError:
        raise
    except NOT_FOUND as error:
        if offline:
            raise OSError(f"{where}, and offline=true: {error}") from error
    if constants.HF_HUB_OFFLINE:
        raise OSError(f"{where}, and HF_HUB_OFFLINE is set")
    if silence := _silence_of(constants.ENDPOINT):
        raise OSError(f"{where}, and {constants.ENDPOINT} cannot be reached ({silence})")
    return call()


@contextmanager
def cache_alone() -> Iterator[None]:
    """Inside, the hub's library and those that use it see its cache alone."""
    import huggingface_hub.constants as constants  # late: slow to import

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    _forget_sessions()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
        _forget_sessions()


def cached_files(repository: str, names: tuple[str, ...], cache: str | None) -> tuple[Path, ...]:
    """Those of a repository's files that are in the cache (None: in the hub's own)."""
    from huggingface_hub import try_to_load_from_cache

    found = (try_to_load_from_cache(repository, name, cache_dir=cache) for name in names)
    return tuple(Path(each) for each in found if isinstance(each, str) and os.path.isfile(each))


def _silence_of(address: str) -> str:
    """Why nothing answers there, "" if something does. Proxies are those of the environment."""
    try:
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=_PATIENCE_SECONDS).close()
    except urllib.error.HTTPError as error:
        error.close()  # an answer, too
    except OSError as error:
        reason = getattr(error, "reason", error)
        if not isinstance(reason, SSLError):  # certificates that only the hub's library knows: let it try
            return str(getattr(reason, "strerror", None) or reason)
    return ""


def _forget_sessions() -> None:
    """Before version 1 the hub's library decides whether it is offline when it opens a session, and keeps that."""
    import huggingface_hub.utils

    getattr(huggingface_hub.utils, "reset_sessions", lambda: None)()
