"""A picture made to do harm causes the refusal of the whole upload, at little cost."""

import io
import pickle
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from containers.diffusion.pictures.images import (
    MAX_FILE_BYTES,
    MAX_PIXELS,
    HostileImageError,
    RefusedImageError,
    read_image,
)
from tests.containers.diffusion.pictures.uploads import (
    good_files,
    half_transparent,
    icon,
    png_chunk,
    png_of,
    refusal,
    saved,
)


def jpeg_of(width: int, height: int, scans: int = 1) -> bytes:
    """A progressive JPEG whose header gives another size, with additional scans."""
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
    """A picture of 400 MB, in a process that may use only 300 MB more than at its start."""
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
