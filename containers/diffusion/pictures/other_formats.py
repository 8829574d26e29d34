"""Names the type of a file that is not PNG, JPEG or WebP, from its content and without decoding it.

People upload other pictures, films, and the small files that systems put beside pictures in good
faith. Programs, archives and pages are not uploaded in good faith.
"""

import re
import struct
from typing import Final

_SIGNATURES: Final = (
    (0, b"GIF8", "a GIF"),
    (0, b"BM", "a BMP"),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL"),
    (0, b"\xff\x0a", "a JPEG XL"),
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000"),
    (0, b"II\xbc", "a JPEG XR"),
    (0, b"II+\0", "a BigTIFF"),
    (0, b"MM\0+", "a BigTIFF"),
    (0, b"FUJIFILMCCD-RAW", "a camera's raw file (RAF)"),
    (0, b"IIRO", "a camera's raw file (ORF)"),
    (0, b"IIRS", "a camera's raw file (ORF)"),
    (0, b"MMOR", "a camera's raw file (ORF)"),
    (0, b"IIU\0", "a camera's raw file (RW2)"),
    (0, b"II\x1a\0\0\0HEAPCCDR", "a camera's raw file (CRW)"),
    (0, b"FOVb", "a camera's raw file (X3F)"),
    (0, b"\0MRM", "a camera's raw file (MRW)"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"gimp xcf", "a GIMP file"),
    (0, b"\0\0\1\0", "an icon file"),
    (0, b"\0\0\2\0", "a cursor file"),
    (0, b"icns", "an icon file"),
    (0, b"DDS ", "a DDS"),
    (0, b"\xabKTX ", "a KTX"),
    (0, b"\x76\x2f\x31\x01", "an OpenEXR"),
    (0, b"#?RADIANCE", "a Radiance HDR"),
    (0, b"#?RGBE", "a Radiance HDR"),
    (0, b"qoif", "a QOI"),
    (0, b"FLIF", "a FLIF"),
    (0, b"BPG\xfb", "a BPG"),
    (0, b"\x8aMNG", "an MNG"),
    (0, b"\x8bJNG", "a JNG"),
    (0, b"\x01\xda", "an SGI picture"),
    (0, b"\x59\xa6\x6a\x95", "a Sun raster"),
    (0, b"\x0a\x05\x01", "a PCX"),
    (0, b"\xd7\xcd\xc6\x9a", "a WMF"),
    (40, b" EMF", "an EMF"),
    (0, b"%!PS", "a PostScript file"),
    (0, b"\xc5\xd0\xd3\xc6", "a PostScript file"),
    (0, b"AT&TFORM", "a DjVu"),
    (128, b"DICM", "a DICOM"),
    (0, b"SIMPLE  =", "a FITS"),
    (0, b"\0\xffKA", "an Affinity file"),
    (30, b"mimetypeimage/openraster", "an OpenRaster"),
    (30, b"mimetypeapplication/x-krita", "a Krita file"),
    (0, b"\x1aE\xdf\xa3", "a film"),
    (0, b"\0\0\1\xba", "a film"),
    (0, b"\0\0\1\xb3", "a film"),
    (0, b"\x30\x26\xb2\x75", "a film"),
    (8, b"AVI ", "a film"),
    (8, b"ACON", "an animated cursor"),
    (0, b"\0\x05\x16\x07", "a file of macOS beside another"),
    (0, b"\0\x05\x16\0", "a file of macOS beside another"),
    (0, b"\0\0\0\1Bud1", "a folder's view of macOS"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a store of thumbnails or an old Office file"),
)
"""Signatures and their offsets, mostly from the formats' own specifications."""

_NO_PICTURES: Final = (
    (0, b"\x7fELF", "a program"),
    (0, b"MZ", "a program"),
    (0, b"\xfe\xed\xfa", "a program"),
    (0, b"\xce\xfa\xed\xfe", "a program"),
    (0, b"\xcf\xfa\xed\xfe", "a program"),
    (0, b"\xca\xfe\xba\xbe", "a program"),
    (0, b"\0asm", "a program"),
    (0, b"#!", "a program"),
    (0, b"PK\x03\x04", "an archive"),
    (0, b"PK\x05\x06", "an archive"),
    (0, b"\x1f\x8b", "an archive"),
    (0, b"BZh", "an archive"),
    (0, b"\xfd7zXZ", "an archive"),
    (0, b"\x28\xb5\x2f\xfd", "an archive"),
    (0, b"7z\xbc\xaf", "an archive"),
    (0, b"Rar!", "an archive"),
    (257, b"ustar", "an archive"),
    (8, b"WAVE", "a sound"),
)

_BRANDS: Final = (
    (re.compile(rb"avi[fso]"), "an AVIF"),
    (re.compile(rb"crx "), "a camera's raw file (CR3)"),
    (re.compile(rb"he[ivm][a-z]|mif[12]|msf1|miaf"), "a HEIC"),
    (re.compile(rb"jxl "), "a JPEG XL"),
    (re.compile(rb"jp[2xm] |jpx "), "a JPEG 2000"),
)
"""The brands of still pictures among ISO base media files (ISO/IEC 14496-12, 4.3)."""

_ATOMS: Final = frozenset({b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"})
_PICKLE: Final = re.compile(rb"\x80[\x02-\x05]")
_PAGE: Final = re.compile(rb"<!doctype html|<html|<script|<\?php", re.IGNORECASE)
_PROLOGUE: Final = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?=<)")
_NETPBM: Final = re.compile(rb"P[1-7Ff]\s")
_BEGIN: Final = 4096

_MAKE: Final = 0x010F
_SUB_IFDS: Final = 0x014A
_DNG_VERSION: Final = 0xC612


def name_of_no_picture(content: bytes) -> str | None:
    """The type of a file that does not belong among pictures, such as "an archive"; None for all
    others."""
    if _found(content, _SIGNATURES) is not None:
        return None
    if _PICKLE.match(content):
        return "a pickle"
    prologue = _PROLOGUE.match(content)
    if prologue is not None and _PAGE.match(content, prologue.end()):
        return "a page"
    return _found(content, _NO_PICTURES)


def name_of_other(content: bytes) -> str:
    """The type of a file, such as "a JPEG XL"; "of a type that is not read here" where it is
    unknown."""
    begin = content[:_BEGIN]
    if begin.startswith((b"II*\0", b"MM\0*")):
        return _tiff(content)
    if begin[4:8] == b"ftyp":
        return _media(begin)
    if begin[4:8] in _ATOMS:
        return "a film"
    if b"%PDF-" in begin[:1024]:
        return "a PDF"
    if _PROLOGUE.match(begin) is not None:
        return _markup(begin)
    if _NETPBM.match(begin):
        return "a Netpbm picture"
    if content.endswith(b"TRUEVISION-XFILE.\0"):
        return "a Targa"
    return _found(begin, _SIGNATURES) or "of a type that is not read here"


def _found(content: bytes, signatures: tuple[tuple[int, bytes, str], ...]) -> str | None:
    return next(
        (name for offset, signature, name in signatures if content.startswith(signature, offset)),
        None,
    )


def _media(begin: bytes) -> str:
    """The type by the major brand or by a compatible brand."""
    size = min(struct.unpack_from(">I", begin)[0], len(begin))
    brands = [begin[8:12], *(begin[at : at + 4] for at in range(16, size, 4))]
    # A brand that many types share says less than the others; a file with mif1 and avif is an AVIF.
    for pattern, name in _BRANDS:
        if any(pattern.fullmatch(brand) for brand in brands):
            return name
    return "a film"


def _markup(begin: bytes) -> str:
    lower = begin.lower()
    if b"<svg" in lower or b":svg" in lower:
        return "an SVG"
    if b"<!doctype plist" in lower or b"xmpmeta" in lower or b"<?xpacket" in lower:
        return "a note of a photo program beside a picture"
    return "of a type that is not read here"


def _tiff(content: bytes) -> str:
    """A TIFF, or one of the cameras' raw files that are built like it, by the tags of its first
    directory."""
    if content[8:10] == b"CR":
        return "a camera's raw file (CR2)"
    order = "<" if content.startswith(b"II") else ">"
    at = struct.unpack_from(order + "I", content.ljust(8, b"\0"), 4)[0]
    count = struct.unpack_from(order + "H", content, at)[0] if at + 2 <= len(content) else 0
    entries = range(at + 2, min(at + 2 + 12 * count, len(content) - 11), 12)
    tags = {struct.unpack_from(order + "H", content, entry)[0] for entry in entries}
    if _DNG_VERSION in tags:
        return "a camera's raw file (DNG)"
    return "a camera's raw file (NEF, ARW and others)" if {_MAKE, _SUB_IFDS} <= tags else "a TIFF"
