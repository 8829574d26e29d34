"""A request's JSON: its meaning, and its faults by field."""

import json
from typing import Any

import pytest

from containers.diffusion.serving.request import (
    Drawing,
    PictureRequest,
    RefusedPictureRequestError,
    Terms,
)

TERMS = Terms(
    steps=12,
    max_steps=150,
    guidance=2.5,
    size=32,
    max_size=48,
    size_multiple=8,
    timeout_seconds=50.0,
    max_timeout_seconds=55.0,
)


def parse(body: Any, accept: str = "application/json") -> PictureRequest:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return PictureRequest.parse(content, accept, ("a star", "a heart"), TERMS)


def test_a_prompt_is_enough() -> None:
    request = parse({"prompt": "a circle"})
    (drawing,) = request.drawings
    assert drawing == Drawing("a circle", None, drawing.seed, 12, 2.5, 32, 32)
    assert 0 <= drawing.seed < 2**32
    assert (request.format, request.timeout_seconds) == ("json", 50.0)
    assert parse({"prompt": "a circle"}).drawings[0].seed != drawing.seed


def test_all_that_is_asked_for_is_drawn() -> None:
    asked = {
        "negative_prompt": "grey",
        "steps": 3,
        "guidance": 0,
        "width": 40,
        "height": 8,
        "timeout_seconds": 1,
    }
    request = parse({"prompts": ["a", "b"], "count": 2, "seed": 5, "format": "json", **asked})
    assert request.drawings == tuple(
        Drawing(text, "grey", seed, 3, 0.0, 40, 8) for text in "ab" for seed in (5, 6)
    )
    assert request.timeout_seconds == 1.0


def test_a_model_has_prompts_of_its_own() -> None:
    assert [drawing.prompt for drawing in parse({"prompts": "own"}).drawings] == [
        "a star",
        "a heart",
    ]


def test_what_is_null_is_as_if_it_were_not_there() -> None:
    empty = dict.fromkeys(
        ("negative_prompt", "steps", "guidance", "width", "height", "count", "format")
    )
    assert parse({"prompt": "a", "seed": 1, **empty}) == parse({"prompt": "a", "seed": 1})
    assert parse({"prompt": "a", "seed": 1, "negative_prompt": " "}) == parse(
        {"prompt": "a", "seed": 1}
    )


@pytest.mark.parametrize(
    ("accept", "more", "expected"),
    [
        ("*/*", {}, "json"),
        ("", {}, "json"),
        ("image/png", {}, "png"),
        ("IMAGE/PNG; q=0.9, application/json", {}, "png"),
        ("application/json, image/png", {}, "json"),
        ("image/png, application/json", {"count": 2}, "json"),
        ("text/html, image/*", {}, "png"),
        ("application/json", {"format": "png"}, "png"),
        ("image/png", {"format": "json"}, "json"),
    ],
)
def test_the_answer_has_the_form_that_is_asked_for(
    accept: str, more: dict[str, Any], expected: str
) -> None:
    assert parse({"prompt": "a", **more}, accept).format == expected


def test_cost_is_what_the_unet_has_to_do() -> None:
    drawing = parse({"prompt": "a", "steps": 10, "width": 16, "height": 8, "guidance": 1}).drawings[
        0
    ]
    assert drawing.cost == 10 * 16 * 8
    assert (
        parse({"prompt": "a", "steps": 10, "width": 16, "height": 8}).drawings[0].cost
        == 2 * drawing.cost
    )


