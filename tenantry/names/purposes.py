"""The purposes of an upload: to make a model from it, or to be one that was trained elsewhere."""

from __future__ import annotations

from typing import Final, Literal, get_args

Purpose = Literal["training", "import"]
PURPOSES: Final[tuple[Purpose, ...]] = get_args(Purpose)
