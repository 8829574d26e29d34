"""Converts a file's colours to sRGB by its ICC profile (ICC.1:2022) or by a PNG's gamma."""

import io
import struct
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from containers.runtime.errors import ContainerError

MAX_PROFILE_BYTES: Final = 4 << 20
"""Largest profile read, in bytes; profiles of printing presses take up to 3 MB."""

_DEVICES: Final = frozenset({b"scnr", b"mntr", b"prtr", b"spac"})
"""Profile classes that define a picture's colours; other classes link devices, name colours or
change looks."""

_SAME: Final = 2
"""Largest difference, of 255, that a profile may make to any colour and still count as sRGB."""

_SRGB: Final = ImageCms.createProfile("sRGB")
_SRGB_GAMMA: Final = 1 / 2.2
_SRGB_POINTS: Final = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
"""x and y of white, red, green and blue (IEC 61966-2-1)."""

_D50: Final = np.array([0.9642, 1.0, 0.8249])
_BRADFORD: Final = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)


class ColoursUnreadableError(ContainerError, ValueError):
    """A profile is broken, too large, or made for another kind of picture."""


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image | None:
    """A picture of mode L, RGB or CMYK in sRGB by its profile; None where the profile says sRGB
    already.

    Raises `ColoursUnreadableError`.
    """
    if (
        not 128 <= len(profile) <= MAX_PROFILE_BYTES
        or profile[36:40] != b"acsp"
        or profile[12:16] not in _DEVICES
    ):
        raise ColoursUnreadableError
    space = {b"GRAY": "L", b"RGB ": "RGB", b"CMYK": "CMYK"}.get(profile[16:20])
    if image.mode == "L" and space == "RGB":
        image = image.convert("RGB")
    if space is None or image.mode != space:
        raise ColoursUnreadableError
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            _SRGB,
            space,
            "RGB",
            ImageCms.Intent.PERCEPTUAL,
        )
        if space != "CMYK":
            probe = _probe(space)
            seen = np.asarray(ImageCms.applyTransform(probe, transform)).astype(int)
            if np.abs(seen - np.asarray(probe.convert("RGB"))).max() <= _SAME:
                return None
        return ImageCms.applyTransform(image, transform)
    except Exception as error:  # littleCMS raises any type of error on strange bytes
        raise ColoursUnreadableError from error


def _probe(mode: str) -> Image.Image:
    """Colours all over a mode's range, a pixel each."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    levels = np.arange(0, 256, 51, dtype=np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3))


def profile_of(gamma: float, points: Sequence[float] | None) -> bytes | None:
    """A profile for a PNG's gAMA and cHRM (third edition, 11.3.2): samples are light to the power
    of ``gamma``.

    ``points`` are x and y of white, red, green and blue, by default those of sRGB. Returns None
    where both are sRGB's, which programs write for sRGB itself. Returns no bytes where the values
    cannot be colours.
    """
    usual = points is None or np.allclose(points, _SRGB_POINTS, atol=0.005)
    if usual and abs(gamma - _SRGB_GAMMA) < 0.02:
        return None
    xy = np.array(_SRGB_POINTS if points is None else points).reshape(4, 2)
    if not 0.1 <= gamma <= 10 or (xy[:, 1] <= 0).any() or (xy > 2).any():
        return b""
    white, *primaries = [np.array([x / y, 1.0, (1 - x - y) / y]) for x, y in xy]
    columns = np.array(primaries).T
    if abs(np.linalg.det(columns)) < 1e-6:
        return b""
    columns = columns * np.linalg.solve(columns, white)
    # Profiles state colours relative to the white D50 (Bradford, ICC.1:2022, annex E).
    cones = np.diag((_BRADFORD @ _D50) / (_BRADFORD @ white))
    columns = np.linalg.inv(_BRADFORD) @ cones @ _BRADFORD @ columns
    if not np.isfinite(columns).all() or np.abs(columns).max() > 100:
        return b""
    return _matrix_profile(columns, 1 / gamma)


def _matrix_profile(columns: NDArray[np.float64], exponent: float) -> bytes:
    """A display profile (ICC.1:2022, 8.3.3) of three colours' XYZ and one curve: a version 2
    header, a table, seven tags."""

    def xyz(values: Sequence[float]) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(exponent * 256)) + b"\0\0"
    tags = {b"wtpt": xyz(list(_D50))}
    for name, column in zip((b"r", b"g", b"b"), columns.T, strict=True):
        tags[name + b"XYZ"] = xyz(list(column))
        tags[name + b"TRC"] = curve
    table, data, at = b"", b"", 128 + 4 + 12 * len(tags)
    for tag, content in tags.items():
        table += tag + struct.pack(">II", at + len(data), len(content))
        data += content
    size = at + len(data)
    header = struct.pack(
        ">I4sI4s4s4s12x4s28x3i48x",
        size,
        b"\0\0\0\0",
        0x02400000,
        b"mntr",
        b"RGB ",
        b"XYZ ",
        b"acsp",
        *(round(value * 65536) for value in _D50),
    )
    return header + struct.pack(">I", len(tags)) + table + data
