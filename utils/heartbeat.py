"""Signs of life: long work says `beat()` now and then, and whoever watches this process hears it."""

from collections.abc import Callable

_listeners: list[Callable[[], None]] = []


def beat() -> None:
    """A packet was read, a frame decoded. Costs next to nothing where nobody listens."""
    for listener in _listeners:
        listener()


def listen(listener: Callable[[], None]) -> None:
    _listeners.append(listener)
