"""Uploads of pictures: the files that preparation writes, with captions, and training's reading of
them."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from containers.diffusion.pictures.preparation import RefusedDataError, clean_text, read_prepared
from containers.diffusion.tiny_base.drawing import SHAPES
from tests.containers.diffusion.pictures.uploads import (
    good_files,
    icon,
    png_of,
    prepared,
    refusal,
    saved,
    written,
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
