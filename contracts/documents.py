"""Reads the fields of a JSON document, each checked once, with a message that names it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from contracts.errors import MalformedDocumentError
from contracts.limits import FORMAT

Parsed = TypeVar("Parsed")


def parse_json(content: bytes, document: str) -> Any:
    """The value of a JSON text. Its numbers are finite, so that it can be written again.

    Raises:
        MalformedDocumentError: it is not JSON, or a number is too large for a float.
    """

    def refuse(word: str) -> NoReturn:
        raise MalformedDocumentError(document, "", f"{word[:40]} is not a JSON number")

    def finite(word: str) -> float:
        number = float(word)
        return number if math.isfinite(number) else refuse(word)

    try:
        return json.loads(content, parse_constant=refuse, parse_float=finite)
    except MalformedDocumentError:
        raise
    except (ValueError, RecursionError) as error:
        kind = type(error).__name__
        raise MalformedDocumentError(document, "", f"is not JSON ({kind})") from error


@dataclass(frozen=True)
class Fields:
    """The fields of a JSON object.

    ``document`` is the document's name for people. ``where`` is the object's place in it, "" for
    the document itself.
    """

    values: Mapping[str, Any]
    document: str
    where: str = ""

    @classmethod
    def read(cls, content: bytes, document: str, max_bytes: int) -> Fields:
        """The document's fields. Raises ``MalformedDocumentError``."""
        if len(content) > max_bytes:
            raise MalformedDocumentError(document, "", f"is larger than {max_bytes} bytes")
        return cls.of(parse_json(content, document), document)

    @classmethod
    def of(cls, value: Any, document: str, where: str = "") -> Fields:
        """The fields of an object inside a document. Raises ``MalformedDocumentError``."""
        if not isinstance(value, dict):
            raise MalformedDocumentError(
                document,
                where,
                "must be a JSON object" if where else "the document must be a JSON object",
            )
        return cls(value, document, where)

    def refuse(self, field: str, problem: str) -> NoReturn:
        """Raise ``MalformedDocumentError`` for a field, or for all of the object (``""``)."""
        raise MalformedDocumentError(self.document, self._named(field), problem)

    def _named(self, field: str) -> str:
        if not self.where:
            return f"'{field}'" if field else ""
        return f"{self.where}.{field}" if field else self.where

    def require_format(self) -> None:
        """Refuse a document of a format that this release cannot read."""
        found = self.values.get("format")
        if type(found) is not int or found != FORMAT:
            self.refuse(
                "format",
                f"must be {FORMAT}; the container and the control plane are of different releases",
            )

    def text(self, field: str, pattern: re.Pattern[str]) -> str:
        """A text that the pattern describes from end to end."""
        value = self.values.get(field)
        if not isinstance(value, str) or not pattern.fullmatch(value):
            self.refuse(field, f"must match {pattern.pattern}")
        return value

    def one_of(self, field: str, allowed: tuple[str, ...]) -> str:
        """One of the allowed words."""
        value = self.values.get(field)
        if not isinstance(value, str) or value not in allowed:
            self.refuse(field, f"must be one of {', '.join(allowed)}")
        return value

    def at_least(self, field: str, least: float) -> float:
        """A finite number of at least ``least``."""
        value: Any = self.values.get(field)
        if not _is_number(value) or value < least:
            self.refuse(field, f"must be a number of at least {least:g}")
        return float(value)

    def flag(self, field: str) -> bool:
        """True or false; false where it is absent."""
        value = self.values.get(field, False)
        if not isinstance(value, bool):
            self.refuse(field, "must be true or false")
        return value

    def mapping(self, field: str, max_bytes: int | None = None) -> dict[str, Any]:
        """An object; empty where it is absent."""
        value = self.values.get(field, {})
        if not isinstance(value, dict):
            self.refuse(field, "must be a JSON object")
        if max_bytes is not None:
            try:
                size = len(json.dumps(value, allow_nan=False))
            except (ValueError, RecursionError):
                self.refuse(field, "is not JSON")
            if size > max_bytes:
                self.refuse(field, f"is larger than {max_bytes} bytes")
        return value

    def numbers(self, field: str) -> dict[str, float]:
        """An object of finite numbers; empty where it is absent."""
        found = self.mapping(field)
        for name, value in found.items():
            if not isinstance(name, str) or not _is_number(value):
                self.refuse(field, "must hold finite numbers")
        return {name: float(value) for name, value in found.items()}

    def optional(self, field: str, parse: Callable[[Fields], Parsed]) -> Parsed | None:
        """A part of the document, or None where it is absent or null."""
        value = self.values.get(field)
        return None if value is None else parse(self.part(field, value))

    def part(self, field: str, value: Any) -> Fields:
        """The fields of an object within this one."""
        return Fields.of(value, self.document, f"{self.where}.{field}" if self.where else field)

    def others(self, *known: str) -> dict[str, Any]:
        """The fields that this release does not know."""
        return {name: value for name, value in self.values.items() if name not in known}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def to_bytes(document: Mapping[str, Any]) -> bytes:
    """A document as it is written: the same fields give the same bytes. Raises ``ValueError``,
    ``TypeError``, ``RecursionError`` for a value that JSON cannot hold."""
    return json.dumps(document, allow_nan=False, sort_keys=True, separators=(",", ":")).encode()
