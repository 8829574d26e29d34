"""Decoding pictures that strangers uploaded.

Nothing in a file is trusted. Before a pixel is decoded, the content gives the type, and the header
gives size, frames and structure. The decoder then receives only the parts that draw the picture,
without EXIF, colour profiles, text and thumbnails. This module reads the EXIF orientation and
applies the colour profile (`colours`); it keeps neither.

The limits admit a photo of a 40 megapixel camera, in at most `BYTES_PER_PIXEL` bytes of memory for
each of its pixels. No file takes more than seconds.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from PIL import Image, ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from containers.diffusion.pictures.colours import (
    MAX_PROFILE_BYTES,
    ColoursUnreadableError,
    profile_of,
    to_srgb,
)
from containers.diffusion.pictures.other_formats import name_of_no_picture, name_of_other
from containers.runtime.errors import ContainerError

__all__ = [
    "BYTES_PER_PIXEL",
    "LONGEST_SIDE",
    "MAX_FILE_BYTES",
    "MAX_PIXELS",
    "SHORTEST_SIDE",
    "DecodedImage",
    "HostileImageError",
    "ImageFormat",
    "RefusedImageError",
    "decode_image",
    "read_file",
    "read_image",
]

ImageFormat = Literal["PNG", "JPEG", "WebP"]
Change = Literal["rotated", "flattened", "converted", "recoloured", "profile_ignored", "reduced"]

MAX_FILE_BYTES: Final = 32 << 20
"""Largest file read, in bytes: a photo of 12 megapixels as PNG takes about 20 MB."""

MAX_PIXELS: Final = 40_000_000
"""Most pixels decoded, width times height."""

SHORTEST_SIDE: Final = 16
LONGEST_SIDE: Final = 8192
"""Bounds of width and height, in pixels."""

BYTES_PER_PIXEL: Final = 20
"""Peak of memory while decoding, per pixel of the file: 17 were measured for WebP, 10 for other
types."""

MAX_PARTS: Final = 20_000
"""Most chunks or segments in one file: a PNG of `MAX_FILE_BYTES` in the usual chunks of 8 KiB has
4,096."""

MAX_SCANNED_PIXELS: Final = 16 * MAX_PIXELS
"""Most pixels times scans of a JPEG. Each scan of a progressive JPEG passes over the whole picture;
ten are usual. Thousands of empty scans in a small file would take hours."""

ONE_COLOUR_RANGE: Final = 8
"""Largest difference within each channel, of 255, in a picture that counts as one colour; JPEG adds
as much to a plain one."""

_BEGINNING: Final = 4096
"""Bytes that tell a file's type."""

_WHITE: Final = (255, 255, 255)
_PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_DEEP: Final = 16
"""Bits of a sample, in a PNG's header."""

