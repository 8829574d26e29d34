"""The documents of docs/contracts.md that both sides read and write, also with additions of an
earlier or later release, and malformed ones."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts import limits, progress
from contracts.documents import to_bytes
from contracts.errors import MalformedDocumentError
from contracts.outcomes import Outcome
from contracts.records import Record
from contracts.tasks import TaskList

PAGE = Path(__file__).resolve().parents[2] / "docs" / "contracts.md"
EXAMPLES: list[dict[str, Any]] = [
    json.loads(block)
    for block in re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)
    if "…" not in block
]


def example(*fields: str) -> dict[str, Any]:
    """The page's only example that has these fields."""
    (found,) = (document for document in EXAMPLES if set(fields) <= set(document))
    return dict(found)


TASKS, OUTCOME, RECORD = example("tasks"), example("status"), example("model", "request")


@dataclass(frozen=True)
class Kind:
    """A document with its reader and its writer."""

    document: dict[str, Any]
    parse: Callable[[bytes], Any]
    write: Callable[[Any], bytes]


KINDS = {
    "task list": Kind(TASKS, TaskList.parse, lambda read: to_bytes(read.document())),
    "outcome": Kind(OUTCOME, Outcome.parse, lambda read: to_bytes(read.document())),
    "record": Kind(RECORD, Record.parse, lambda read: read.line()),
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_the_pages_example_is_read_and_written_as_it_stands(kind: Kind) -> None:
    written = kind.write(kind.parse(json.dumps(kind.document).encode()))
    assert json.loads(written) == kind.document


def test_the_pages_messages_of_progress_are_those_that_are_sent() -> None:
    task = OUTCOME["task"], OUTCOME["tenant"], OUTCOME["version"]
    shown = {document["event"]: document for document in EXAMPLES if "event" in document}
    assert shown["task_started"] == progress.task_started(*task)
    assert shown["task_progress"] == progress.task_progress(task[0], 120, 200)
    sent = progress.task_finished(Outcome.of_value(OUTCOME))
    assert sent == {**shown["task_finished"], "outcome": OUTCOME}
    assert progress.outcome_of(sent) == Outcome.of_value(OUTCOME)
    assert progress.outcome_of(shown["task_started"]) is None
    with pytest.raises(MalformedDocumentError):
        progress.outcome_of(shown["task_finished"])


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(["task list", "outcome"]),
    more=st.dictionaries(st.text("ghi", min_size=2, max_size=4), PLAIN, min_size=1, max_size=3),
)
def test_what_another_release_added_is_kept(name: str, more: dict[str, Any]) -> None:
    kind = KINDS[name]
    document = json.loads(json.dumps(kind.document)) | more
    if name == "task list":
        document["tasks"][0] |= more
    read = kind.parse(json.dumps(document).encode())
    assert json.loads(kind.write(read)) == document


@settings(max_examples=200, deadline=None)
@given(data=st.data(), name=st.sampled_from(sorted(KINDS)), said=JSON)
def test_whatever_stands_in_a_field_is_read_or_refused_by_its_name(
    data: st.DataObject, name: str, said: Any
) -> None:
    kind = KINDS[name]
    document = json.loads(json.dumps(kind.document))
    field = data.draw(st.sampled_from(sorted(document)))
    if name == "task list" and field == "tasks":
        field = data.draw(st.sampled_from(sorted(document["tasks"][0])))
        document["tasks"][0][field] = said
    else:
        document[field] = said
    content = json.dumps(document).encode()
    if said_of := _refusal(kind, content):
        # NaN is not valid JSON, so the error names no field.
        assert field in said_of or "JSON" in said_of
    else:
        json.dumps(json.loads(kind.write(kind.parse(content))), allow_nan=False)


def _refusal(kind: Kind, content: bytes) -> str | None:
    try:
        kind.parse(content)
    except MalformedDocumentError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"archive": None}, "archive"),
        ({"archive": {"bytes": 0, "sha256": "a" * 64}}, "archive"),
        ({"status": "failed", "archive": None, "reason": "x" * 2001}, "reason"),
        ({"files": {f"{n}.png": {"bytes": 1, "sha256": "a" * 64} for n in range(65)}}, "files"),
        ({"files": {"../x": {"bytes": 1, "sha256": "a" * 64}}}, "files"),
        ({"seconds": True}, "seconds"),
        ({"format": True}, "different releases"),
        ({"format": 2}, "different releases"),
    ],
)
def test_an_outcome_that_breaks_a_rule_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(MalformedDocumentError, match=said):
        Outcome.parse(json.dumps({**OUTCOME, **change}).encode())


def test_a_document_that_is_too_large_is_refused_before_it_is_read() -> None:
    with pytest.raises(MalformedDocumentError, match="larger than"):
        Outcome.parse(b"[" * (limits.OUTCOME_BYTES + 1))


def test_a_refusal_quotes_nothing_of_the_document() -> None:
    for field in ("tenant", "status", "reason"):
        with pytest.raises(MalformedDocumentError) as refused:
            Outcome.parse(json.dumps({**OUTCOME, field: ["Jane Doe"]}).encode())
        assert "Jane" not in str(refused.value)
