"""Pictures get the colours of their profile."""

import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from containers.diffusion.pictures.images import decode_image
from containers.diffusion.pictures.preparation import read_prepared
from tests.containers.diffusion.pictures.uploads import (
    ORIENTATION,
    good_files,
    icon,
    png_chunk,
    prepared,
    saved,
)


def icc(kind: bytes, space: bytes, connection: bytes, tags: Mapping[bytes, bytes]) -> bytes:
    """A profile of version 2.4 (ICC.1:2001-04)."""
    table, data, at = b"", b"", 132 + 12 * len(tags)
    for tag, content in tags.items():
        padded = content + b"\0" * (-len(content) % 4)
        table += tag + struct.pack(">II", at + len(data), len(content))
        data += padded
    header = struct.pack(
        ">I4s4s4s4s4s12s4s28s",
        at + len(data),
        b"\0" * 4,
        b"\x02\x40\0\0",
        kind,
        space,
        connection,
        b"\0" * 12,
        b"acsp",
        b"\0" * 28,
    )
    return (
        header
        + xyz(0.9642, 1, 0.8249)[8:]
        + b"\0" * 48
        + struct.pack(">I", len(tags))
        + table
        + data
    )


def xyz(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(65536 * value) for value in values))


def curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))


D50 = {b"wtpt": xyz(0.9642, 1, 0.8249)}
# Adobe RGB (1998), 4.3.7: its primaries for white of D50, and its gamma.
ADOBE = icc(
    b"mntr",
    b"RGB ",
    b"XYZ ",
    D50
    | {b"rXYZ": xyz(0.60974, 0.31111, 0.01947), b"gXYZ": xyz(0.20528, 0.62567, 0.06087)}
    | {b"bXYZ": xyz(0.14919, 0.06322, 0.74457)}
    | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve(563 / 256)),
)
LINEAR_GREY = icc(b"mntr", b"GRAY", b"XYZ ", D50 | {b"kTRC": curve(1.0)})
# A press whose cyan ink is green and whose other inks are black: L*a*b* of 8 bits for none and all
# of each ink.
PRESS = icc(
    b"prtr",
    b"CMYK",
    b"Lab ",
    D50
    | {
        b"A2B0": b"mft1\0\0\0\0"
        + bytes([4, 3, 2, 0])
        + struct.pack(">9i", *(65536, 0, 0, 0) * 2, 65536)
        + bytes(range(256)) * 4
        + b"".join(
            bytes([255, 128, 128] if not inks else [150, 48, 180] if inks == 8 else [0, 128, 128])
            for inks in range(16)
        )
        + bytes(range(256)) * 3
    },
)
LINK = ADOBE.replace(b"mntr", b"link", 1)


def of_colour(mode: str, colour: Any) -> Image.Image:
    """A colour on the left, black on the right."""
    image = Image.new(mode, (64, 32), colour)
    black: Any = (0, 0, 0, 255) if mode in ("RGBA", "CMYK") else (0, 255) if mode == "LA" else 0
    image.paste(black, (48, 0, 64, 32))
    return image


def seen(content: bytes) -> tuple[tuple[int, ...], frozenset[str]]:
    """The colour on the left, and the changes to the picture."""
    decoded = decode_image(content)
    middle = np.asarray(decoded.image)[8:24, 8:24].reshape(-1, 3).mean(0)
    return tuple(round(float(value)) for value in middle), decoded.changes


def near(one: tuple[int, ...], other: tuple[int, ...], most: int = 3) -> bool:
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) <= most