_JPEG_SIGNATURE: Final = b"\xff\xd8\xff"
_PNG_DRAWS: Final = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
_PNG_COLOURS: Final = frozenset({b"iCCP", b"sRGB", b"gAMA", b"cHRM"})
_ICC_SEGMENT: Final = b"ICC_PROFILE\0"
_ORIENTATION_TAG: Final = 0x0112  # EXIF 2.32, 4.6.4
_SHORT: Final = 3
_TRANSPOSITIONS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that turns a picture upright, by its EXIF orientation."""


class RefusedImageError(ContainerError, ValueError):
    """A picture that cannot be used.

    `problem` is a short key for counting. `reason` names the fault and ends a sentence that begins
    with the file's name. `cure` is a sentence.
    """

    def __init__(self, problem: str, reason: str, cure: str) -> None:
        super().__init__(problem, reason, cure)
        self.problem = problem
        self.reason = reason
        self.cure = cure

    def __str__(self) -> str:
        return f"The image {self.reason}. {self.cure}"


class HostileImageError(RefusedImageError):
    """A picture that no camera or drawing program writes, or that would cost too much to read. It
    is not an honest mistake."""


@dataclass(frozen=True)
class DecodedImage:
    """A picture as a person sees it: RGB, upright, without transparency or metadata.

    `width` and `height` are those of the whole picture, upright, in pixels; `image` may have been
    reduced. `changes` lists the changes made to it.
    """

    image: Image.Image
    format: ImageFormat
    width: int
    height: int
    changes: frozenset[Change]

    @property
    def one_colour(self) -> bool:
        """Whether there is nothing to see."""
        bands = np.asarray(self.image).reshape(-1, 3)
        return bool((bands.max(axis=0).astype(int) - bands.min(axis=0) <= ONE_COLOUR_RANGE).all())


@dataclass(frozen=True)
class _Header:
    """A file's description of itself before it is decoded; `drawn` is the file reduced to the parts
    that draw the picture.

    `profile` is its ICC profile, or None; an empty profile marks one that cannot be read.
    """

    format: ImageFormat
    width: int
    height: int
    frames: int
    orientation: int
    drawn: bytes
    profile: bytes | None = None
    scans: int = 1


def read_image(source: Path | bytes, longest: int | None = None) -> Image.Image:
    """The picture in a file or its bytes as `decode_image` gives it; raises `RefusedImageError`,
    `OSError`."""
    if isinstance(source, Path):
        source = read_file(source)
    return decode_image(source, longest).image


def read_file(path: Path) -> bytes:
    """The bytes of a picture's file. Raises `OSError`, and `RefusedImageError` for a file that is
    too large. A large file of another type is refused for its type."""
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        with path.open("rb") as file:
            _refuse_other_types(file.read(_BEGINNING))
        raise _too_many_bytes(size)
    return path.read_bytes()


def decode_image(content: bytes, longest: int | None = None) -> DecodedImage:
    """Check and decode a PNG, JPEG or WebP.

    The EXIF orientation is applied, transparency is laid on white, and grey, palette, CMYK and
    16-bit pictures become RGB of 8 bits. Colours are brought from the file's profile to sRGB; a
    profile that cannot be used is ignored, as `changes` says. With `longest`, a picture whose
    longer side has more pixels is reduced to that many, never enlarged.

    Raises:
        HostileImageError: the content is a program, an archive or the like, or is made to exhaust
            its reader.
        RefusedImageError: it is empty, truncated, corrupt, animated, too small or of another type.
    """
    if not content:
        raise RefusedImageError("empty", "is empty", "Upload the file again.")
    _refuse_other_types(content)
    if len(content) > MAX_FILE_BYTES:
        raise _too_many_bytes(len(content))
    header = _header(content)
    _check(header)
    try:
        image, changes = _decode(header, longest)
    except Exception as error:  # a decoder raises any type of error on strange bytes
        # Their messages may quote the file.
        raise RefusedImageError("corrupt", "cannot be decoded", "Export it again.") from error
    turned = header.orientation >= 5
    width, height = (header.height, header.width) if turned else (header.width, header.height)
    return DecodedImage(image, header.format, width, height, frozenset(changes))


def _decode(header: _Header, longest: int | None) -> tuple[Image.Image, set[Change]]:
    changes: set[Change] = set()
    image = _plain(_loaded(header, longest))
    longer = max(header.width, header.height)
    if longest is not None and longer > longest:
        width, height = (
            max(1, round(side * longest / longer)) for side in (header.width, header.height)
        )
        # Pillow weighs by alpha here, so that transparent pixels do not colour their neighbours.
        image = image.resize((width, height), Image.Resampling.LANCZOS)
        changes.add("reduced")
    alpha = image.getchannel("A") if image.mode in ("RGBA", "LA") else None
    if alpha is not None:
        image = image.convert(image.mode.removesuffix("A"))
    if header.profile is not None:
        try:
            recoloured = to_srgb(image, header.profile)
        except ColoursUnreadableError:
            changes.add("profile_ignored")
        else:
            if recoloured is not None:
                image = recoloured
                changes.add("recoloured")
    if image.mode != "RGB":
        image = image.convert("RGB")
        changes.add("converted")
    if alpha is not None:
        if alpha.getextrema() != (255, 255):
            changes.add("flattened")
        ground = Image.new("RGB", image.size, _WHITE)
        ground.paste(image, mask=alpha)
        image = ground
    if header.orientation in _TRANSPOSITIONS:
        image = image.transpose(_TRANSPOSITIONS[header.orientation])
        changes.add("rotated")
    # it would hold on to the compressed bytes and the decoder
    if isinstance(image, ImageFile.ImageFile):
        image = image.copy()
    image.info = {}
    return image, changes


def _plain(image: Image.Image) -> Image.Image:
    """The same picture in a mode that can be resized: L, LA, RGB, RGBA or CMYK, of 8 bits."""
    # 16 bits of grey, read by their upper byte as Pillow reads 16-bit colours
    if image.mode.startswith("I"):
        samples = np.asarray(image)
        grey = Image.fromarray((samples >> 8).astype(np.uint8))
        clear = image.info.get("transparency")
        if isinstance(clear, int):
            grey.putalpha(Image.fromarray(np.where(samples == clear, 0, 255).astype(np.uint8)))
        return grey
    if image.mode in ("L", "LA", "RGB", "RGBA", "CMYK") and not (
        image.has_transparency_data and image.mode in ("L", "RGB")
    ):
        return image
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image.convert("L" if image.mode == "1" else "RGB")


def _loaded(header: _Header, longest: int | None) -> ImageFile.ImageFile:
    stream = io.BytesIO(header.drawn)
    image: ImageFile.ImageFile
    # Open by class, because Image.open would try other formats and follow data that phones append
    # to a JPEG.
    match header.format:
        case "PNG":
            image = PngImageFile(stream)
        case "JPEG":
            image = JpegImageFile(stream)
        case "WebP":
            image = WebPImageFile(stream)
    if image.size != (header.width, header.height):
        raise ValueError(
            f"it tells two sizes, {header.width} × {header.height} and {image.width} × "
            f"{image.height}"
        )
    if longest is not None:
        # Decode a JPEG at a half, a quarter or an eighth where that is no smaller than the wanted
        # size.
        image.draft(None, (longest, longest))
    image.load()
    clear = image.info.get("transparency")
    if header.format == "PNG" and isinstance(clear, tuple) and header.drawn[24] == _DEEP:
        # Pillow keeps only the upper byte of 16-bit samples, but both bytes of the transparent
        # colour.
        image.info["transparency"] = tuple(sample >> 8 for sample in clear)
    return image


def _check(header: _Header) -> None:
    width, height = header.width, header.height
    if width * height > MAX_PIXELS or max(width, height) > LONGEST_SIDE:
        raise HostileImageError(
            "too_large",
            f"is {width:,} × {height:,} pixels; at most {MAX_PIXELS // 1_000_000} million pixels "
            f"and {LONGEST_SIDE:,} a side "
            "are decoded",
            "Reduce it; 1,024 pixels a side are enough.",
        )
    if header.scans * width * height > MAX_SCANNED_PIXELS:
        raise HostileImageError(
            "too_many_scans",
            f"is a JPEG of {width:,} × {height:,} pixels in {header.scans:,} scans",
            "Save it as a baseline JPEG.",
        )
    if min(width, height) < SHORTEST_SIDE:
        raise RefusedImageError(
            "too_small",
            f"is {width} × {height} pixels; at least {SHORTEST_SIDE} a side are needed",
            "Upload it in a larger size.",
        )
    if header.frames > 1:
        raise RefusedImageError("animated", "is animated", "Upload one of its frames as a picture.")


def _too_many_bytes(size: int) -> HostileImageError:
    return HostileImageError(
        "too_many_bytes",
        f"has {size:,} bytes; at most {MAX_FILE_BYTES:,} are read",
        "Reduce it; 1,024 pixels a side are enough.",
    )


def _truncated() -> RefusedImageError:
    return RefusedImageError("truncated", "is truncated", "Upload the file again.")


def _corrupt(what: str) -> RefusedImageError:
    return RefusedImageError("corrupt", f"is corrupt ({what})", "Export it again.")


def _too_many_parts() -> HostileImageError:
    return HostileImageError(
        "too_many_parts", f"consists of more than {MAX_PARTS:,} parts", "Export it again."
    )


def _header(content: bytes) -> _Header:
    if content.startswith(_PNG_SIGNATURE):
        return _png_header(content)
    if content.startswith(_JPEG_SIGNATURE):
        return _jpeg_header(content)
    return _webp_header(content)


def _refuse_other_types(begin: bytes) -> None:
    webp = begin.startswith(b"RIFF") and begin[8:12] == b"WEBP"
    if webp or begin.startswith((_PNG_SIGNATURE, _JPEG_SIGNATURE)):
        return
    no_picture = name_of_no_picture(begin)
    if no_picture is not None:
        raise HostileImageError(
            "no_picture",
            f"is {no_picture}, whatever its name says",
            "Upload pictures alone, as PNG, JPEG or WebP.",
        )
    raise RefusedImageError(
        "other_type",
        f"is {name_of_other(begin)}, whatever its name says",
        "Save it as PNG, JPEG or WebP.",
    )


def _png_header(content: bytes) -> _Header:
    """PNG (W3C, third edition), 5.3: chunks of length, type, data and CRC; 11.2.1: IHDR; acTL
    counts an animation's frames."""
    width, height, frames, orientation = 0, 0, 1, 1
    drawn = [_PNG_SIGNATURE]
    about: dict[bytes, bytes] = {}
    at = len(_PNG_SIGNATURE)
    for _ in range(MAX_PARTS):
        if at + 12 > len(content):
            raise _truncated()
        length, kind = struct.unpack_from(">I4s", content, at)
        end = at + 12 + length
        if end > len(content):
            raise _truncated()
        if (kind == b"IHDR") != (at == len(_PNG_SIGNATURE)):
            raise _corrupt("its header is not its first chunk")
        if kind == b"IHDR":
            if length != 13:
                raise _corrupt("its header has another length")
            width, height = struct.unpack_from(">II", content, at + 8)
        elif kind == b"acTL" and length >= 4:
            frames = max(frames, struct.unpack_from(">I", content, at + 8)[0])
        elif kind == b"eXIf":
            orientation = _orientation(content[at + 8 : end - 4])
        elif kind in _PNG_COLOURS:
            about.setdefault(kind, content[at + 8 : end - 4])
        if kind in _PNG_DRAWS:
            drawn.append(content[at:end])
        if kind == b"IEND":
            return _Header(
                "PNG", width, height, frames, orientation, b"".join(drawn), _png_profile(about)
            )
        at = end
    raise _too_many_parts()


