"""The Hugging Face hub: asked once whether it answers, as its own library tries for minutes where it does not."""

import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from ssl import SSLError

_PATIENCE_SECONDS = 5


@contextmanager
def hub_or_cache() -> Iterator[str]:
    """Inside, where the hub cannot be reached, its library takes what its cache has and fails at once without it.

    Yields why it cannot, or "".
    """
    import huggingface_hub.constants as constants  # late: slow to import

    before = constants.HF_HUB_OFFLINE
    reason = "HF_HUB_OFFLINE is set" if before else _silence_of(constants.ENDPOINT)
    constants.HF_HUB_OFFLINE = bool(reason)  # the environment's variable is read only once, when it is imported
    try:
        yield f"{constants.ENDPOINT} cannot be reached ({reason})" if reason else ""
    finally:
        constants.HF_HUB_OFFLINE = before


def cache_folder() -> str:
    """Where the hub's library keeps what it has fetched."""
    import huggingface_hub.constants as constants

    return constants.HF_HUB_CACHE


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
