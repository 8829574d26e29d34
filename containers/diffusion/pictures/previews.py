"""Previews for people: the contact sheet of a tenant's model, and its loss curve as a few
points."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Images = NDArray[np.uint8]
"""[n, height, width, 3], of 0 to 255."""

CELL: Final = 128
"""Pixels of a picture's longer side on the sheet."""

MAX_COLUMNS: Final = 6
MAX_BYTES: Final = 150_000
"""Largest sheet; in base64 it leaves a fifth of an outcome's 256 KiB for the rest."""

CURVE_POINTS: Final = 60

_SMALL: Final = 64
_GAP: Final = 8
_LINE: Final = 16
_LABELS: Final = 76
_INK: Final = (40, 40, 40)
_FAINT: Final = (110, 110, 110)


@dataclass(frozen=True)
class Row:
    """Pictures with a caption each, beside the row's name."""

    name: str
    captions: Sequence[str]
    images: Images


@dataclass(frozen=True)
class Sheet:
    """An image file."""

    media_type: str
    content: bytes


def contact_sheet(rows: Sequence[Row]) -> Sheet:
    """Rows of pictures under one another, about 900 pixels wide at most.

    Small pictures are enlarged so that each pixel is visible, as a PNG, with a palette if it would
    be too large. Larger pictures become thumbnails, as a JPEG. The file has at most `MAX_BYTES`.
    """
    small = all(max(row.images.shape[1:3]) <= _SMALL for row in rows)
    columns = min(MAX_COLUMNS, max(len(row.images) for row in rows))
    height = _LINE + CELL + _GAP
    sheet = Image.new(
        "RGB", (_LABELS + columns * (CELL + _GAP), len(rows) * height + _GAP), "white"
    )
    draw = ImageDraw.Draw(sheet)
    name_font, caption_font = ImageFont.load_default(13), ImageFont.load_default(11)
    for number, row in enumerate(rows):
        top = _GAP + number * height
        draw.multiline_text((_GAP, top + _LINE), row.name.replace(" ", "\n"), _INK, name_font)
        for column in range(min(columns, len(row.images))):
            left = _LABELS + column * (CELL + _GAP)
            draw.text(
                (left, top), _fitted(row.captions[column], caption_font), _FAINT, caption_font
            )
            sheet.paste(_cell(row.images[column]), (left, top + _LINE))
    return _png(sheet) if small else _jpeg(sheet)


def loss_curve(losses: Sequence[float]) -> list[list[float]]:
    """At most `CURVE_POINTS` points [step, loss], each the mean of the steps since the one
    before."""
    width = max(1, -(-len(losses) // CURVE_POINTS))
    points = []
    for start in range(0, len(losses), width):
        part = losses[start : start + width]
        points.append([float(start + len(part)), float(f"{np.mean(part):.4g}")])
    return points


def _cell(pixels: Images) -> Image.Image:
    image = Image.fromarray(pixels)
    longer = max(image.size)
    if longer <= _SMALL:
        times = CELL // longer
        return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    size = (max(1, image.width * CELL // longer), max(1, image.height * CELL // longer))
    return image.resize(size, Image.Resampling.LANCZOS)


def _fitted(text: str, font: Any) -> str:
    if font.getlength(text) <= CELL:
        return text
    while text and font.getlength(text + "…") > CELL:
        text = text[:-1]
    return text + "…"


def _png(sheet: Image.Image) -> Sheet:
    content = _saved(sheet, "PNG")
    for colours in (256, 64, 16):
        if len(content) <= MAX_BYTES:
            break
        content = _saved(sheet.quantize(colours, dither=Image.Dither.NONE), "PNG")
    return Sheet("image/png", content)


def _jpeg(sheet: Image.Image) -> Sheet:
    content = _saved(sheet, "JPEG", quality=88)
    for quality in (75, 50):
        if len(content) <= MAX_BYTES:
            break
        content = _saved(sheet, "JPEG", quality=quality)
    return Sheet("image/jpeg", content)


def _saved(sheet: Image.Image, kind: str, **how: int) -> bytes:
    file = io.BytesIO()
    sheet.save(file, kind, optimize=True, **how)
    return file.getvalue()