def _png_profile(chunks: dict[bytes, bytes]) -> bytes | None:
    """The colours of a PNG (third edition, 4.3): iCCP before sRGB before gAMA with cHRM."""
    if b"iCCP" in chunks:
        _, _, rest = chunks[b"iCCP"].partition(b"\0")
        decoder = zlib.decompressobj()
        try:
            profile = decoder.decompress(rest[1:], MAX_PROFILE_BYTES + 1)
        except zlib.error:
            return b""
        return profile if decoder.eof and rest[:1] == b"\0" else b""
    if b"sRGB" in chunks or len(chunks.get(b"gAMA", b"")) != 4:
        return None
    gamma = struct.unpack(">I", chunks[b"gAMA"])[0] / 100_000
    points = chunks.get(b"cHRM", b"")
    return profile_of(
        gamma,
        [value / 100_000 for value in struct.unpack(">8I", points)] if len(points) == 32 else None,
    )


def _jpeg_profile(segments: list[bytes]) -> bytes | None:
    """An ICC profile out of its segments (ICC.1:2022, B.4), each with its number from 1 and how
    many there are."""
    if not segments:
        return None
    parts = {segment[0]: segment[2:] for segment in segments if len(segment) >= 2}
    counts = {segment[1] for segment in segments if len(segment) >= 2}
    whole = (
        len(parts) == len(segments)
        and counts == {len(parts)}
        and sorted(parts) == list(range(1, len(parts) + 1))
    )
    return b"".join(parts[number] for number in sorted(parts)) if whole else b""


