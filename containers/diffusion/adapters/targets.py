"""The layers of a UNet that adapters may change."""

from collections.abc import Mapping
from typing import Final

TARGETS: Final[Mapping[str, tuple[str, ...]]] = {
    "attention": ("to_q", "to_k", "to_v", "to_out.0"),
    "attention+convolutions": ("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2"),
}
"""Names of target sets, and how the names of the layers in them end."""
