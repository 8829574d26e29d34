"""YAML files as documents whose fields know their lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from tenantry.errors import TenantryError

MAX_BYTES: Final = 64 * 1024


class UnreadableDocumentError(TenantryError, ValueError):
    """A file is no YAML mapping; the message says why, without the file's name."""


@dataclass(frozen=True)
class Document:
    """A YAML mapping, and where its parts stand."""

    fields: Mapping[str, Any]
    node: yaml.Node

    def line_of(self, path: Sequence[str | int]) -> int:
        """The line of a field, or of the nearest section around it."""
        node, line = self.node, self.node.start_mark.line + 1
        for part in path:
            if isinstance(node, yaml.MappingNode):
                inside = {key.value: (key, value) for key, value in node.value}
                if str(part) not in inside:
                    break
                key, node = inside[str(part)]
                line = key.start_mark.line + 1
            elif isinstance(node, yaml.SequenceNode) and int(part) < len(node.value):
                node = node.value[int(part)]
                line = node.start_mark.line + 1
            else:
                break
        return line


def read_document(path: Path) -> Document:
    """Read a YAML mapping.

    Raises:
        UnreadableDocumentError: it cannot be read, is too large or no YAML, is no mapping, or names
            a field twice.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UnreadableDocumentError(f"larger than {MAX_BYTES} bytes")
        content = path.read_bytes()
    except OSError as error:
        raise UnreadableDocumentError(f"cannot be read: {error.strerror}") from error
    try:
        loader = yaml.SafeLoader(content.decode())
        try:
            node = loader.get_single_node()
            # Looked for now: keys that are merged from elsewhere (<<) stand twice afterwards.
            twice = next(_twice(node), None) if node is not None else None
            fields = None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # an impossible date is a ValueError
        raise UnreadableDocumentError(f"not valid YAML: {_in_words(error)}") from error
    if node is None or not isinstance(fields, dict):
        raise UnreadableDocumentError("must be a mapping of fields, as in energy.yaml")
    if twice is not None:
        first, second = twice
        raise UnreadableDocumentError(
            f"line {second.start_mark.line + 1}, {second.value}: stands in line "
            f"{first.start_mark.line + 1} already; remove one of the two"
        )
    return Document(fields, node)


def _twice(root: yaml.Node) -> Iterator[tuple[yaml.ScalarNode, yaml.ScalarNode]]:
    """Keys that a mapping has twice; YAML would take the last one."""
    waiting, seen = [root], set[int]()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            first: dict[tuple[str, str], yaml.ScalarNode] = {}
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode):
                    named = (key.tag, key.value)
                    if named in first:
                        yield first[named], key
                    first[named] = key
                waiting.append(value)
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value


def _in_words(error: Exception) -> str:
    """A fault of YAML on one line: its place in the file, what is wrong there, and the cure."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return str(error)
    place = f"line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}"
    within = ""
    if error.context and error.context_mark and error.context_mark.line < error.problem_mark.line:
        within = f" {error.context} that begins in line {error.context_mark.line + 1}"
    tab = error.problem is not None and "'\\t'" in error.problem
    cure = "indent with blanks, not with tabs" if tab else "mend this line or the one before it"
    return f"{place}: {error.problem}{within}; {cure}"
