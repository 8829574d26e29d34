"""A model's answer in its form for people: numbers as they are, pictures as a contact sheet."""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from PIL import Image

_MAX_PICTURES: Final = 16
_MAX_PICTURE_BYTES: Final = 4 * 1024 * 1024
_MAX_PIXELS: Final = 2048 * 2048
_SIDE: Final = 128  # pixels of a picture on the sheet
_CAPTION: Final = 16  # pixels beneath it
_ACROSS: Final = 6
_COLOURS: Final = 256


@dataclass(frozen=True)
class ShownAnswer:
    """An answer for people. ``document`` is the JSON, its pictures left out; ``picture`` is a PNG
    of them, if it has any."""

    document: Any
    picture: bytes | None = None


def answer_for_people(content: bytes) -> ShownAnswer:
    """An answer's document and its pictures.

    An answer with pictures is a JSON object whose ``images`` are objects with ``png`` (base64) and
    perhaps ``prompt``. Pictures that cannot be drawn are left out, so that the rest of the answer
    still shows.
    """
    try:
        document = json.loads(content)
    except ValueError:
        return ShownAnswer(f"{len(content)} bytes")
    images = document.get("images") if isinstance(document, dict) else None
    if not isinstance(images, list):
        return ShownAnswer(document)
    captioned = [
        (picture, str(image.get("prompt", "")))
        for image in images[:_MAX_PICTURES]
        if (picture := _picture(image))
    ]
    words = [
        {k: v for k, v in image.items() if k != "png"} if isinstance(image, dict) else image
        for image in images
    ]
    return ShownAnswer(
        {**document, "images": words}, contact_sheet(captioned) if captioned else None
    )


def contact_sheet(pictures: Sequence[tuple[Image.Image, str]]) -> bytes:
    """Pictures side by side with their captions, as PNG; small ones are enlarged without
    smoothing."""
    from PIL import Image, ImageDraw

    across = min(_ACROSS, len(pictures))
    down = -(-len(pictures) // across)
    sheet = Image.new("RGB", (across * (_SIDE + 4) + 4, down * (_SIDE + _CAPTION + 4) + 4), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (picture, caption) in enumerate(pictures):
        left, upper = (
            4 + number % across * (_SIDE + 4),
            4 + number // across * (_SIDE + _CAPTION + 4),
        )
        sheet.paste(_fitted(picture), (left, upper))
        draw.text((left, upper + _SIDE + 2), _cut(draw, caption), fill="black", font=_font())
    sink = io.BytesIO()
    sheet.quantize(_COLOURS, dither=Image.Dither.NONE).save(sink, format="png", optimize=True)
    return sink.getvalue()


def _picture(image: Any) -> Image.Image | None:
    """The picture of an entry of ``images``; None for an entry that is no picture."""
    from PIL import Image, UnidentifiedImageError

    encoded = image.get("png") if isinstance(image, dict) else None
    if not isinstance(encoded, str) or len(encoded) > _MAX_PICTURE_BYTES * 4 // 3:
        return None
    try:
        with Image.open(
            io.BytesIO(base64.b64decode(encoded, validate=True)), formats=["PNG"]
        ) as picture:
            if picture.width * picture.height > _MAX_PIXELS:
                return None
            return picture.convert("RGB")
    except (binascii.Error, UnidentifiedImageError, OSError, ValueError, SyntaxError):
        return None


def _fitted(picture: Image.Image) -> Image.Image:
    from PIL import Image

    longest = max(picture.size)
    size = (max(1, picture.width * _SIDE // longest), max(1, picture.height * _SIDE // longest))
    return picture.resize(
        size, Image.Resampling.NEAREST if longest < _SIDE else Image.Resampling.LANCZOS
    )


def _cut(draw: Any, caption: str) -> str:
    """The caption, cut where its picture ends."""
    caption = "".join(letter if letter.isprintable() else " " for letter in caption)[:60]
    if draw.textlength(caption, font=_font()) <= _SIDE:
        return caption
    while caption and draw.textlength(f"{caption}…", font=_font()) > _SIDE:
        caption = caption[:-1]
    return f"{caption}…"


@cache
def _font() -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size=11)
