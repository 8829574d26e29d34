"""Repairs of a picture: its orientation, transparency, depth and size; its metadata are removed."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from containers.diffusion.pictures.images import decode_image
from containers.diffusion.pictures.preparation import read_prepared
from tests.containers.diffusion.pictures.uploads import (
    good_files,
    half_transparent,
    icon,
    prepared,
    saved,
    with_orientation,
    written,
)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(kind: str, orientation: int) -> None:
    corners = np.zeros((32, 48, 3), np.uint8)
    corners[:16, :24] = (250, 0, 0)
    corners[16:, 24:] = (0, 0, 250)
    corners[:16, 24:] = (0, 250, 0)
    upright = Image.fromarray(corners)
    # A camera stores the picture that the orientation turns upright.
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
    pixels = np.zeros((64, 64, 4), np.uint8)  # black where transparent
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
