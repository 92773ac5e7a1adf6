"""Pictures in rows, each with a line or two of text, under a title."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

CELL_PX = 224
GAP_PX = 16
TITLE_PX = 22
TEXT_PX = 14
_LINE_PX = 20
_BACKGROUND, _INK, _FAINT = (255, 255, 255), (25, 25, 25), (110, 110, 110)


def contact_sheet(
    pictures: Sequence[Image.Image], labels: Sequence[tuple[str, str]], *, title: str, columns: int
) -> Image.Image:
    """RGB. `labels`: a dark and a faint line below each picture; long ones are cut with an ellipsis."""
    columns = max(min(columns, len(pictures)), 1)
    width, height = sheet_size(len(pictures), columns)
    sheet = Image.new("RGB", (width, height), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP_PX, GAP_PX), shortened(title, width - 2 * GAP_PX, TITLE_PX), _INK, font(TITLE_PX))
    for k, (picture, (dark, faint)) in enumerate(zip(pictures, labels, strict=True)):
        x, y = _corner(k, columns)
        fitted = _on_white(picture)
        fitted.thumbnail((CELL_PX, CELL_PX), Image.Resampling.LANCZOS)
        if max(fitted.size) < CELL_PX:  # small pictures are shown larger, by whole pixels
            factor = max(CELL_PX // max(fitted.size), 1)
            fitted = fitted.resize((fitted.width * factor, fitted.height * factor), Image.Resampling.NEAREST)
        sheet.paste(fitted, (x + (CELL_PX - fitted.width) // 2, y + (CELL_PX - fitted.height) // 2))
        draw.text((x, y + CELL_PX + 4), shortened(dark, CELL_PX, TEXT_PX), _INK, font(TEXT_PX))
        draw.text((x, y + CELL_PX + 4 + _LINE_PX), shortened(faint, CELL_PX, TEXT_PX), _FAINT, font(TEXT_PX))
    return sheet


def sheet_size(num_pictures: int, columns: int) -> tuple[int, int]:
    """(width, height) in pixels."""
    rows = -(-num_pictures // columns)
    return GAP_PX + columns * (CELL_PX + GAP_PX), _corner(rows * columns, columns)[1]


def _corner(index: int, columns: int) -> tuple[int, int]:
    row, column = divmod(index, columns)
    top = 2 * GAP_PX + TITLE_PX + 8
    return GAP_PX + column * (CELL_PX + GAP_PX), top + row * (CELL_PX + 2 * _LINE_PX + 4 + GAP_PX)


def shortened(text: str, width_px: int, size_px: int) -> str:
    """`text` on one line, cut so that it fits."""
    text = " ".join(text.split())
    if font(size_px).getlength(text) <= width_px:
        return text
    while text and font(size_px).getlength(f"{text}…") > width_px:
        text = text[:-1]
    return f"{text}…"


@lru_cache
def font(size_px: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along: Latin, Greek and Cyrillic (Pillow's own has Latin only)."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size_px)


def _on_white(picture: Image.Image) -> Image.Image:
    """RGB, with white where the picture is transparent."""
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    rgba = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba).convert("RGB")
