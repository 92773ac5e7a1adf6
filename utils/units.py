"""Numbers for people: sizes, times, counts, and tables whose columns stand under each other."""

from collections.abc import Sequence

_BYTES = ("B", "kB", "MB", "GB", "TB", "PB")


def size_text(num_bytes: float) -> str:
    """ "0 B", "980 kB", "1.3 GB": powers of 1,000, as disks and `df -H` count."""
    power = 0
    while num_bytes >= 999.5 and power < len(_BYTES) - 1:
        num_bytes, power = num_bytes / 1000, power + 1
    digits = 1 if power and num_bytes < 9.95 else 0
    return f"{num_bytes:.{digits}f} {_BYTES[power]}"


def time_text(seconds: float) -> str:
    """ "0.4 s", "12 s", "3 min 20 s", "2 h 10 min", "76 h": as precise as anybody needs."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, left = divmod(round(seconds), 60)
    if not minutes:
        return f"{left} s"
    if minutes < 60:
        return f"{minutes} min {left} s" if minutes < 10 and left else f"{minutes} min"
    hours, left = divmod(round(seconds / 60), 60)
    if hours < 24:
        return f"{hours} h {left} min" if left else f"{hours} h"
    return f"{seconds / 3600:,.0f} h"


def aligned(rows: Sequence[Sequence[str]], *, left: Sequence[int] = (0,)) -> str:
    """One line a row, columns two spaces apart; flushed right but for those in `left`."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = [str.ljust if column in left else str.rjust for column in range(len(widths))]
    cells = [[side(cell, width) for side, cell, width in zip(sides, row, widths, strict=True)] for row in rows]
    return "\n".join("  ".join(row).rstrip() for row in cells)