def _jpeg_header(content: bytes) -> _Header:
    """JPEG (ITU-T T.81), B.1.1 and B.2.2: marker segments up to the first scan; the rest is passed
    on unchanged."""
    width, height, orientation = 0, 0, 1
    drawn = [content[:2]]
    profile: list[bytes] = []
    at = 2
    for _ in range(MAX_PARTS):
        if at + 4 > len(content):
            raise _truncated()
        marker, kind = content[at], content[at + 1]
        if marker == 0xFF and kind == 0xFF:  # fill
            at += 1
            continue
        if marker != 0xFF or kind in (0x00, 0x01, 0xD8, 0xD9) or 0xD0 <= kind <= 0xD7:
            raise _corrupt("its segments do not follow one another")
        length = struct.unpack_from(">H", content, at + 2)[0]
        end = at + 2 + length
        if length < 2:
            raise _corrupt("a segment has no length")
        if end > len(content):
            raise _truncated()
        if kind == 0xDA:
            if not width or not height:
                raise _corrupt("it does not tell its size before its first scan")
            drawn.append(content[at:])
            # In a scan's data 0xFF precedes only 0x00 or a restart marker. The count therefore
            # holds scans alone, and a few of the pictures that phones append.
            scans = content.count(b"\xff\xda", at)
            return _Header(
                "JPEG",
                width,
                height,
                1,
                orientation,
                b"".join(drawn),
                _jpeg_profile(profile),
                scans,
            )
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            if width or height or length < 7:
                raise _corrupt("it tells its size twice or not at all")
            height, width = struct.unpack_from(">HH", content, at + 5)
        if kind == 0xE1 and content.startswith(b"Exif\0\0", at + 4):
            orientation = _orientation(content[at + 10 : end])
        if kind == 0xE2 and content.startswith(_ICC_SEGMENT, at + 4):
            profile.append(content[at + 4 + len(_ICC_SEGMENT) : end])
        # Only Adobe's application segment says how colours are coded.
        if not (0xE0 <= kind <= 0xEF or kind == 0xFE) or kind == 0xEE:
            drawn.append(content[at:end])
        at = end
    raise _too_many_parts()


