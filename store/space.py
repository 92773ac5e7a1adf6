"""Whether what a run is going to save fits the disk: told when the first results are there, not at night."""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from store.items import Store
from utils.errors import UserError
from utils.types import Item

logger = logging.getLogger(__name__)

_BLOCK_BYTES = 4096  # files take up whole blocks
_VIDEOS = 8  # so many tell roughly what others take; nothing but decoding tells how many rows a video gives


class SpaceCheck:
    """Looks once, when the first item is saved, whether there is room for those that are not done yet.

    Images and texts take what their rows take: where they do not fit, the run is stopped. For videos there is only a
    warning, from the mean of the first ones. Quotas are not known.
    """

    def __init__(
        self,
        output_path: str | Path,
        store: Store,
        items: Sequence[Item],
        folder: str,
        settings: dict[str, Any],
        *,
        rows_known: bool,
    ) -> None:
        """`rows_known`: an item has a row for each of its texts, or a single one."""
        self._output_path, self._store, self._items = output_path, store, items
        self._folder, self._settings, self._rows_known = folder, settings, rows_known
        self._sizes: list[int] | None = []

    def after(self, item: Item, rows: int) -> None:
        """An item was saved. Raises UserError where the others do not fit."""
        if self._sizes is None:
            return
        files = self._store.saved_bytes(item, self._folder)
        self._sizes.append(sum(map(_on_disk, files)))
        if not self._rows_known and len(self._sizes) < _VIDEOS:
            return
        sizes, self._sizes = self._sizes, None
        free = shutil.disk_usage(self._output_path).free if files else 0
        if not files or self._needed(self._items, sizes, files, rows) <= free:
            return
        undone = [each for each in self._items if not self._store.done(each, self._folder, self._settings)]
        needed = self._needed(undone, sizes, files, rows)
        if needed > free:
            self._tell(len(undone), needed, free)

    def _needed(self, items: Sequence[Item], sizes: Sequence[int], files: Sequence[int], rows: int) -> int:
        if not self._rows_known:
            return sum(sizes) * len(items) // len(sizes)
        counts = [len(each.texts) or 1 for each in items]
        by_count = {count: sum(_on_disk(size * count // rows) for size in files) for count in set(counts)}
        return sum(by_count[count] for count in counts)

    def _tell(self, num_items: int, needed: int, free: int) -> None:
        about = "" if self._rows_known else "about "
        line = (
            f"{self._output_path}: {num_items} items are still to be saved there, which takes {about}"
            f"{_readable(needed)}; {_readable(free)} are free, {_readable(needed - free)} are missing: free some space "
            "or choose another output_path"
        )
        if self._rows_known:
            raise UserError(line)
        logger.warning("%s", line)


def _on_disk(num_bytes: int) -> int:
    return -(-num_bytes // _BLOCK_BYTES) * _BLOCK_BYTES


def _readable(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.1f} MB"
