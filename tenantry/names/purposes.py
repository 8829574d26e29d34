"""The purposes of an upload: to make a model from it, to be one that was trained elsewhere, or to
bring new data that the next predictions start from."""

from __future__ import annotations

from typing import Final, Literal, get_args

Purpose = Literal["training", "import", "inference"]
PURPOSES: Final[tuple[Purpose, ...]] = get_args(Purpose)


def purpose_named(text: str) -> Purpose:
    """The purpose of that name. Raises ``ValueError``."""
    for purpose in PURPOSES:
        if text == purpose:
            return purpose
    raise ValueError(f"{text[:80]!r} is no purpose of an upload; there are {', '.join(PURPOSES)}")