def _webp_header(content: bytes) -> _Header:
    """WebP container (RFC 9649, 2.3 to 2.7), with the sizes of its bitstreams (2.5, 2.6, 3.4)."""
    riff = 8 + int.from_bytes(content[4:8], "little")
    if riff > len(content):
        raise _truncated()
    size: tuple[int, int] | None = None
    frames, orientation = 1, 1
    animated = False
    profile: bytes | None = None
    for kind, data in _webp_chunks(content[:riff]):
        if size is None:
            size = _webp_size(kind, data)
            if size is None:
                raise _corrupt("it does not begin with its size")
            animated = kind == b"VP8X" and bool(data[0] & 0x02)
        elif kind == b"ANMF":
            frames += 1
        elif kind == b"EXIF":
            orientation = _orientation(data.removeprefix(b"Exif\0\0"))
        elif kind == b"ICCP" and profile is None:
            profile = data
    if size is None:
        raise _truncated()
    return _Header(
        "WebP", *size, max(frames, 2 if animated else 1), orientation, content[:riff], profile
    )


def _webp_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 12
    for _ in range(MAX_PARTS):
        if at == len(content):
            return
        if at + 8 > len(content):
            raise _truncated()
        kind, length = struct.unpack_from("<4sI", content, at)
        if at + 8 + length > len(content):
            raise _truncated()
        yield kind, content[at + 8 : at + 8 + length]
        at = min(at + 8 + length + length % 2, len(content))
    raise _too_many_parts()


def _webp_size(kind: bytes, data: bytes) -> tuple[int, int] | None:
    """Width and height by a file's first chunk."""
    if kind == b"VP8X" and len(data) >= 10:
        return int.from_bytes(data[4:7], "little") + 1, int.from_bytes(data[7:10], "little") + 1
    if kind == b"VP8 " and len(data) >= 10 and data[3:6] == b"\x9d\x01\x2a":
        return int.from_bytes(data[6:8], "little") & 0x3FFF, int.from_bytes(
            data[8:10], "little"
        ) & 0x3FFF
    if kind == b"VP8L" and len(data) >= 5 and data[0] == 0x2F:
        bits = int.from_bytes(data[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return None


def _orientation(exif: bytes) -> int:
    """The orientation in the first directory of a TIFF structure (EXIF 2.32, 4.5 and 4.6.4), 1
    where none can be read.

    Pillow's reader is not used, because it warns about each unusual tag and only this tag matters.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None or len(exif) < 8:
        return 1
    at = struct.unpack_from(order + "I", exif, 4)[0]
    if at + 2 > len(exif):
        return 1
    for entry in range(at + 2, at + 2 + 12 * struct.unpack_from(order + "H", exif, at)[0], 12):
        if entry + 12 > len(exif):
            return 1
        tag, kind, _, value = struct.unpack_from(order + "HHIH", exif, entry)
        if tag == _ORIENTATION_TAG and kind == _SHORT:
            return int(value)
    return 1
