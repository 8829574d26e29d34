"""Answers for people: pictures become a contact sheet, and a bad picture affects only itself."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tenantry.shown.answer_preview import answer_for_people


def png(colour: str, side: int = 32) -> str:
    sink = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(sink, format="png")
    return base64.b64encode(sink.getvalue()).decode()


def answer(*images: Any, **more: Any) -> bytes:
    return json.dumps({"version": "v1", "images": list(images), **more}).encode()


def sheet(content: bytes) -> Image.Image:
    picture = answer_for_people(content).picture
    assert picture is not None
    return Image.open(io.BytesIO(picture)).convert("RGB")


def test_numbers_stay_as_they_are() -> None:
    shown = answer_for_people(b'{"mean": [1.5]}')
    assert (shown.document, shown.picture) == ({"mean": [1.5]}, None)
    assert answer_for_people(b"\x89PNG").document == "4 bytes"


def test_pictures_become_a_sheet_with_small_ones_enlarged_and_the_words_lose_the_bytes() -> None:
    content = answer(
        {"prompt": "a red circle", "seed": 7, "png": png("red")},
        {"prompt": "sea", "png": png("blue")},
    )
    shown = answer_for_people(content)
    assert shown.document["images"] == [{"prompt": "a red circle", "seed": 7}, {"prompt": "sea"}]
    drawn = sheet(content)
    assert drawn.size == (2 * 132 + 4, 128 + 16 + 8)
    assert (drawn.getpixel((68, 68)), drawn.getpixel((200, 68))) == ((255, 0, 0), (0, 0, 255))


@pytest.mark.parametrize(
    "bad", [{"png": "!"}, {"png": base64.b64encode(b"GIF89a").decode()}, {"png": 5}, "x", None, {}]
)
def test_what_is_no_picture_is_left_out(bad: Any) -> None:
    assert sheet(answer(bad, {"prompt": "p", "png": png("lime")})).getpixel((68, 68)) == (0, 255, 0)
    assert answer_for_people(answer(bad)).picture is None


def test_a_picture_of_too_many_pixels_is_not_decoded() -> None:
    assert answer_for_people(answer({"png": png("red", 2049)})).picture is None


@settings(max_examples=50)
@given(
    st.recursive(
        st.none() | st.text(max_size=5) | st.integers(),
        lambda c: (
            st.lists(c, max_size=3)
            | st.dictionaries(st.sampled_from(["images", "png", "prompt"]), c, max_size=3)
        ),
        max_leaves=10,
    )
)
def test_whatever_a_container_answers_is_shown(document: Any) -> None:
    assert answer_for_people(json.dumps(document).encode()).picture is None
