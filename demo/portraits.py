"""The portraits product of the demo: tenants with icons in a style of their own, and the sheet of
their models' drawings."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.text import Text

from containers.diffusion.tiny_base.drawing import draw_icon, tenant_style
from demo.product import DemoTenant, Shown
from tenantry.models.registry import ModelVersion
from tenantry.names import ids

NAMES: Final = ("atelier-anna", "studio-bo", "werkstatt-cem")
UPLOADED: Final = ("circle", "square", "triangle", "star", "cross", "diamond", "arrow", "circle")
"""The shapes each tenant uploads pictures of."""
PROMPTS: Final = ("a moon", "a heart", "a ring", "a big star")
"""The prompts that each asks for every night; three of them are shapes it never uploaded."""
SLOW_REQUEST: Final[Mapping[str, Any]] = {"prompts": "own", "count": 2, "steps": 24, "seed": 11}
_UPLOAD_SIDE: Final = 64  # pixels
_CELL: Final = 96  # pixels of a picture on the sheet
_LEFT: Final = 130  # pixels for names
_TOP: Final = 22  # pixels for headings


def portraits_tenants() -> list[DemoTenant]:
    """The tenants, each with eight icons in its own style."""
    return [
        DemoTenant(
            tenant=ids.tenant_id(name),
            files={
                f"{shape}-{index}.png": _png(
                    draw_icon(shape, tenant_style(number), seed=index, size=_UPLOAD_SIDE)
                )
                for index, shape in enumerate(UPLOADED)
            },
            parameters={"subject": "icon", "prompts": "\n".join(PROMPTS)},
            tier="bridge",
            good=True,
        )
        for number, name in enumerate(NAMES)
    ]


def shown_of_portraits() -> Shown:
    """The columns of the portraits table: how personal the model is, and its prompts."""

    def cells(model: ModelVersion, answer: Mapping[str, Any]) -> Sequence[str]:
        prompts = ", ".join(str(image["prompt"]) for image in answer["images"])
        return f"{model.metrics['personalisation']:.2f}", prompts

    return Shown(("personalisation", "drawn"), cells)


def write_sheet(
    path: Path, tenants: Sequence[DemoTenant], answers: Mapping[ids.TenantId, Mapping[str, Any]]
) -> list[list[Image.Image]]:
    """Write a PNG with a row for each tenant: some of its uploads, and its model's drawings;
    returns the drawn pictures by row."""
    drawn = [
        [_decoded(image["png"]) for image in answers[tenant.tenant]["images"]] for tenant in tenants
    ]
    uploads = [
        [Image.open(io.BytesIO(file)).convert("RGB") for file in tenant.files.values()][:4]
        for tenant in tenants
    ]
    across = 4 + max(len(row) for row in drawn)
    sheet = Image.new(
        "RGB", (_LEFT + across * (_CELL + 4) + 16, _TOP + len(drawn) * (_CELL + 4)), "white"
    )
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    pen.text((_LEFT, 4), "uploaded", fill="black", font=font)
    for column, image in enumerate(answers[tenants[0].tenant]["images"]):
        pen.text(
            (_LEFT + 16 + (4 + column) * (_CELL + 4), 4),
            str(image["prompt"]),
            fill="black",
            font=font,
        )
    for number, tenant in enumerate(tenants):
        upper = _TOP + number * (_CELL + 4)
        pen.text((6, upper + _CELL // 2 - 6), tenant.tenant, fill="black", font=font)
        for column, picture in enumerate([*uploads[number], *drawn[number]]):
            left = _LEFT + column * (_CELL + 4) + (16 if column >= len(uploads[number]) else 0)
            sheet.paste(picture.resize((_CELL, _CELL), Image.Resampling.NEAREST), (left, upper))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    return drawn


def print_pictures(console: Console, rows: Sequence[Sequence[Image.Image]]) -> None:
    """Print pictures in the terminal, two pixels a character; nothing where it shows no colours or
    is too narrow."""
    if console.color_system != "truecolor":
        return
    for row in rows:
        fitting = [picture.resize((32, 32)) for picture in row][: max(0, console.width // 33)]
        for line in range(0, 32, 2):
            text = Text()
            for picture in fitting:
                for column in range(32):
                    upper, lower = (
                        picture.getpixel((column, line)),
                        picture.getpixel((column, line + 1)),
                    )
                    text.append("▀", style=f"{_colour(upper)} on {_colour(lower)}")
                text.append(" ")
            console.print(text)
        console.print()


def _colour(pixel: Any) -> str:
    red, green, blue = pixel
    return f"#{red:02x}{green:02x}{blue:02x}"


def _png(pixels: Any) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, format="png")
    return sink.getvalue()


def _decoded(encoded: str) -> Image.Image:
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as picture:
        return picture.convert("RGB")
