"""The score of a personal model, on icons drawn in the styles of made-up tenants."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from containers.diffusion.tiny_base.drawing import COLOURS, SHAPES, Style, draw_icon, tenant_style
from containers.diffusion.training.personalisation import (
    ROOM,
    distance,
    meaning_kept,
    nearest,
    score,
)

Pixels = NDArray[np.uint8]

UPLOADED, HELD_OUT = SHAPES[:7], SHAPES[7:] * 2
"""Held-out pictures show shapes that are in no upload."""

TENANTS = range(8)


def drawn(shapes: Sequence[str], style: Style, seed: int, size: int = 32) -> Pixels:
    return np.stack(
        [draw_icon(shape, style, seed + place, size) for place, shape in enumerate(shapes)]
    )


def base_pictures(shapes: Sequence[str], seed: int, size: int = 32) -> Pixels:
    """A base's pictures: shapes in plain colours on plain backgrounds, all different."""
    colours = list(COLOURS.values())
    styles = [
        Style(
            colours[place % 10], None, "plain", colours[(place + 3) % 10], colours[(place + 3) % 10]
        )
        for place in range(len(shapes))
    ]
    return np.stack(
        [draw_icon(shape, styles[place], seed + place, size) for place, shape in enumerate(shapes)]
    )


def as_a_model_draws(pictures: Pixels) -> Pixels:
    """The pictures blurred and noisy, like a small model's."""
    random = np.random.default_rng(0)
    blurred = np.stack(
        [np.asarray(Image.fromarray(each).filter(ImageFilter.GaussianBlur(1))) for each in pictures]
    )
    return np.clip(blurred + random.normal(0, 8, blurred.shape), 0, 255).astype(np.uint8)


def score_of(drawn_by: int, tenant: int) -> float:
    """The score for `tenant` of a model that draws in the style of tenant `drawn_by`."""
    return score(
        base=base_pictures(HELD_OUT, 300),
        tenant=as_a_model_draws(drawn(HELD_OUT, tenant_style(drawn_by), 300)),
        held_out=drawn(HELD_OUT, tenant_style(tenant), 200),
        uploads=drawn(UPLOADED, tenant_style(tenant), 100),
    )


# ---- distance ------------------------------------------------------------------------------------


def test_a_distance_is_zero_for_one_set_symmetric_and_larger_between_styles() -> None:
    first, same = drawn(UPLOADED, tenant_style(0), 0), drawn(UPLOADED, tenant_style(0), 50)
    other = drawn(UPLOADED, tenant_style(1), 0)
    assert distance(first, first) == 0
    assert distance(first, other) == pytest.approx(distance(other, first))
    assert distance(first, other) > 4 * distance(first, same)


def test_the_order_of_pictures_does_not_count_and_what_stands_where_little() -> None:
    pictures = drawn(UPLOADED, tenant_style(3), 0)
    assert distance(pictures, pictures[::-1]) < 1e-6
    moved, other = np.roll(pictures, 7, axis=2), drawn(UPLOADED, tenant_style(4), 0)
    assert distance(pictures, moved) < 0.25 * distance(pictures, other)


