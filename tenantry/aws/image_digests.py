"""The digests of released images: which bytes a container's tag stands for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from tenantry.errors import TenantryError

DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
"""A digest as ECR writes it:
https://docs.aws.amazon.com/AmazonECR/latest/APIReference/API_ImageIdentifier.html"""
_ENTRY: Final = re.compile(r"([a-z0-9][a-z0-9._-]*:[A-Za-z0-9_.-]{1,128})=(sha256:[0-9a-f]{64})")


class ImageDigestsError(TenantryError, ValueError):
    """A list of digests that cannot be read; the message names the entry."""


def parse_image_digests(text: str) -> Mapping[str, str]:
    """Digests by ``container:tag``, from ``forecast:0.1.0=sha256:…,diffusion:0.1.0=sha256:…``.

    Raises:
        ImageDigestsError: an entry has another form, or an image has two.
    """
    digests: dict[str, str] = {}
    for entry in filter(None, text.split(",")):
        found = _ENTRY.fullmatch(entry)
        if found is None:
            raise ImageDigestsError(
                f"{entry!r} is no digest of an image; it must be as "
                f"forecast:0.1.0=sha256:… with 64 hexadecimal digits"
            )
        if found[1] in digests:
            raise ImageDigestsError(f"the image {found[1]} has two digests")
        digests[found[1]] = found[2]
    return digests


def join_image_digests(digests: Mapping[str, str]) -> str:
    """The text that ``parse_image_digests`` reads."""
    return ",".join(f"{image}={digest}" for image, digest in sorted(digests.items()))
