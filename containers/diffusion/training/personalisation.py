"""How personal a tenant's model is, measured by its pictures alone, and whether the model still
follows its prompts.

Pictures are compared as sets of small patches. Colours count most, then outlines and textures;
positions do not count. The distance of two sets is the sliced Wasserstein distance (Rabin et al.
2011, "Wasserstein barycenter and its application to texture mixing") of their 5 × 5 × 3 patches
over 256 fixed directions. It needs no other model and no GPU: a tenth of a second of one core for
the score of a model by eight pictures a set.

Arrays of pictures are [n, height, width, 3], `uint8` of 0 to 255 or floats of 0 to 1. Pictures of
more than 64 pixels a side are reduced first, and pictures of several sizes to the smallest of them.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["ROOM", "distance", "meaning_kept", "nearest", "score"]

Images = NDArray[Any]
"""[n, height, width, 3], `uint8` of 0 to 255 or floats of 0 to 1."""

Floats = NDArray[np.float32]

LARGEST_SIDE: Final = 64
"""Pixels a side that are compared. At this size a patch spans as much as an eye sees as texture,
and the cost is bounded."""

PATCH: Final = 5
DIRECTIONS: Final = 256
QUANTILES: Final = 512
"""Points at which two distributions along a direction are compared."""

MAX_PATCHES: Final = 8192
"""Most patches compared from one set; larger sets are sampled with a fixed seed. Eight pictures of
32 pixels have 6,272."""

ROOM: Final = 0.02
"""The least distance between the base and a tenant's uploads that `score` divides by."""

STRUCTURE_SIDE: Final = 16
"""Pixels a side at which the structure of pictures is compared. At this size shapes and places are
visible, but hardly textures."""

LEAST_VARIATION: Final = 0.05
"""A model counts as drawing only one picture when its pictures vary with the prompt less than this
share of the base's variation."""


def distance(one: Images, other: Images) -> float:
    """Sliced Wasserstein distance of two sets of pictures, 0 for equal patches.

    It is the mean over the directions, all of length 1, of the Wasserstein-1 distance of the
    patches' positions along each, a channel's range being 1. All black and all white are 0.76
    apart; icons of one style that show different shapes 0.04, icons of two styles 0.06 to 0.25.

    Raises ValueError for arrays that are not pictures.
    """
    first, second = _sampled([_pictures(one, "one"), _pictures(other, "other")])
    return _between(first, second)


def score(base: Images, tenant: Images, held_out: Images, uploads: Images) -> float:
    """How far a tenant's model has moved from the base to the tenant: 0 like the base, 1 as near as
    the uploads. The score is finite.

    `base` and `tenant` are pictures of the two models for the same prompts and seeds. `held_out`
    are the tenant's pictures that training did not see, `uploads` those that it saw. With d as the
    `distance` to `held_out`, the score is (d(base) - d(tenant)) / (d(base) - d(uploads)). It is
    negative for a model that is farther from the tenant than the base, and may exceed 1.

    Where the base is about as near as the uploads, the divisor is small, and 0 and 1 nearly
    coincide. The divisor is then `ROOM`, and 1 keeps its meaning. A model as near as the uploads
    has 1; one that went astray has less, or a negative value.

    Raises ValueError for arrays that are not pictures.
    """
    named = {"base": base, "tenant": tenant, "held_out": held_out, "uploads": uploads}
    of_base, of_tenant, of_held_out, of_uploads = _sampled(
        [_pictures(images, name) for name, images in named.items()]
    )
    from_base, from_tenant = _between(of_base, of_held_out), _between(of_tenant, of_held_out)
    from_uploads = _between(of_uploads, of_held_out)
    # This equals the quotient above where `ROOM` does not replace the divisor.
    return 1.0 - (from_tenant - from_uploads) / max(from_base - from_uploads, ROOM)


def nearest(sets: Mapping[str, Images], images: Images) -> str:
    """The name of the set nearest to the pictures by `distance`: the tenant whose model drew them.

    Raises ValueError for arrays that are not pictures, or without any set.
    """
    if not sets:
        raise ValueError("sets is empty; give at least one set of pictures")
    pictures = [
        _pictures(images, "images"),
        *(_pictures(each, f"sets[{name}]") for name, each in sets.items()),
    ]
    drawn, *known = _sampled(pictures)
    distances = [_between(drawn, each) for each in known]
    return list(sets)[int(np.argmin(distances))]


def meaning_kept(base: Images, tenant: Images) -> float:
    """The share of prompts whose meaning a tenant's model has kept, 0 to 1: a check against
    overfitting.

    `base[i]` and `tenant[i]` are the two models' pictures for prompt i and the same seed; prompts
    should ask for different shapes. A prompt is kept when the tenant's picture is nearer in
    structure to the base's picture for that prompt than to those for the others. Structure is the
    position of edges and of the things between them, regardless of colour and brightness. Features
    common to all pictures of a model (a background, an outline) are removed first. A model that
    ignores the prompt and draws its uploads has about 1 / n. It has 0 if it draws only one picture.

    Raises ValueError for arrays that are not pictures, differ in number, or hold fewer than two.
    """
    first, second = _same_size([_pictures(base, "base"), _pictures(tenant, "tenant")])
    if len(first) != len(second) or len(first) < 2:
        raise ValueError(
            f"base has {len(first)} pictures and tenant {len(second)}; give one of each for two or "
            f"more prompts"
        )
    asked, drawn = _structure(first), _structure(second)
    asked_norm, drawn_norm = np.linalg.norm(asked, axis=1), np.linalg.norm(drawn, axis=1)
    if np.mean(drawn_norm**2) < LEAST_VARIATION * np.mean(asked_norm**2):
        return 0.0
    tiny = np.float32(1e-6)
    agreement = (drawn @ asked.T) / np.maximum(np.outer(drawn_norm, asked_norm), tiny)
    own = np.diagonal(agreement)
    # If the pictures of two prompts have the same structure, both prompts are kept.
    return float(np.mean((own > 0) & (own >= agreement.max(axis=1) - tiny)))


