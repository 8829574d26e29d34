"""The pictures a training container's preview asks for, by name, for an artifact's metadata."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Mapping
from typing import Any, Final

from tenantry.shown.plots import plot_of_losses, plot_of_preview

_MAX_SHEET_BYTES: Final = 1024 * 1024
_MAX_SHEET_SIDE: Final = 4096  # pixels


def pictures_of_preview(preview: Mapping[str, Any], title: str) -> dict[str, bytes]:
    """The pictures that a preview asks for; none for a preview of an unknown kind.

    A preview of kind ``forecast`` gives ``plot``: the held-out truth beside mean and interval. One
    of kind ``pictures`` gives ``contact_sheet``, drawn by the container, and ``loss_curve``, its
    training's curve.

    Raises:
        ValueError: it claims a kind known here, but lacks or malforms a field of that kind.
    """
    if preview.get("kind") == "pictures":
        return {
            "contact_sheet": _sheet(preview),
            "loss_curve": plot_of_losses(preview.get("loss"), title),
        }
    plot = plot_of_preview(preview, title)
    return {} if plot is None else {"plot": plot}


def _sheet(preview: Mapping[str, Any]) -> bytes:
    """The sheet's bytes, checked to be a picture of a size that suits a browser."""
    from PIL import Image, UnidentifiedImageError

    encoded = preview.get("sheet")
    if not isinstance(encoded, str) or len(encoded) > _MAX_SHEET_BYTES * 4 // 3:
        raise ValueError(
            f"a pictures preview needs a sheet of at most {_MAX_SHEET_BYTES} bytes in base64"
        )
    try:
        content = base64.b64decode(encoded, validate=True)
        with Image.open(io.BytesIO(content), formats=["PNG", "JPEG"]) as sheet:
            size = sheet.size
    except (binascii.Error, UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise ValueError(f"a pictures preview's sheet is no PNG or JPEG: {error}") from error
    if max(size) > _MAX_SHEET_SIDE:
        raise ValueError(f"a pictures preview's sheet has {size[0]} × {size[1]} pixels")
    return content
