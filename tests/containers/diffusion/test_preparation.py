"""Uploads of pictures: what is used, what is left out and counted, what is refused, and that
nothing else comes out."""

import io
import json
import pickle
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from containers.diffusion.pictures.images import (
    MAX_FILE_BYTES,
    MAX_PIXELS,
    HostileImageError,
    RefusedImageError,
    decode_image,
    read_image,
)
from containers.diffusion.pictures.preparation import (
    FEWEST_IMAGES,
    MAX_FILES,
    MAX_IMAGES,
    Prepared,
    RefusedDataError,
    clean_text,
    prepare,
    read_prepared,
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
    """A grey PNG whose header says what it is told to."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + extra
        + png_chunk(b"IDAT", zlib.compress(pixels))
        + png_chunk(b"IEND", b"")
    )


# ---- what is written -----------------------------------------------------------------------------


def test_pictures_come_out_as_they_went_in_with_captions_and_prompts(tmp_path: Path) -> None:
    result = prepared(
        tmp_path,
        good_files(6),
        subject="badge",
        prompts="a red star\n\n a  blue moon \na red star\n",
    )

    assert (result.rows, result.repairs) == (6, {})
    assert result.facts["formats"] == {"PNG": 6}
    assert result.facts["largest"] == "32 × 32"
    read = read_prepared(tmp_path / "out")
    assert (read.subject, read.prompts) == ("badge", ("a red star", "a blue moon"))
    assert [image.path.name for image in read.images] == [
        f"image-{number:02}.png" for number in range(6)
    ]
    assert [image.source for image in read.images] == sorted(good_files(6))
    for image in read.images:
        number = int(image.source.removesuffix(".png").rpartition("-")[2])
        assert image.caption == f"a {SHAPES[number]}"
        assert np.array_equal(np.asarray(image.read()), np.asarray(icon(number)))
    assert prepared(tmp_path, good_files(6)).facts["subject"] == "icon"


def test_equal_content_gives_equal_bytes_in_whatever_order_it_comes(tmp_path: Path) -> None:
    files = good_files(7)
    first = prepared(tmp_path, files)
    bytes_of_first = written(tmp_path)
    again = prepared(tmp_path, dict(reversed(files.items())))

    assert again.fingerprint == first.fingerprint
    assert written(tmp_path) == bytes_of_first
    files["circle-0.png"] = saved(icon(20))
    assert prepared(tmp_path, files).fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("name", "caption"),
    [
        ("red-circle-3.png", "a red circle"),
        ("Orange_Star.webp", "an orange star"),
        ("the blue moon.jpeg", "the blue moon"),
        ("größe-2.png", "a größe"),
        ("gro\u0308ße 2.png", "a größe"),
        ("red+circle (1).png", "a red circle"),
        ("Red heart \u2764\ufe0f.png", "a red heart"),
        ("(red) [star], large.png", "a red star large"),
        ("\U0001f600.png", "an icon"),
        ("Foto (2).jpg", "an icon"),
        ("Bildschirmfoto 2026-11-29 um 10.15.30.png", "an icon"),
        ("IMG_2041.jpg", "an icon"),
        ("20240101-120000.jpg", "an icon"),
        ("b7f3c2.png", "an icon"),
        ("screenshot-star.png", "an icon"),
        ("qwrtp.png", "an icon"),
        ("star", "an icon"),
    ],
)
def test_a_file_name_that_reads_as_words_is_a_caption(
    tmp_path: Path, name: str, caption: str
) -> None:
    prepared(tmp_path, good_files() | {name: saved(icon(9))})
    assert {image.source: image.caption for image in read_prepared(tmp_path / "out").images}[
        name
    ] == caption


def test_captions_that_were_given_come_first(tmp_path: Path) -> None:
    given = json.dumps({"circle-0.png": "a  round\n thing\u200b"}).encode()
    result = prepared(tmp_path, good_files() | {"captions.json": given})
    captions = {image.source: image.caption for image in read_prepared(tmp_path / "out").images}
    assert captions["circle-0.png"] == "a round thing"
    assert captions["square-1.png"] == "a square"
    assert result.facts["captions_from"] == {"captions.json": 1, "file name": 4}


def test_captions_find_a_file_however_its_umlaut_is_spelled(tmp_path: Path) -> None:
    given = json.dumps({"bl\u00fcte (1) a+b.png": "a flower"}).encode()
    prepared(
        tmp_path, good_files() | {"blu\u0308te (1) a+b.png": saved(icon(9)), "captions.json": given}
    )
    assert "a flower" in {image.caption for image in read_prepared(tmp_path / "out").images}


@pytest.mark.parametrize(
    ("content", "says", "code"),
    [
        (b"{", "not JSON", "captions_not_json"),
        (b"[" * 60_000, "not JSON", "captions_not_json"),
        (b'["a"]', "no object", "captions_no_object"),
        (
            b'{"circle-0.png": "a star", "other.png": "a star"}',
            "Entry 2 of captions.json names a file",
            "captions_of_no_file",
        ),
        (b'{"circle-0.png": 3}', "is no text", "caption_is_no_text"),
        (b'{"circle-0.png": " "}', "is empty", "caption_is_empty"),
        (b'{"circle-0.png": "' + b"x" * 201 + b'"}', "more than 200", "caption_is_too_long"),
        (b'{"circle-0.png": "' + b"x" * 70_000 + b'"}', "bytes", "captions_too_large"),
    ],
)
def test_captions_that_cannot_be_read_are_refused(
    tmp_path: Path, content: bytes, says: str, code: str
) -> None:
    error = refusal(tmp_path, good_files() | {"captions.json": content})
    assert (error.field, error.code) == ("captions.json", code)
    assert says in str(error)
    assert "other.png" not in str(error)


@pytest.mark.parametrize(
    ("parameters", "field", "code"),
    [
        ({"subject": "x" * 201}, "subject", "subject_is_too_long"),
        ({"subject": "\u200b"}, "subject", "subject_is_empty"),
        ({"subject": 5}, "subject", "subject_is_no_text"),
        (
            {"prompts": "\n".join(f"star {number}" for number in range(17))},
            "prompts",
            "too_many_prompts",
        ),
        ({"prompts": "x" * 201}, "prompts", "prompt_is_too_long"),
        ({"prompts": ["a star"]}, "prompts", "prompts_no_text"),
    ],
)
def test_parameters_out_of_bounds_are_refused(
    tmp_path: Path, parameters: dict[str, object], field: str, code: str
) -> None:
    error = refusal(tmp_path, good_files(), **parameters)
    assert (error.field, error.code) == (field, code)


def test_text_is_composed_and_printable() -> None:
    assert clean_text(" e\u0301te\u0301\t\x00\u202e 2 ") == "\u00e9t\u00e9 2"
    with pytest.raises(ValueError, match="more than 200"):
        clean_text("x" * 10_000_000)


# ---- what is mended in a picture -----------------------------------------------------------------


def with_orientation(image: Image.Image, kind: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    exif[0x010F] = "Camera of Jane Doe"
    return saved(image, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(kind: str, orientation: int) -> None:
    corners = np.zeros((32, 48, 3), np.uint8)
    corners[:16, :24] = (250, 0, 0)
    corners[16:, 24:] = (0, 0, 250)
    corners[:16, 24:] = (0, 250, 0)
    upright = Image.fromarray(corners)
    # What a camera stores is what the orientation brings upright.
    stored = {
        1: upright,
        2: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: upright.transpose(Image.Transpose.ROTATE_180),
        4: upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: upright.transpose(Image.Transpose.TRANSPOSE),
        6: upright.transpose(Image.Transpose.ROTATE_90),
        7: upright.transpose(Image.Transpose.TRANSVERSE),
        8: upright.transpose(Image.Transpose.ROTATE_270),
    }[orientation]
    decoded = decode_image(with_orientation(stored, kind, orientation))

    assert decoded.image.size == (decoded.width, decoded.height) == (48, 32)
    assert np.abs(np.asarray(decoded.image).astype(int) - corners).mean() < 8
    assert decoded.changes == ({"rotated"} if orientation > 1 else frozenset())


def test_metadata_is_left_behind(tmp_path: Path) -> None:
    secret = "Jane Doe, 5 Main Street"
    text = PngInfo()
    text.add_text("Author", secret)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x013B] = secret
    files = good_files() | {
        "text.png": saved(icon(11), pnginfo=text, icc_profile=profile),
        "exif.jpg": saved(
            icon(12), "JPEG", exif=exif, icc_profile=profile, comment=secret.encode()
        ),
        "exif.webp": saved(icon(13), "WEBP", exif=exif, icc_profile=profile, lossless=True),
    }
    assert sum(secret.encode() in content for content in files.values()) == 3
    assert prepared(tmp_path, files).rows == 8
    for name, content in written(tmp_path).items():
        assert secret.encode() not in content
        if name.endswith(".png"):
            assert Image.open(io.BytesIO(content)).info == {}


@pytest.mark.filterwarnings("error")
def test_exif_that_cannot_be_read_costs_nothing() -> None:
    for exif in (
        b"Exif\0\0MM\0*\xff\xff\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x04\0" * 9,
        b"Exif\0\0",
    ):
        decoded = decode_image(saved(icon(1), "JPEG", exif=exif))
        assert (decoded.image.size, decoded.changes) == ((32, 32), frozenset())


def half_transparent() -> Image.Image:
    image = icon(2).convert("RGBA")
    alpha = np.full((32, 32), 255, np.uint8)
    alpha[:, 16:] = 0
    image.putalpha(Image.fromarray(alpha))
    return image


@pytest.mark.parametrize(
    "content",
    [
        saved(half_transparent()),
        saved(half_transparent(), "WEBP", lossless=True),
        saved(half_transparent().convert("LA")),
        saved(half_transparent().quantize(16)),
    ],
    ids=["PNG", "WebP", "grey", "palette"],
)
def test_transparency_is_laid_on_white(content: bytes) -> None:
    decoded = decode_image(content)
    assert decoded.image.mode == "RGB"
    pixels = np.asarray(decoded.image)
    assert (pixels[:, 16:] == 255).all()
    assert (pixels[:, :16] < 250).any()
    assert "flattened" in decoded.changes


def test_transparent_pixels_leave_no_fringe_when_a_picture_is_reduced() -> None:
    pixels = np.zeros((64, 64, 4), np.uint8)  # black where nothing is to be seen
    pixels[16:48, 16:48] = 255
    reduced = decode_image(saved(Image.fromarray(pixels)), longest=16).image
    assert np.asarray(reduced).min() == 255


def test_colours_become_rgb_of_eight_bits() -> None:
    colours = icon(3)
    grey = np.asarray(colours.convert("L"))
    sixteen = Image.fromarray(grey.astype(np.uint16) * 256 + 77)
    for image, kind, tolerance in (
        (colours.convert("L"), "PNG", 0),
        (colours.convert("L"), "JPEG", 12),
        (sixteen, "PNG", 0),
    ):
        decoded = decode_image(saved(image, kind))
        assert decoded.image.mode == "RGB"
        assert "converted" in decoded.changes
        assert (
            np.abs(np.asarray(decoded.image).astype(int) - grey[..., None]).max() <= 3 * tolerance
        )
    for image, kind, how in (
        (colours.convert("CMYK"), "JPEG", {"quality": 95, "subsampling": 0}),
        (colours.quantize(64), "PNG", {}),
    ):
        decoded = decode_image(saved(image, kind, **how))
        assert decoded.image.mode == "RGB"
        assert np.abs(np.asarray(decoded.image).astype(int) - np.asarray(colours)).mean() < 4
    black_and_white = decode_image(saved(colours.convert("1")))
    assert set(np.unique(np.asarray(black_and_white.image))) == {0, 255}


def test_large_pictures_are_reduced_and_small_ones_never_enlarged(tmp_path: Path) -> None:
    wide = icon(4, 512).crop((0, 128, 512, 384)).resize((2560, 1280))
    square = icon(7, 300).resize((2100, 2100))
    files = good_files() | {
        "wide.png": saved(wide),
        "square.jpg": saved(square, "JPEG", quality=92),
    }
    result = prepared(tmp_path, files)

    assert result.repairs == {"reduced": 2}
    assert result.facts["largest"] == "2100 × 2100"
    sizes = {image.source: image.read().size for image in read_prepared(tmp_path / "out").images}
    assert sizes == dict.fromkeys(good_files(), (32, 32)) | {
        "wide.png": (1024, 512),
        "square.jpg": (1024, 1024),
    }
    expected = np.asarray(square.resize((1024, 1024), Image.Resampling.BOX)).astype(int)
    by_source = {image.source: image for image in read_prepared(tmp_path / "out").images}
    assert np.abs(np.asarray(by_source["square.jpg"].read()) - expected).mean() < 3


# ---- colours -------------------------------------------------------------------------------------


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
    """The colour on the left, and what was done to the picture."""
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


# ---- what is left out ----------------------------------------------------------------------------


def animated(kind: str) -> bytes:
    return saved(icon(1), kind, save_all=True, append_images=[icon(2), icon(3)])


UNUSABLE: dict[str, tuple[str, Callable[[], bytes]]] = {
    "empty": ("empty", lambda: b""),
    "cut PNG": ("truncated", lambda: saved(icon(1, 64))[:-200]),
    "cut JPEG": ("corrupt", lambda: saved(icon(1, 256), "JPEG")[:-600]),
    "cut JPEG header": ("truncated", lambda: saved(icon(1, 256), "JPEG")[:100]),
    "cut WebP": ("truncated", lambda: saved(icon(1, 64), "WEBP")[:-100]),
    "PNG of wrong data": ("corrupt", lambda: png_of(32, 32, pixels=b"\0" * 5)),
    "PNG of two headers": (
        "corrupt",
        lambda: png_of(
            32, 32, extra=png_chunk(b"IHDR", struct.pack(">IIBBBBB", 9000, 9000, 8, 0, 0, 0, 0))
        ),
    ),
    "PNG of no palette": (
        "corrupt",
        lambda: png_of(32, 32).replace(b"\x08\0\0\0\0", b"\x08\x03\0\0\0"),
    ),
    "JPEG of junk": ("corrupt", lambda: b"\xff\xd8\xff" + b"\x00" * 5000),
    "too small": ("too_small", lambda: saved(icon(1, 15))),
    "animated PNG": ("animated", lambda: animated("PNG")),
    "animated WebP": ("animated", lambda: animated("WEBP")),
    "GIF": ("other_type", lambda: saved(icon(1), "GIF")),
    "BMP": ("other_type", lambda: saved(icon(1), "BMP")),
    "TIFF": ("other_type", lambda: saved(icon(1), "TIFF")),
    "AVIF": ("other_type", lambda: saved(icon(1), "AVIF")),
    "one colour": ("one_colour", lambda: saved(Image.new("RGB", (64, 64), (10, 200, 30)))),
    "white on nothing": (
        "one_colour",
        lambda: saved(Image.new("RGBA", (64, 64), (255, 255, 255, 90))),
    ),
    "twice": ("duplicates", lambda: good_files()["circle-0.png"]),
    "in another file type": ("duplicates", lambda: saved(icon(0), "WEBP", lossless=True)),
}


def tiff(*tags: int, order: str = "<") -> bytes:
    entries = b"".join(struct.pack(order + "HHII", tag, 1, 1, 0) for tag in tags)
    return (
        (b"II*\0" if order == "<" else b"MM\0*")
        + struct.pack(order + "IH", 8, len(tags))
        + entries
        + bytes(4)
    )


def media(major: bytes, *more: bytes) -> bytes:
    return (
        struct.pack(">I", 16 + 4 * len(more))
        + b"ftyp"
        + major
        + bytes(4)
        + b"".join(more)
        + bytes(32)
    )


OTHER_TYPES: dict[str, tuple[str, bytes]] = {
    "JPEG XL in a container": ("a JPEG XL", b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40)),
    "JPEG XL alone": ("a JPEG XL", b"\xff\x0a" + bytes(40)),
    "HEIC": ("a HEIC", media(b"heic", b"mif1", b"heic")),
    "HEIF of several": ("a HEIC", media(b"msf1", b"hevc")),
    "AVIF": ("an AVIF", media(b"avif")),
    "AVIF by its second brand": ("an AVIF", media(b"mif1", b"avif", b"miaf")),
    "film of a live photo": ("a film", media(b"qt  ", b"qt  ")),
    "MP4": ("a film", media(b"isom", b"avc1", b"mp41")),
    "QuickTime of old": ("a film", struct.pack(">I", 8) + b"wide" + bytes(40)),
    "WebM": ("a film", b"\x1aE\xdf\xa3" + bytes(40)),
    "CR3": ("a camera's raw file (CR3)", media(b"crx ", b"crx ", b"isom")),
    "CR2": ("a camera's raw file (CR2)", b"II*\0\x10\0\0\0CR\x02\0" + bytes(40)),
    "DNG": ("a camera's raw file (DNG)", tiff(0x010F, 0x014A, 0xC612)),
    "NEF": ("a camera's raw file (NEF, ARW", tiff(0x00FE, 0x010F, 0x014A, order=">")),
    "RAF": ("a camera's raw file (RAF)", b"FUJIFILMCCD-RAW 0201" + bytes(40)),
    "ORF": ("a camera's raw file (ORF)", b"IIRO" + bytes(40)),
    "TIFF of another order": ("a TIFF", tiff(0x0100, order=">")),
    "TIFF that is cut": ("a TIFF", b"II*\0"),
    "BigTIFF": ("a BigTIFF", b"II+\0" + bytes(40)),
    "PSD": ("a Photoshop file", b"8BPS\0\x01" + bytes(40)),
    "SVG": ("an SVG", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    "SVG with a prologue": ("an SVG", b"\xef\xbb\xbf\n<?xml version='1.0'?><!-- a -->\n<svg:svg/>"),
    "PDF": ("a PDF", b"%PDF-1.7\n" + bytes(40)),
    "PostScript": ("a PostScript file", b"%!PS-Adobe-3.0 EPSF-3.0\n"),
    "JPEG 2000": ("a JPEG 2000", b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40)),
    "JPEG 2000 alone": ("a JPEG 2000", b"\xff\x4f\xff\x51" + bytes(40)),
    "DDS": ("a DDS", b"DDS |" + bytes(40)),
    "EXR": ("an OpenEXR", b"\x76\x2f\x31\x01\x02" + bytes(40)),
    "HDR": ("a Radiance HDR", b"#?RADIANCE\n"),
    "icon": ("an icon file", b"\0\0\1\0\1\0" + bytes(40)),
    "Netpbm": ("a Netpbm picture", b"P6\n16 16\n255\n" + bytes(768)),
    "Targa": ("a Targa", bytes(60) + b"TRUEVISION-XFILE.\0"),
    "note of a photo program": (
        "a note of a photo program",
        b'<?xml version="1.0"?>\n<!DOCTYPE plist PUBLIC "x">',
    ),
    "macOS beside a picture": ("a file of macOS", b"\0\x05\x16\x07" + bytes(80)),
    "folder of macOS": ("a folder's view of macOS", b"\0\0\0\1Bud1" + bytes(80)),
    "thumbnails of Windows": (
        "a store of thumbnails",
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(80),
    ),
    "whatever else": ("of a type that is not read here", b"\x93NUMPY" + bytes(80)),
}


def test_files_of_other_types_are_left_out_by_name_and_type_whatever_they_are_called(
    tmp_path: Path,
) -> None:
    names = {kind: f"{kind.replace(' ', '_')}.jpg" for kind in OTHER_TYPES}
    kinds = list(OTHER_TYPES)
    # An upload has so many files at most.
    for number, some in enumerate((kinds[:30], kinds[30:])):
        folder = tmp_path / str(number)
        folder.mkdir()
        result = prepared(
            folder, good_files() | {names[kind]: OTHER_TYPES[kind][1] for kind in some}
        )
        assert (result.rows, result.repairs) == (FEWEST_IMAGES, {"other_type": len(some)})
        for kind in some:
            assert result.facts["left_out"][names[kind]].startswith(f"is {OTHER_TYPES[kind][0]}"), (
                kind
            )


def test_a_film_that_is_too_large_to_be_read_is_left_out_too(tmp_path: Path) -> None:
    result = prepared(
        tmp_path, good_files() | {"IMG_0001.MOV": media(b"qt  ") + bytes(MAX_FILE_BYTES)}
    )
    assert result.facts["left_out"] == {"IMG_0001.MOV": "is a film, whatever its name says"}


def test_an_upload_of_other_types_alone_is_refused_with_the_list(tmp_path: Path) -> None:
    error = refusal(tmp_path, {f"IMG_000{number}.jpg": media(b"heic") for number in range(6)})
    assert error.code == "too_few_pictures"
    assert all(f"IMG_000{number}.jpg is a HEIC" in str(error) for number in range(6))


@pytest.mark.parametrize("what", UNUSABLE)
def test_what_cannot_be_used_is_left_out_and_counted(tmp_path: Path, what: str) -> None:
    problem, content = UNUSABLE[what]
    result = prepared(tmp_path, good_files() | {"zebra.png": content()})

    assert (result.rows, result.repairs) == (FEWEST_IMAGES, {problem: 1})
    assert list(result.facts["left_out"]) == ["zebra.png"]
    assert [image.source for image in read_prepared(tmp_path / "out").images] == sorted(
        good_files()
    )


def test_recompressed_and_resized_pictures_count_once_and_the_largest_stays(tmp_path: Path) -> None:
    files = good_files() | {
        "heart-1.png": saved(icon(7, 256)),
        "heart-2.jpg": saved(icon(7, 256), "JPEG", quality=60),
        "heart-3.png": saved(icon(7, 512)),
        "heart-4.webp": saved(icon(7, 200), "WEBP", quality=80),
    }
    result = prepared(tmp_path, files)
    assert (result.rows, result.repairs) == (6, {"near_duplicates": 3})
    assert "heart-3.png" in {image.source for image in read_prepared(tmp_path / "out").images}


@pytest.mark.parametrize("number", range(4))
def test_flat_icons_of_one_style_are_no_duplicates(tmp_path: Path, number: int) -> None:
    style = tenant_style(number)
    files = {
        f"{shape}-{seed}.png": saved(Image.fromarray(draw_icon(shape, style, seed, 16)))
        for shape in SHAPES
        for seed in (1, 2)
    }
    assert (prepared(tmp_path, files).rows, prepared(tmp_path, files).repairs) == (MAX_IMAGES, {})


def test_too_few_or_too_many_usable_pictures_are_refused_with_the_reasons(tmp_path: Path) -> None:
    few = refusal(
        tmp_path,
        good_files(4) | {"a.png": saved(icon(1))[:-9], "b.png": good_files()["circle-0.png"]},
    )
    assert "4 of 6" in str(few)
    assert "a.png is truncated" in str(few)
    # Of two equal files the one whose name comes first stays.
    assert "circle-0.png is the same as b.png" in str(few)
    assert "21 of 21" in str(refusal(tmp_path, good_files(21)))
    assert refusal(tmp_path, {}).field == "files"
    assert "pictures" in str(refusal(tmp_path, {f"{n}.png": b"" for n in range(MAX_FILES + 1)}))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedDataError, match=r"gone\.png cannot be read") as gone:
        prepare([tmp_path / "gone.png"], tmp_path / "out", {})
    assert gone.value.code == "picture_unreadable"


# ---- what is hostile -----------------------------------------------------------------------------


def jpeg_of(width: int, height: int, scans: int = 1) -> bytes:
    """A progressive JPEG whose header tells another size, with scans that were not in it."""
    content = saved(icon(1), "JPEG", progressive=True)
    at = content.index(b"\xff\xc2")
    content = content[: at + 5] + struct.pack(">HH", height, width) + content[at + 9 :]
    scan = content.index(b"\xff\xda")
    return content[:scan] + content[scan : scan + 14] * (scans - 1) + content[scan:]


def webp_of(width: int, height: int) -> bytes:
    content = bytearray(saved(half_transparent(), "WEBP"))
    assert content[12:16] == b"VP8X"
    content[24:30] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return bytes(content)


HOSTILE: dict[str, Callable[[], bytes]] = {
    "PNG of 10,000 × 10,000": lambda: png_of(10_000, 10_000),
    "PNG of 4 Gpx": lambda: png_of(65_536, 65_536),
    "PNG of a long side": lambda: png_of(MAX_PIXELS // 2000, 16),
    "JPEG of 10,000 × 10,000": lambda: jpeg_of(10_000, 10_000),
    "WebP of 10,000 × 10,000": lambda: webp_of(10_000, 10_000),
    "JPEG of a thousand scans": lambda: jpeg_of(6000, 6000, 1000),
    "PNG of a hundred thousand chunks": lambda: png_of(
        32, 32, extra=png_chunk(b"tEXt", b"") * 100_000
    ),
    "JPEG of a hundred thousand fill bytes": lambda: b"\xff\xd8" + b"\xff" * 100_000,
    "too many bytes": lambda: saved(icon(1)) + b"\0" * MAX_FILE_BYTES,
    "pickle": lambda: pickle.dumps({"weights": [1.0, 2.0]}),
    "zip": lambda: b"PK\x03\x04" + b"\0" * 64,
    "page": lambda: b"<!doctype html><script>alert(1)</script>",
    "program": lambda: b"\x7fELF" + b"\0" * 64,
    "sound in RIFF": lambda: b"RIFF\x24\0\0\0WAVEfmt " + b"\0" * 64,
}


CODES = {
    **{
        what: "picture_too_large"
        for what in HOSTILE
        if " of 10,000" in what or "Gpx" in what or "long side" in what
    },
    "JPEG of a thousand scans": "picture_too_many_scans",
    "PNG of a hundred thousand chunks": "picture_too_many_parts",
    "JPEG of a hundred thousand fill bytes": "picture_too_many_parts",
    "too many bytes": "picture_too_many_bytes",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_file_refuses_the_whole_upload(tmp_path: Path, what: str) -> None:
    error = refusal(tmp_path, good_files(10) | {"cat.png": HOSTILE[what]()})
    assert error.field == "cat.png"
    assert "cat.png" in str(error)
    assert error.code == CODES.get(what, "picture_no_picture")


def test_a_bomb_is_refused_without_memory_for_its_pixels(tmp_path: Path) -> None:
    """A picture of 400 MB, in a process that may take 300 MB more than it has."""
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(png_of(20_000, 20_000, pixels=b"\0" * 20_001 * 2_000))
    script = (
        "import pathlib, resource, sys\n"
        "from containers.diffusion.pictures.images import HostileImageError, read_image\n"
        "used = int(pathlib.Path('/proc/self/statm').read_text().split()[0]) * "
        "resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (300 << 20), resource.RLIM_INFINITY))\n"
        "try:\n"
        "    read_image(pathlib.Path(sys.argv[1]))\n"
        "except HostileImageError as error:\n"
        "    print(error.problem)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(bomb)], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "too_large"


def test_a_text_bomb_in_a_picture_never_opens() -> None:
    text = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"\0" * (64 << 20)))
    plain = saved(icon(1))
    assert np.array_equal(
        np.asarray(read_image(plain[:33] + text + plain[33:])), np.asarray(icon(1))
    )


def test_phones_append_pictures_and_the_first_is_read() -> None:
    """Multi-picture JPEG (CIPA DC-007): a gain map or a second view follows the first picture."""
    several = saved(icon(1, 64), "MPO", save_all=True, append_images=[icon(2, 64)], quality=95)
    assert Image.open(io.BytesIO(several)).format == "MPO"
    assert np.abs(np.asarray(read_image(several)).astype(int) - np.asarray(icon(1, 64))).mean() < 8


def test_refusals_of_single_images_say_what_and_how_to_cure() -> None:
    with pytest.raises(HostileImageError, match=r"10,000 × 10,000 pixels.*Reduce it"):
        read_image(png_of(10_000, 10_000))
    with pytest.raises(RefusedImageError, match=r"truncated.*Upload the file again"):
        read_image(saved(icon(1))[:-1])


# ---- what training reads -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda document: document.update(format=2), "format"),
        (lambda document: document.update(more=1), "images.json"),
        (lambda document: document.update(prompts="a star"), "prompts"),
        (lambda document: document.update(prompts=["a star"] * 17), "prompts"),
        (lambda document: document.update(prompts=["a star", 3]), "prompts[1]"),
        (lambda document: document.update(subject=""), "subject"),
        (lambda document: document["images"].pop(), "images"),
        (lambda document: document["images"].append(document["images"][0]), "images"),
        (lambda document: document["images"][1].update(file="../image-00.png"), "images[1].file"),
        (lambda document: document["images"][1].update(file="image-77.png"), "images[1].file"),
        (lambda document: document["images"][1].update(caption="x" * 300), "images[1].caption"),
        (lambda document: document["images"][1].update(source=None), "images[1].source"),
        (lambda document: document["images"].__setitem__(1, "image-01.png"), "images[1]"),
    ],
)
def test_prepared_data_that_were_changed_are_refused(
    tmp_path: Path, change: Callable[[dict[str, object]], object], field: str
) -> None:
    prepared(tmp_path, good_files())
    path = tmp_path / "out" / "images.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(RefusedDataError) as caught:
        read_prepared(tmp_path / "out")
    assert caught.value.field == field
    codes = {
        "prompts[1]": "prompt_is_no_text",
        "subject": "subject_is_empty",
        "images[1].caption": "caption_is_too_long",
    }
    assert caught.value.code == codes.get(field, "prepared_changed")


def test_prepared_data_that_are_missing_or_broken_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedDataError, match=r"images\.json cannot be read") as missing:
        read_prepared(tmp_path)
    assert missing.value.code == "prepared_unreadable"
    prepared(tmp_path, good_files())
    image = read_prepared(tmp_path / "out").images[0]
    image.path.write_bytes(png_of(20_000, 20_000))
    with pytest.raises(RefusedDataError, match=r"image-00\.png") as broken:
        image.read()
    assert broken.value.code == "prepared_picture_unreadable"
    image.path.unlink()
    image.path.symlink_to(tmp_path / "uploaded" / image.source)
    with pytest.raises(RefusedDataError, match="missing"):
        read_prepared(tmp_path / "out")


def test_preparing_needs_no_torch() -> None:
    script = (
        "import sys, containers.diffusion.pictures.preparation; print(sorted({'torch', "
        "'diffusers', 'pandas'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


# ---- whatever comes ------------------------------------------------------------------------------


SEEDS = [
    saved(icon(1)),
    saved(half_transparent().quantize(8)),
    saved(icon(2), "JPEG"),
    saved(icon(3), "JPEG", progressive=True),
    with_orientation(icon(4), "JPEG", 6),
    saved(icon(5), "WEBP"),
    saved(half_transparent(), "WEBP", lossless=True),
    animated("PNG"),
    animated("WEBP"),
    saved(icon(1), "GIF"),
]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A picture with bytes overwritten, cut out, repeated or put in; some with the signature of
    another."""
    content = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(content)))
        piece = draw(st.binary(max_size=8))
        match draw(st.sampled_from(["overwrite", "cut", "repeat", "insert"])):
            case "overwrite":
                content[at : at + len(piece)] = piece
            case "cut":
                del content[at : at + draw(st.integers(0, 400))]
            case "repeat":
                content[at:at] = content[at : at + draw(st.integers(0, 400))]
            case "insert":
                content[at:at] = piece
    return bytes(content)


@settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    content=st.one_of(st.binary(max_size=200), mutated()),
    name=st.sampled_from(["cat.png", "captions.json"]),
)
@example(content=b"\x89PNG\r\n\x1a\n", name="cat.png")
@example(content=b"\xff\xd8\xff", name="cat.png")
@example(content=b"RIFF\x04\0\0\0WEBP", name="cat.png")
@example(content=b"RIFF\x0c\0\0\0WEBPVP8X\0\0\0\0", name="cat.png")
@example(content=b'{"cat.png": "\\ud800"}', name="captions.json")
@example(content=b"1" * 5000, name="captions.json")
def test_whatever_is_uploaded_is_used_left_out_or_refused(
    tmp_path: Path, content: bytes, name: str
) -> None:
    files = {
        "a.png": SEEDS[0],
        "b.png": SEEDS[1],
        "c.jpg": SEEDS[2],
        "d.jpg": SEEDS[3],
        "e.jpg": SEEDS[4],
        name: content,
    }
    try:
        result = prepared(tmp_path, files)
    except RefusedDataError as error:
        assert error.field  # noqa: PT017 - it may as well not be refused
        assert error.cure  # noqa: PT017
        return
    images = read_prepared(tmp_path / "out").images
    assert (
        len(images)
        == result.rows
        == FEWEST_IMAGES + (name == "cat.png") - len(result.facts["left_out"])
    )
    for image in images:
        assert image.read().mode == "RGB"
    json.dumps([dict(result.facts), dict(result.repairs)])
