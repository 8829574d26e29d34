"""Splits the body of a batch transform into records, and finds which tenant's model a record is
for."""

import json
import re
from pathlib import Path
from typing import IO, Final, NoReturn

from containers.runtime.serving.serving_errors import BadRequestError
from contracts.errors import MalformedDocumentError
from contracts.patterns import ARCHIVE
from contracts.records import Record

_JSON: Final = "application/json"
_LINES: Final = (
    "application/jsonlines",
    "application/x-jsonlines",
    "application/jsonl",
    "application/x-ndjson",
)
LONGEST_LINE: Final = 1024 * 1024
"""Bytes of a record with data after it."""
_BEFORE_REQUEST: Final = re.compile(r'\{"model":"([^"\\]*)","request":')
"""How a record begins that `Record.line` wrote."""


def is_model_folder(folder: Path) -> bool:
    """Whether `folder` holds archives as `{tenant}/{version}.tar.gz`, and is not itself a model."""
    return not (folder / "card.json").exists() and next(folder.glob("*/*.tar.gz"), None) is not None


def split_records(body: bytes, content_type: str) -> tuple[list[bytes], str]:
    """The records of a body and the content type of each. Raises `BadRequestError` for a body
    without records.

    SageMaker sends several lines in one body with `BatchStrategy=MultiRecord`, and one otherwise.
    Each line of JSON is a record. A single JSON document, also over several lines, is one record,
    as is a body of any other type.
    """
    kind = content_type.split(";")[0].strip().lower()
    if kind not in (*_LINES, _JSON):
        return [body], content_type
    if kind == _JSON:
        try:
            json.loads(body)
        except (ValueError, RecursionError):
            pass
        else:
            return [body], _JSON
    records = [line for line in body.splitlines() if line.strip()]
    if not records:
        raise BadRequestError("the body has no record")
    return records, _JSON


def model_of_record(record: bytes) -> tuple[str, bytes]:
    """The model a record names, and its request as JSON; raises `BadRequestError`.

    The request of a record that `Record.line` wrote is handed on in its own words: to write
    thousands of rows anew would take longer than to score them.
    """
    if (written := _as_written(record)) is not None:
        return written
    try:
        found = Record.parse(record)
    except MalformedDocumentError as error:
        said = f"'{error.field}' {error.problem}" if error.field else f"the record {error.problem}"
        raise BadRequestError(said, error.field or None) from error
    return found.model, json.dumps(found.request).encode()


def _as_written(record: bytes) -> tuple[str, bytes] | None:
    """The model and the request's own words; None unless the record has these two fields in the
    order and the words of `Record.line`."""
    try:
        text = record.decode()
        before = _BEFORE_REQUEST.match(text)
        if before is None or not ARCHIVE.fullmatch(before[1]):
            return None
        _, end = json.JSONDecoder(parse_constant=_no_constant).raw_decode(text, before.end())
    except (ValueError, RecursionError):
        return None
    if text[end:].strip() != "}":
        return None
    return before[1], text[before.end() : end].encode()


def _no_constant(word: str) -> NoReturn:
    raise ValueError(word)


def model_of_first_line(file: IO[bytes]) -> tuple[str, bytes]:
    """The same of the first line of a file, which then is at the beginning of its second line."""
    line = file.readline(LONGEST_LINE + 1)
    if len(line) > LONGEST_LINE:
        raise BadRequestError(f"the record, the first line, is longer than {LONGEST_LINE} bytes")
    return model_of_record(line)


def one_line(body: bytes) -> bytes:
    """A JSON answer as one line, with its end."""
    if b"\n" not in body and b"\r" not in body:
        return body + b"\n"
    try:
        return json.dumps(json.loads(body)).encode() + b"\n"
    except ValueError as error:
        raise BadRequestError(
            "the answer to this record is not JSON and cannot be one line of a batch"
        ) from error
