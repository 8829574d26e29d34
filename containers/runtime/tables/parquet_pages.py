"""The memory and stack that a Parquet file would use, read from its headers before a library
follows them.

The footer of a file also gives sizes, but an attacker can write any number there. The decompressor
allocates memory by a page's own header, so that this header cannot understate the size. The list of
elements sets the depth of a schema, and a recursive reader of a deep schema overflows the stack.
Format: https://github.com/apache/parquet-format (`PageHeader`, `FileMetaData`, in Thrift's compact
protocol).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from containers.runtime.errors import ContainerError

_DATA, _DICTIONARY, _DATA_V2 = 0, 2, 3
_HEADER_OF: Final = {_DATA: 5, _DICTIONARY: 7, _DATA_V2: 8}
"""The field of `PageHeader` that describes a page of this type."""

_ENCODING: Final = {_DATA: 2, _DICTIONARY: 2, _DATA_V2: 4}
_CHILDREN: Final = 5
"""The field of `SchemaElement` that counts its children."""

_DEEPEST: Final = 8
_LONGEST_HEADER: Final = 1 << 16
"""Bytes. Besides a few numbers a header holds the least and the greatest value of the page."""


class MalformedPagesError(ContainerError, ValueError):
    """The bytes are not pages of a Parquet column, or not a footer."""


@dataclass(frozen=True)
class Page:
    """A page: its expanded size in bytes, its number of values, and the format's number of its
    encoding."""

    size: int
    values: int
    encoding: int
    dictionary: bool


def pages(content: bytes, start: int, length: int, values: int) -> Iterator[Page]:
    """The pages of a column chunk at `start`, up to the last page that a reader of `values` values
    needs. Raises `MalformedPagesError`."""
    end = min(start + length, len(content))
    seen = 0
    while start < end and seen < values:
        try:
            header, begin = _struct(content, start, 0)
            kind, size, compressed = header[1], header[2], header[3]
            described = header.get(_HEADER_OF.get(kind, -1), {})
            page = Page(
                size,
                described.get(1, 0),
                described.get(_ENCODING.get(kind, -1), 0),
                kind == _DICTIONARY,
            )
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise MalformedPagesError("a page's header is not one") from error
        if min(size, compressed, page.values) < 0 or begin - start > _LONGEST_HEADER:
            raise MalformedPagesError("a page's header is not one")
        yield page
        if not page.dictionary:
            seen += page.values
        start = begin + compressed


def schema_depth(footer: bytes, max_elements: int) -> int:
    """The nesting depth of the schema at the beginning of a `FileMetaData`. Raises
    `MalformedPagesError`."""
    try:
        # The format's version, then the list of elements, each with the number of its children.
        _, at = _number(footer, 1)
        kinds = (footer[0], footer[at], footer[at + 1] & 15)
        count, at = (
            (footer[at + 1] >> 4, at + 2)
            if footer[at + 1] >> 4 != 15
            else _unsigned(footer, at + 2)
        )
        if kinds != (0x15, 0x19, 12) or count > max_elements:
            raise MalformedPagesError("a footer does not begin with a schema")
        deepest = 0
        left: list[int] = []
        for _ in range(count):
            element, at = _struct(footer, at, 0)
            while left and not left[-1]:
                left.pop()
            if left:
                left[-1] -= 1
            if element.get(_CHILDREN, 0) > 0:
                left.append(element[_CHILDREN])
            deepest = max(deepest, len(left))
    except (IndexError, TypeError) as error:
        raise MalformedPagesError("a footer does not begin with a schema") from error
    return deepest


def _struct(content: bytes, at: int, depth: int) -> tuple[dict[int, Any], int]:
    """The numbers and structures of a Thrift structure by field, and its end. Raises `IndexError`,
    `MalformedPagesError`."""
    if depth > _DEEPEST:
        raise MalformedPagesError("a page's header is nested too deeply")
    fields: dict[int, Any] = {}
    field = 0
    while head := content[at]:
        kind, step = head & 15, head >> 4
        if step:
            field, at = field + step, at + 1
        else:
            field, at = _number(content, at + 1)
        if kind in (1, 2):
            fields[field] = kind == 1
        elif kind == 12:
            fields[field], at = _struct(content, at, depth + 1)
        elif kind in (4, 5, 6):
            fields[field], at = _number(content, at)
        elif kind == 3:
            at += 1
        elif kind == 7:
            at += 8
        elif kind == 8:
            size, at = _unsigned(content, at)
            at += size
        else:
            raise MalformedPagesError("a page's header holds what none has")
    return fields, at + 1


def _unsigned(content: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = content[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise MalformedPagesError("a number in a page's header is too long")


def _number(content: bytes, at: int) -> tuple[int, int]:
    value, at = _unsigned(content, at)
    return (value >> 1) ^ -(value & 1), at