def test_black_is_as_far_from_white_as_the_directions_say() -> None:
    """A set of one colour is a point along each direction, so that the distance is the mean of the
    directions' sums."""
    black, white = np.zeros((1, 8, 8, 3), np.uint8), np.full((3, 9, 12, 3), 255, np.uint8)
    # A sum of 75 components of a direction of length 1 is about normal with deviation 1; the mean
    # of |x| is √(2/π) = 0.80.
    assert distance(black, white) == pytest.approx(0.80, abs=0.08)
    assert distance(black, white // 5 * 2) == pytest.approx(0.4 * distance(black, white), rel=1e-4)


def test_bytes_and_floats_are_one() -> None:
    pictures = drawn(UPLOADED, tenant_style(2), 0)
    assert distance(pictures, pictures / 255) < 1e-6


def test_large_pictures_are_compared_at_the_size_of_small_ones() -> None:
    small, large = drawn(UPLOADED, tenant_style(4), 0), drawn(UPLOADED, tenant_style(4), 0, 256)
    assert distance(small, large) < 0.2 * distance(small, drawn(UPLOADED, tenant_style(5), 0, 256))


@pytest.mark.parametrize(
    ("pictures", "says"),
    [
        (np.zeros((32, 32, 3), np.uint8), "shape"),
        (np.zeros((2, 32, 32, 4), np.uint8), "shape"),
        (np.zeros((0, 32, 32, 3), np.uint8), "shape"),
        (np.zeros((2, 4, 32, 3), np.uint8), "shape"),
        (np.zeros((2, 32, 32, 3), np.int64), "int64"),
        (np.full((2, 32, 32, 3), 255.0), "outside 0 to 1"),
        (np.full((2, 32, 32, 3), np.nan), "outside 0 to 1"),
    ],
)
def test_arrays_that_are_no_pictures_are_refused_by_name(
    pictures: NDArray[np.generic], says: str
) -> None:
    good = drawn(UPLOADED, tenant_style(0), 0)
    with pytest.raises(ValueError, match=f"^other .*{says}"):
        distance(good, pictures)
    with pytest.raises(ValueError, match=f"^held_out .*{says}"):
        score(good, good, pictures, good)
    with pytest.raises(ValueError, match=f"^tenant .*{says}"):
        meaning_kept(good, pictures)


# ---- score ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("tenant", TENANTS)
def test_a_model_in_the_tenants_style_scores_about_one_and_in_anothers_less_mostly_none(
    tenant: int,
) -> None:
    own = score_of(tenant, tenant)
    others = [score_of(other, tenant) for other in TENANTS if other != tenant]
    assert 0.75 < own < 1.5
    # A tenant with similar colours but other textures comes near.
    assert max(others) < own - 0.1
    assert float(np.median(others)) < 0


def test_the_base_scores_zero_and_half_the_way_lies_between() -> None:
    base, held_out = base_pictures(HELD_OUT, 300), drawn(HELD_OUT, tenant_style(1), 200)
    uploads = drawn(UPLOADED, tenant_style(1), 100)
    assert score(base, base, held_out, uploads) == pytest.approx(0, abs=1e-6)
    assert score(base, uploads, held_out, uploads) == pytest.approx(1, abs=1e-6)
    half = np.concatenate([base[:3], held_out[:3]])
    assert 0.2 < score(base, half, held_out, uploads) < 0.9


def test_where_the_base_is_as_near_as_the_uploads_the_score_is_finite_and_one_means_as_near() -> (
    None
):
    pictures, other = drawn(HELD_OUT, tenant_style(1), 0), drawn(HELD_OUT, tenant_style(2), 0)
    assert score(pictures, pictures, pictures, pictures) == 1
    astray = score(pictures, other, pictures, pictures)
    assert astray == pytest.approx(1 - distance(other, pictures) / ROOM, rel=1e-4)
    assert astray < 0


def test_the_nearest_set_is_that_of_the_tenant_whose_model_drew() -> None:
    uploads = {f"tenant-{number}": drawn(UPLOADED, tenant_style(number), 100) for number in TENANTS}
    for number in TENANTS:
        assert (
            nearest(uploads, as_a_model_draws(drawn(HELD_OUT, tenant_style(number), 300)))
            == f"tenant-{number}"
        )
    with pytest.raises(ValueError, match="empty"):
        nearest({}, uploads["tenant-0"])


# ---- meaning -------------------------------------------------------------------------------------


def test_equal_pictures_keep_all_meaning_and_exchanged_ones_none() -> None:
    base = base_pictures(SHAPES, 0)
    assert meaning_kept(base, base) == 1
    assert meaning_kept(base, np.roll(base, 1, axis=0)) == 0
    twice = np.concatenate([base[:3], base[:3]])
    assert meaning_kept(twice, twice) == 1


@pytest.mark.parametrize("tenant", TENANTS)
def test_meaning_is_kept_in_any_style(tenant: int) -> None:
    base = base_pictures(SHAPES[:8], 10 * tenant)
    assert (
        meaning_kept(base, as_a_model_draws(drawn(SHAPES[:8], tenant_style(tenant), 10 * tenant)))
        >= 0.75
    )


def test_meaning_is_kept_at_other_sizes() -> None:
    large = drawn(SHAPES[:6], tenant_style(2), 0, 128)
    assert meaning_kept(base_pictures(SHAPES[:6], 0, 32), large) >= 0.75


@pytest.mark.parametrize("tenant", TENANTS)
def test_a_model_that_draws_one_upload_has_lost_its_meaning(tenant: int) -> None:
    base, uploads = base_pictures(SHAPES[:8], 0), drawn(UPLOADED, tenant_style(tenant), 100)
    one = np.repeat(uploads[:1], 8, axis=0)
    assert meaning_kept(base, one) == 0
    assert meaning_kept(base, as_a_model_draws(one)) <= 0.25
    # A tenth of the correct picture in the mixture does not keep the meaning.
    faint = (0.9 * one + 0.1 * drawn(SHAPES[:8], tenant_style(tenant), 0)).astype(np.uint8)
    assert meaning_kept(base, faint) <= 0.25


def test_a_model_that_draws_any_of_its_uploads_keeps_meaning_by_chance_alone() -> None:
    base, random = base_pictures(SHAPES[:8], 0), np.random.default_rng(0)
    kept = [
        meaning_kept(base, drawn(SHAPES, tenant_style(tenant), 100)[random.permutation(8)])
        for tenant in TENANTS
        for _ in range(4)
    ]
    assert float(np.mean(kept)) == pytest.approx(1 / 8, abs=0.08)


def test_meaning_needs_one_picture_of_each_model_for_two_or_more_prompts() -> None:
    base = base_pictures(SHAPES[:3], 0)
    for one, other in ((base, base[:2]), (base[:1], base[:1])):
        with pytest.raises(ValueError, match="two or more prompts"):
            meaning_kept(one, other)
