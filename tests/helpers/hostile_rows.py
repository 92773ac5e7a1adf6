"""Files that do harm to who reads them: `Hostile` reads items by their names."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from extraction.events import End, Prepared, Start
from utils.errors import MediaError
from utils.types import Item

NUM_ROWS = 3


class OddError(Exception):
    """Cannot be unpickled: it wants two arguments and keeps one."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one)


class Bomb(str):
    """Kills whoever unpickles it."""

    def __reduce__(self) -> Any:
        return os.abort, ()


def item(name: str) -> Item:
    return Item(Path(f"{name}.mp4"), name)


def content(name: str, row: int) -> Any:
    generator = torch.Generator().manual_seed(sum(name.encode()) + row)
    pixels = torch.randint(0, 256, (3, 8, 9), generator=generator, dtype=torch.uint8)
    if name.startswith("tuple"):
        return pixels, pixels.float() / 7
    if name.startswith("large"):
        return pixels.repeat(1, 100, 300)
    return f"{name} {row}" if name.startswith("plain") else pixels


@dataclass(frozen=True)
class Hostile:
    """Three rows of every item; what its name begins with happens in front of the last."""

    num_rows: int = NUM_ROWS

    def read(self, item: Item, *, skip: int = 0) -> Iterator[Start | Prepared | End]:
        yield Start(self.num_rows)
        for row in range(skip, self.num_rows):
            if row == self.num_rows - 1:
                self.harm(item.name.rstrip("0123456789"))
            yield Prepared(content(item.name, row), float(row), float(row))
        yield End(facts={"name": item.name})

    def harm(self, kind: str) -> None:
        match kind:
            case "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "sleep":
                time.sleep(60)
            case "bloat":
                taken = b"x" * (1 << 29)
                time.sleep(60)
                del taken
            case "leave":
                os._exit(3)
            case "media":
                raise MediaError("media.mp4: damaged")
            case "odd":
                raise OddError("one", "two")


@dataclass(frozen=True)
class HostileFiles:
    """Reads files as `rows` does; some do harm, by what their names begin with, once their first row is read."""

    rows: Any

    def read(self, item: Item, *, skip: int = 0) -> Iterator[Start | Prepared | End]:
        for event in self.rows.read(item, skip=skip):
            yield event
            if isinstance(event, Prepared):
                Hostile().harm(item.name.rstrip("0123456789"))