@pytest.mark.parametrize("orientation", [1, 3])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_colours_are_those_that_the_profile_means(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    ways: dict[str, dict[str, Any]] = {
        "JPEG": {"quality": 95, "subsampling": 0},
        "WEBP": {"lossless": True},
    }
    how = ways.get(kind, {})
    stored = of_colour("RGB", (171, 35, 35)).rotate(180 if orientation == 3 else 0)
    colour, changes = seen(saved(stored, kind, icc_profile=ADOBE, exif=exif, **how))
    assert near(colour, (200, 30, 30))
    assert changes == {"recoloured", *(["rotated"] if orientation == 3 else [])}
    assert near(seen(saved(stored, kind, exif=exif, **how))[0], (171, 35, 35))


def test_profiles_hold_for_transparent_palette_grey_and_press_pictures(tmp_path: Path) -> None:
    red = (171, 35, 35)
    transparent = of_colour("RGBA", (*red, 255))
    transparent.paste((0, 0, 0, 0), (32, 0, 64, 32))
    for image in (transparent, transparent.quantize(4), of_colour("RGB", red).quantize(4)):
        assert near(seen(saved(image, icc_profile=ADOBE))[0], (200, 30, 30))
    # Half of the light is 188 of 255 in sRGB (IEC 61966-2-1).
    sixteen = Image.fromarray(np.asarray(of_colour("L", 128)).astype(np.uint16) * 257)
    for image in (of_colour("L", 128), of_colour("LA", (128, 255)), sixteen):
        colour, changes = seen(saved(image, icc_profile=LINEAR_GREY))
        assert near(colour, (188, 188, 188))
        assert "recoloured" in changes
    inks = of_colour("CMYK", (255, 0, 0, 0))
    green = seen(saved(inks, "JPEG", icc_profile=PRESS))[0]
    assert green[1] > max(green[0], green[2]) + 60
    assert near(seen(saved(inks, "JPEG"))[0], (0, 255, 255))
    files = good_files() | {"press.jpg": saved(inks, "JPEG", icc_profile=PRESS)}
    assert prepared(tmp_path, files).repairs == {"recoloured": 1}


def test_a_picture_that_says_srgb_stays_as_it_is() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for content in (
        saved(icon(1), icc_profile=profile),
        with_chunks(saved(icon(1)), gAMA=struct.pack(">I", 45455)),
        with_chunks(saved(icon(1)), sRGB=b"\0", gAMA=struct.pack(">I", 100_000)),
        with_chunks(saved(icon(1), icc_profile=profile), gAMA=struct.pack(">I", 100_000)),
    ):
        decoded = decode_image(content)
        assert decoded.changes == frozenset()
        assert np.array_equal(np.asarray(decoded.image), np.asarray(icon(1)))


def with_chunks(png: bytes, **chunks: bytes) -> bytes:
    return (
        png[:33]
        + b"".join(png_chunk(name.encode(), data) for name, data in chunks.items())
        + png[33:]
    )


def test_a_png_may_tell_its_colours_by_gamma_and_primaries() -> None:
    light = saved(of_colour("RGB", (128, 128, 128)))
    assert near(seen(with_chunks(light, gAMA=struct.pack(">I", 100_000)))[0], (188, 188, 188))
    points = struct.pack(">8I", 31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000)
    adobe = with_chunks(
        saved(of_colour("RGB", (171, 35, 35))), gAMA=struct.pack(">I", 45470), cHRM=points
    )
    assert near(seen(adobe)[0], (200, 30, 30))


def png_profile(data: bytes) -> bytes:
    return with_chunks(saved(icon(9)), iCCP=data)


def jpeg_segments(*segments: bytes) -> bytes:
    plain = saved(icon(9), "JPEG", quality=95)
    found = (
        b"\xff\xe2" + struct.pack(">H", len(each) + 14) + b"ICC_PROFILE\0" + each
        for each in segments
    )
    return plain[:2] + b"".join(found) + plain[2:]


UNREADABLE: dict[str, Callable[[], bytes]] = {
    "no bytes": lambda: saved(icon(9), "WEBP", icc_profile=b"\0", lossless=True),
    "junk": lambda: saved(icon(9), icc_profile=b"junk" * 100),
    "cut": lambda: saved(icon(9), icc_profile=ADOBE[:200]),
    "tags that point nowhere": lambda: saved(
        icon(9), icc_profile=ADOBE[:132] + b"\xff" * (len(ADOBE) - 132)
    ),
    "of another kind of picture": lambda: saved(icon(9), icc_profile=PRESS),
    "a link of devices": lambda: saved(icon(9), icc_profile=LINK),
    "a bomb": lambda: png_profile(b"x\0\0" + zlib.compress(ADOBE + b"\0" * (64 << 20))),
    "not compressed": lambda: png_profile(b"x\0\0" + ADOBE),
    "a part is missing": lambda: jpeg_segments(b"\x01\x02" + ADOBE[:300]),
    "a part twice": lambda: jpeg_segments(b"\x01\x02" + ADOBE[:300], b"\x01\x02" + ADOBE[300:]),
    "a part of no number": lambda: jpeg_segments(b"\x00\x01" + ADOBE),
    "an empty part": lambda: jpeg_segments(b""),
    "no gamma": lambda: with_chunks(saved(icon(9)), gAMA=struct.pack(">I", 0)),
    "primaries on a line": lambda: with_chunks(
        saved(icon(9)), gAMA=struct.pack(">I", 45455), cHRM=struct.pack(">8I", *(31270, 32900) * 4)
    ),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_a_profile_that_cannot_be_used_is_ignored_and_told(tmp_path: Path, what: str) -> None:
    result = prepared(tmp_path, good_files() | {"zebra.png": UNREADABLE[what]()})
    assert result.repairs == {"profile_ignored": 1}
    (image,) = (
        image for image in read_prepared(tmp_path / "out").images if image.source == "zebra.png"
    )
    assert np.abs(np.asarray(image.read()).astype(int) - np.asarray(icon(9))).mean() < 8


def test_a_profile_in_parts_is_put_together() -> None:
    plain = saved(of_colour("RGB", (171, 35, 35)), "JPEG", quality=95, subsampling=0)
    parts = [
        bytes([number, 3]) + ADOBE[200 * (number - 1) : 200 * number if number < 3 else None]
        for number in (2, 1, 3)
    ]
    found = b"".join(
        b"\xff\xe2" + struct.pack(">H", len(each) + 14) + b"ICC_PROFILE\0" + each for each in parts
    )
    assert near(seen(plain[:2] + found + plain[2:])[0], (200, 30, 30))


def test_one_colour_of_a_deep_picture_may_be_clear() -> None:
    grey = Image.fromarray(np.full((32, 32), 40_000, np.uint16))
    assert seen(with_transparency(saved(grey), struct.pack(">H", 40_000)))[0] == (255, 255, 255)
    assert seen(with_transparency(saved(grey), struct.pack(">H", 39_999)))[0] == (156, 156, 156)
    deep = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0))
    pixels = (b"\0" + struct.pack(">3H", 40_000, 300, 70) * 16) * 16
    body = png_chunk(b"IDAT", zlib.compress(pixels)) + png_chunk(b"IEND", b"")
    clear = png_chunk(b"tRNS", struct.pack(">3H", 40_000, 300, 70))
    for chunks in (b"", clear):
        decoded = decode_image(b"\x89PNG\r\n\x1a\n" + deep + chunks + body)
        assert decoded.image.getpixel((3, 3)) == ((255, 255, 255) if chunks else (156, 1, 0))


def with_transparency(png: bytes, data: bytes) -> bytes:
    at = png.index(b"IDAT") - 4
    return png[:at] + png_chunk(b"tRNS", data) + png[at:]
