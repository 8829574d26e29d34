"""An adapter's card: the base it corrects, and how."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from containers.diffusion.adapters.errors import UnusableAdapterError
from containers.diffusion.adapters.targets import TARGETS

CARD_FILE: Final = "card.json"
MAX_CARD_BYTES: Final = 64 * 1024


@dataclass(frozen=True)
class AdapterCard:
    """An adapter's description of itself. ``base`` and ``base_digest`` name the weights it
    corrects."""

    base: str
    base_digest: str
    targets: str
    rank: int
    subject: str = ""
    prompts: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The card's fields in ``card.json``; the training runtime adds its own beside them."""
        return {
            "base": self.base,
            "base_digest": self.base_digest,
            "targets": self.targets,
            "rank": self.rank,
            "subject": self.subject,
            "prompts": list(self.prompts),
            **self.details,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "AdapterCard":
        """Read a card. Raises `UnusableAdapterError` that names the field."""

        def text(name: str, most: int, default: str | None = None) -> str:
            value = document.get(name, default)
            if not isinstance(value, str) or len(value) > most:
                raise _malformed_card(f"{name!r} must be a text of at most {most} characters")
            return value

        targets, rank, prompts = (
            text("targets", 100),
            document.get("rank"),
            document.get("prompts", []),
        )
        if targets not in TARGETS:
            raise _malformed_card(f"'targets' is {targets!r}; known are {', '.join(TARGETS)}")
        if type(rank) is not int or not 1 <= rank <= 1024:
            raise _malformed_card("'rank' must be a whole number from 1 to 1024")
        if not isinstance(prompts, list) or len(prompts) > 64:
            raise _malformed_card("'prompts' must be a list of at most 64 texts")
        if not all(
            isinstance(prompt, str) and prompt.strip() and len(prompt) <= 1000 for prompt in prompts
        ):
            raise _malformed_card(
                "each of 'prompts' must be a text of 1 to 1000 characters, not all blank"
            )
        return cls(
            text("base", 500),
            text("base_digest", 64),
            targets,
            rank,
            text("subject", 200, ""),
            tuple(prompts),
            {},
        )


def _malformed_card(problem: str) -> UnusableAdapterError:
    return UnusableAdapterError(f"{CARD_FILE}: {problem}", "adapter_card_malformed")


def read_card(folder: Path) -> dict[str, Any]:
    """The card of a model's folder. Raises `UnusableAdapterError`."""
    path = folder / CARD_FILE
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size <= MAX_CARD_BYTES else b""
    except OSError as error:
        raise UnusableAdapterError(f"{CARD_FILE} is not there", "adapter_card_missing") from error
    if size > MAX_CARD_BYTES:
        raise UnusableAdapterError(
            f"{CARD_FILE} is larger than {MAX_CARD_BYTES} bytes", "adapter_card_too_large"
        )
    try:
        document = json.loads(content)
        # JSON can contain half a surrogate pair, which is not a character and cannot be encoded.
        json.dumps(document, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise UnusableAdapterError(f"{CARD_FILE} is not JSON", "adapter_card_not_json") from error
    if not isinstance(document, dict):
        raise UnusableAdapterError(f"{CARD_FILE} must be a JSON object", "adapter_card_not_json")
    return document
