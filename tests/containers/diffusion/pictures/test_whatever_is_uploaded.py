"""Every uploaded file is used, left out or refused."""

import json
from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from containers.diffusion.pictures.preparation import FEWEST_IMAGES, RefusedDataError, read_prepared
from tests.containers.diffusion.pictures.uploads import (
    animated,
    half_transparent,
    icon,
    prepared,
    saved,
    with_orientation,
)

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
