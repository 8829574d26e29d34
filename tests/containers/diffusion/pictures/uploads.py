"""Uploads of pictures, their outcomes, and pictures of special kinds."""

import io
import re
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from containers.diffusion.pictures.preparation import (
    FEWEST_IMAGES,
    Prepared,
    RefusedDataError,
    prepare,
)
from containers.diffusion.tiny_base.drawing import SHAPES, draw_icon, tenant_style

ORIENTATION = 0x0112


def icon(number: int, size: int = 32) -> Image.Image:
    return Image.fromarray(draw_icon(SHAPES[number % len(SHAPES)], tenant_style(0), number, size))


def saved(image: Image.Image, kind: str = "PNG", **how: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **how)
    return stream.getvalue()


def good_files(count: int = FEWEST_IMAGES) -> dict[str, bytes]:
    return {
        f"{SHAPES[number % len(SHAPES)]}-{number}.png": saved(icon(number))
        for number in range(count)
    }


def prepared(folder: Path, files: Mapping[str, bytes], **parameters: object) -> Prepared:
    uploaded = folder / "uploaded"
    uploaded.mkdir(exist_ok=True)
    paths = []
    for name, content in files.items():
        paths.append(uploaded / name)
        paths[-1].write_bytes(content)
    return prepare(paths, folder / "out", parameters)


def refusal(folder: Path, files: Mapping[str, bytes], **parameters: object) -> RefusedDataError:
    with pytest.raises(RefusedDataError) as caught:
        prepared(folder, files, **parameters)
    assert caught.value.cure
    assert re.fullmatch(r"[a-z_]{5,40}", caught.value.code)
    assert caught.value.code != "data_unusable"
    assert not (folder / "out").exists()
    return caught.value


def written(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "out").iterdir()}


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width: int, height: int, *, extra: bytes = b"", pixels: bytes = b"") -> bytes:
    """A grey PNG whose header has the given values."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + extra
        + png_chunk(b"IDAT", zlib.compress(pixels))
        + png_chunk(b"IEND", b"")
    )


def with_orientation(image: Image.Image, kind: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    exif[0x010F] = "Camera of Jane Doe"
    return saved(image, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))


def half_transparent() -> Image.Image:
    image = icon(2).convert("RGBA")
    alpha = np.full((32, 32), 255, np.uint8)
    alpha[:, 16:] = 0
    image.putalpha(Image.fromarray(alpha))
    return image


def animated(kind: str) -> bytes:
    return saved(icon(1), kind, save_all=True, append_images=[icon(2), icon(3)])