def _pictures(images: Images, name: str) -> Images:
    """The array, checked."""
    if (
        images.ndim != 4
        or images.shape[3] != 3
        or images.shape[0] < 1
        or min(images.shape[1:3]) < PATCH
    ):
        raise ValueError(
            f"{name} has shape {images.shape}; pictures are [n, height, width, 3] of {PATCH} "
            f"pixels or more"
        )
    if images.dtype != np.uint8:
        if not np.issubdtype(images.dtype, np.floating):
            raise ValueError(
                f"{name} is of {images.dtype}; pictures are uint8 of 0 to 255 or floats of 0 to 1"
            )
        # This form of the comparison refuses NaN too.
        if not (images.min() >= -1e-3 and images.max() <= 1 + 1e-3):
            raise ValueError(
                f"{name} has values outside 0 to 1; scale floats to 0 to 1, or give uint8"
            )
    return images


def _same_size(sets: Sequence[Images]) -> list[Floats]:
    """The sets as floats of 0 to 1, of one height and width."""
    height = min(LARGEST_SIDE, *(images.shape[1] for images in sets))
    width = min(LARGEST_SIDE, *(images.shape[2] for images in sets))
    return [_resized(images, height, width) for images in sets]


def _resized(images: Images, height: int, width: int) -> Floats:
    scaled = images.astype(np.float32)
    if images.dtype == np.uint8:
        scaled /= np.float32(255)
    if scaled.shape[1:3] == (height, width):
        return scaled
    resized = np.empty((len(scaled), height, width, 3), np.float32)
    for into, image in zip(resized, scaled, strict=True):
        for channel in range(3):
            plane = Image.fromarray(np.ascontiguousarray(image[..., channel]))
            into[..., channel] = np.asarray(plane.resize((width, height), Image.Resampling.BOX))
    return resized


@cache
def _directions() -> Floats:
    """[75, 256]: directions of length 1, always the same ones."""
    drawn = np.random.default_rng(0).standard_normal((PATCH * PATCH * 3, DIRECTIONS))
    return np.asarray(drawn / np.linalg.norm(drawn, axis=0), np.float32)


def _sampled(sets: Sequence[Images]) -> list[Floats]:
    """The quantiles of each set, between which distances are measured."""
    return [_quantiles(images) for images in _same_size(sets)]


def _quantiles(images: Floats) -> Floats:
    """[256, 512]: quantiles of a set's patches along each direction."""
    windows = np.lib.stride_tricks.sliding_window_view(images, (PATCH, PATCH), axis=(1, 2))
    count = int(np.prod(windows.shape[:3]))
    if count > MAX_PATCHES:
        chosen = np.random.default_rng(0).choice(count, MAX_PATCHES, replace=False)
        patches = windows[np.unravel_index(chosen, windows.shape[:3])].reshape(MAX_PATCHES, -1)
    else:
        patches = windows.reshape(count, -1)
    along = np.sort(_directions().T @ patches.T, axis=1)
    at = (np.arange(QUANTILES) + 0.5) / QUANTILES * along.shape[1] - 0.5
    below = np.clip(np.floor(at).astype(np.int64), 0, along.shape[1] - 1)
    above = np.minimum(below + 1, along.shape[1] - 1)
    share = np.asarray(np.clip(at - below, 0, 1), np.float32)
    return np.asarray(along[:, below] * (1 - share) + along[:, above] * share)


def _between(one: Floats, other: Floats) -> float:
    """The mean over directions of the Wasserstein-1 distance along each, from quantiles."""
    return float(np.abs(one - other).mean())


def _structure(images: Floats) -> Floats:
    """[n, features]: the positions of edges and things in each picture, without the features common
    to all."""
    # Things: the distance of each pixel from the border's median colour.
    border = np.concatenate(
        [images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], axis=1
    )
    ground = np.median(border, axis=1)[:, None, None]
    things = np.linalg.norm(images - ground, axis=3)
    # Edges: the strongest step in any channel.
    down, across = np.gradient(images, axis=(1, 2))
    edges = np.hypot(down, across).max(axis=3)
    parts = []
    for plane in (things, edges):
        small = _plane_resized(plane)
        unit = small / np.maximum(np.linalg.norm(small, axis=1, keepdims=True), 1e-6)
        parts.append(unit - unit.mean(axis=0))
    return np.concatenate(parts, axis=1)


def _plane_resized(planes: Floats) -> Floats:
    """[n, side²] from [n, height, width]."""
    side = (STRUCTURE_SIDE, STRUCTURE_SIDE)
    return np.stack(
        [
            np.asarray(Image.fromarray(plane).resize(side, Image.Resampling.BOX)).reshape(-1)
            for plane in planes
        ]
    )
