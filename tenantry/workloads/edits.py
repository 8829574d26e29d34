"""Changes of a setting in a workload's YAML file, which keep everything else, comments included."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from tenantry.errors import TenantryError
from tenantry.workloads.batching import Batching
from tenantry.workloads.documents import UnreadableDocumentError, read_document
from tenantry.workloads.folder import COMPONENT_FILE

_SERVING: Final = "serving"
_BATCHING: Final = "batching"


class NotEditedError(TenantryError, ValueError):
    """A file was not changed, because it is written in a way that this module does not know, or
    cannot be written; the message says why."""


def batching_line(batching: Batching) -> str:
    """The setting as a line below ``serving``."""
    return f"{_BATCHING}: {{max_batch: {batching.max_batch}, max_wait_ms: {batching.max_wait_ms}}}"


def set_batching(path: Path, batching: Batching | None) -> bool:
    """Say ``serving.batching`` in a workload's file, or with None remove it.

    The new text is read again, and compared with the old one, before the file changes. The file
    appears whole or not at all.

    Returns:
        Whether the file changed.

    Raises:
        NotEditedError: it is as it was.
    """
    above = ["attributes"] if path.name == COMPONENT_FILE else []
    try:
        before = read_document(path)
        text = path.read_bytes().decode()
        after = _edited(text, _inside(before.node, [*above, _SERVING]), batching)
        if after == text:
            return False
        if _parts(yaml.safe_load(after), above) != (_parts(before.fields, above)[0], batching):
            raise NotEditedError(f"{path.name}: a change here would change other settings too")
        beside = path.resolve().with_name(f".{path.name}.new")
        beside.write_bytes(after.encode())
        shutil.copymode(path, beside)
        beside.replace(path.resolve())
    except (UnreadableDocumentError, yaml.YAMLError, LookupError, TypeError, ValueError) as error:
        if isinstance(error, NotEditedError):
            raise
        raise NotEditedError(
            f"{path.name}: its section serving is written in a way that cannot be changed safely"
        ) from error
    except OSError as error:
        raise NotEditedError(f"{path} cannot be written: {error.strerror}") from error
    return True


def _inside(node: yaml.Node, names: list[str]) -> yaml.MappingNode:
    for name in names:
        node = _entries(node)[name][1]
    if not isinstance(node, yaml.MappingNode):
        raise TypeError(names)
    return node


def _entries(node: yaml.Node) -> dict[str, tuple[yaml.Node, yaml.Node]]:
    """A mapping's keys and values. Raises ``TypeError`` for what is none."""
    if not isinstance(node, yaml.MappingNode):
        raise TypeError(node.tag)
    return {key.value: (key, value) for key, value in node.value}


def _parts(fields: Mapping[str, Any], above: list[str]) -> tuple[Any, Batching | None]:
    """A document without the setting, and the setting."""
    held = fields[above[0]] if above else fields
    serving = {**held[_SERVING]}
    given = serving.pop(_BATCHING, None)
    rest = {**held, _SERVING: serving}
    setting = None if given is None else Batching.model_validate(given)
    return ({**fields, above[0]: rest} if above else rest), setting


def _edited(text: str, serving: yaml.MappingNode, batching: Batching | None) -> str:
    entries = _entries(serving)
    if _BATCHING not in entries:
        return text if batching is None else _added(text, serving, batching)
    key, value = entries[_BATCHING]
    if batching is None:
        return _removed(text, serving, key, value)
    if not isinstance(value, yaml.MappingNode):  # null
        return text[: key.start_mark.index] + batching_line(batching) + text[value.end_mark.index :]
    return _replaced(text, value, batching)


def _added(text: str, serving: yaml.MappingNode, batching: Batching) -> str:
    """The setting after ``instances``, which every file has, on one line."""
    key, value = _entries(serving)["instances"]
    end = value.end_mark.index
    if serving.flow_style:
        return f"{text[:end]}, {batching_line(batching)}{text[end:]}"
    line_end = text.find("\n", end)
    line_end = len(text) if line_end < 0 else line_end
    carriage = "\r" if text[line_end - 1 : line_end] == "\r" else ""
    line = f"\n{' ' * key.start_mark.column}{batching_line(batching)}{carriage}"
    return text[:line_end] + line + text[line_end:]


def _removed(text: str, serving: yaml.MappingNode, key: yaml.Node, value: yaml.Node) -> str:
    """The text without the lines of the setting."""
    begin = text.rfind("\n", 0, key.start_mark.index) + 1
    last = value
    while isinstance(last, yaml.MappingNode) and not last.flow_style:
        last = last.value[-1][1]
    end = text.find("\n", last.end_mark.index)
    if serving.flow_style or text[begin : key.start_mark.index].strip():
        raise TypeError(serving.tag)
    return text[:begin] + ("" if end < 0 else text[end + 1 :])


def _replaced(text: str, value: yaml.MappingNode, batching: Batching) -> str:
    """The text with other numbers."""
    numbers = _entries(value)
    key, largest = numbers["max_batch"]
    changes = [(largest.start_mark.index, largest.end_mark.index, str(batching.max_batch))]
    wait = f"max_wait_ms: {batching.max_wait_ms}"
    if "max_wait_ms" in numbers:
        old = numbers["max_wait_ms"][1]
        changes.append((old.start_mark.index, old.end_mark.index, str(batching.max_wait_ms)))
    elif batching.max_wait_ms and value.flow_style:
        changes.append((largest.end_mark.index, largest.end_mark.index, f", {wait}"))
    elif batching.max_wait_ms:
        at = key.start_mark.index
        changes.append((at, at, f"{wait}\n{' ' * key.start_mark.column}"))
    for begin, end, new in sorted(changes, reverse=True):
        text = text[:begin] + new + text[end:]
    return text
