"""What comes of reading an item, one after another: `Start`, a `Prepared` for every row, `End`; or what went wrong."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from utils.types import Item, Source


@dataclass(frozen=True)
class Start:
    """An item was opened. `expected_rows` is an estimate for the progress bar, None where nothing is known."""

    expected_rows: int | None


@dataclass(frozen=True)
class Prepared:
    """One row, ready for the encoder, the row's time, the time of what it shows."""

    content: Any  # pixels, uint8 (3, n, n), or the token ids of a text (t,); opaque here
    seconds: float = 0.0
    source_seconds: float = 0.0


@dataclass(frozen=True)
class End:
    """An item was read to its end. `facts` go into its provenance; `fps` is the rate of its rows, 0 without one."""

    fps: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)
    source: Source | None = None  # from before reading: a file that changes meanwhile is then done again
    damage: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


ReadEvent = Start | Prepared | End | Exception  # an item ends with `End`, or with what went wrong in reading it


class Rows(Protocol):
    """Reads items of one kind."""

    def read(self, item: Item, *, skip: int = 0) -> Iterator[Start | Prepared | End]:
        """Without the first `skip` rows. MediaError where the item cannot be read."""
        ...