@pytest.mark.parametrize(
    ("body", "field", "code"),
    [
        (b"{", None, "body_not_json"),
        (b"\xff", None, "body_not_json"),
        (b"[" * 100_000, None, "body_not_json"),
        (b" " * 300_000, None, "body_too_large"),
        ([], None, "body_no_object"),
        ({}, "prompt", "prompt_missing_or_twice"),
        ({"prompt": "a", "prompts": ["b"]}, "prompt", "prompt_missing_or_twice"),
        ({"prompt": 1}, "prompt", "prompt_no_text"),
        ({"prompt": " \n"}, "prompt", "prompt_no_text"),
        ({"prompt": "x" * 1001}, "prompt", "prompt_no_text"),
        (b'{"prompt": "\\ud800"}', "prompt", "prompt_not_utf8"),
        ({"prompts": "mine"}, "prompts", "prompts_no_list"),
        ({"prompts": []}, "prompts", "prompts_no_list"),
        ({"prompts": ["a"] * 65}, "prompts", "prompts_no_list"),
        ({"prompts": ["a", None]}, "prompts", "prompts_no_text"),
        ({"prompts": ["a"] * 33, "count": 2}, "count", "too_many_pictures"),
        ({"prompt": "a", "negative_prompt": 5}, "negative_prompt", "negative_prompt_no_text"),
        ({"prompt": "a", "seed": -1}, "seed", "seed_out_of_bounds"),
        ({"prompt": "a", "seed": 2**53}, "seed", "seed_out_of_bounds"),
        ({"prompt": "a", "seed": True}, "seed", "seed_out_of_bounds"),
        ({"prompt": "a", "seed": 1.0}, "seed", "seed_out_of_bounds"),
        ({"prompt": "a", "steps": 0}, "steps", "steps_out_of_bounds"),
        ({"prompt": "a", "steps": 10**9}, "steps", "steps_out_of_bounds"),
        ({"prompt": "a", "guidance": "high"}, "guidance", "guidance_out_of_bounds"),
        ({"prompt": "a", "guidance": 31}, "guidance", "guidance_out_of_bounds"),
        ({"prompt": "a", "guidance": 10**400}, "guidance", "guidance_out_of_bounds"),
        (b'{"prompt": "a", "guidance": NaN}', "guidance", "guidance_out_of_bounds"),
        (b'{"prompt": "a", "guidance": Infinity}', "guidance", "guidance_out_of_bounds"),
        ({"prompt": "a", "width": 10_000, "height": 10_000}, "width", "width_out_of_bounds"),
        ({"prompt": "a", "width": 12}, "width", "width_no_multiple"),
        ({"prompt": "a", "height": 56}, "height", "height_out_of_bounds"),
        ({"prompt": "a", "height": 0}, "height", "height_out_of_bounds"),
        ({"prompt": "a", "count": 9}, "count", "count_out_of_bounds"),
        ({"prompt": "a", "count": 0}, "count", "count_out_of_bounds"),
        ({"prompt": "a", "format": "gif"}, "format", "format_unknown"),
        ({"prompt": "a", "format": "png", "count": 2}, "format", "png_of_several"),
        ({"prompt": "a", "timeout_seconds": 0}, "timeout_seconds", "timeout_seconds_out_of_bounds"),
        (
            {"prompt": "a", "timeout_seconds": 56},
            "timeout_seconds",
            "timeout_seconds_out_of_bounds",
        ),
        ({"prompt": "a", "sampler": "euler"}, "sampler", "field_unknown"),
        ({"prompt": "a", "x\ny": 1}, None, "field_unknown"),
    ],
)
def test_what_is_wrong_is_told_with_its_field(body: Any, field: str | None, code: str) -> None:
    with pytest.raises(RefusedPictureRequestError) as refused:
        parse(body)
    assert (refused.value.field, refused.value.code) == (field, code)
    assert len(refused.value.message) < 400


def test_a_prompt_in_the_wrong_place_is_not_repeated() -> None:
    for body in (
        {"the red cat of Jane Doe": 1},
        {"prompt": {"Jane Doe": 1}},
        {"prompt": "a", "format": "Jane Doe"},
    ):
        with pytest.raises(RefusedPictureRequestError) as refused:
            parse(body)
        assert "Jane" not in f"{refused.value.message} {refused.value.field}"


@pytest.mark.parametrize(
    ("accept", "count"), [("text/html", 1), ("image/jpeg", 1), ("image/png", 2)]
)
def test_an_answer_that_cannot_be_given_is_told(accept: str, count: int) -> None:
    with pytest.raises(RefusedPictureRequestError) as refused:
        parse({"prompt": "a", "count": count}, accept)
    assert refused.value.field == "Accept"
