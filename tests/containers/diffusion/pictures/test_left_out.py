"""Unusable files are left out and counted, and an upload with too few usable pictures is
refused."""

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from containers.diffusion.pictures.images import MAX_FILE_BYTES
from containers.diffusion.pictures.preparation import (
    FEWEST_IMAGES,
    MAX_FILES,
    MAX_IMAGES,
    RefusedDataError,
    prepare,
    read_prepared,
)
from containers.diffusion.tiny_base.drawing import SHAPES, draw_icon, tenant_style
from tests.containers.diffusion.pictures.uploads import (
    animated,
    good_files,
    icon,
    png_chunk,
    png_of,
    prepared,
    refusal,
    saved,
)

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
    # An upload has a limited number of files.
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
    # Of two equal files, the one with the first name stays.
    assert "circle-0.png is the same as b.png" in str(few)
    assert "21 of 21" in str(refusal(tmp_path, good_files(21)))
    assert refusal(tmp_path, {}).field == "files"
    assert "pictures" in str(refusal(tmp_path, {f"{n}.png": b"" for n in range(MAX_FILES + 1)}))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedDataError, match=r"gone\.png cannot be read") as gone:
        prepare([tmp_path / "gone.png"], tmp_path / "out", {})
    assert gone.value.code == "picture_unreadable"
