"""Records of batch transform: splitting, batching, filtering, joining, assembling. Pure functions.

Sources: docs.aws.amazon.com/sagemaker/latest/dg/batch-transform.html and
…/batch-transform-data-processing.html (filters and joins).
"""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from local_sagemaker.errors import LocalSageMakerError


class RecordError(LocalSageMakerError):
    """Records cannot be processed; the message names them and the reason."""


def split_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of a stream without their newlines; empty lines are not records."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line for line in lines if line)
    if rest:
        yield rest


def batches(records: Iterable[bytes], limit_bytes: int, *, single: bool) -> Iterator[list[bytes]]:
    """Mini-batches for one request each: one record, or as many as fit into `limit_bytes` with a
    newline after each.

    Raises RecordError for a record that does not fit alone.
    """
    batch: list[bytes] = []
    size = 0
    for number, record in enumerate(records, 1):
        if len(record) > limit_bytes:
            raise RecordError(
                f"record {number} has {len(record)} bytes, more than the maximum payload of "
                f"{limit_bytes}"
            )
        if batch and (single or size + len(record) + 1 > limit_bytes):
            yield batch
            batch, size = [], 0
        batch.append(record)
        size += len(record) + 1
    if batch:
        yield batch


def assemble(output: bytes, *, by_line: bool) -> bytes:
    """One answer's part of the output object; `AssembleWith: Line` ends it with exactly one
    newline."""
    return output.removesuffix(b"\n") + b"\n" if by_line else output


_STEP = re.compile(
    r"\.(?P<name>[A-Za-z_][A-Za-z0-9_-]*)|\[(?P<names>\s*'[^']*'\s*(,\s*'[^']*'\s*)*)\]"
    r"|\[(?P<places>[-\d:,\s]+)\]|\.?\[?(?P<all>\*)\]?"
)
Step = tuple[str, Any]


def parse_path(text: str) -> list[Step]:
    """The steps of a JSONPath in the syntax of batch transform: `$`, `.name`, `['a','b']`,
    `[0,-1]`, `[0,5:]`, `*`. Raises RecordError."""
    steps: list[Step] = []
    if not text.startswith("$"):
        raise RecordError(f"JSONPath {text!r} must start with $")
    position = 1
    while position < len(text):
        found = _STEP.match(text, position)
        if not found:
            raise RecordError(f"JSONPath {text!r}: {text[position:]!r} is not supported")
        position = found.end()
        if found["name"]:
            steps.append(("names", [found["name"]]))
        elif found["names"]:
            steps.append(("names", re.findall(r"'([^']*)'", found["names"])))
        elif found["all"]:
            steps.append(("all", None))
        else:
            steps.append(
                ("places", [_place(place.strip(), text) for place in found["places"].split(",")])
            )
    return steps


def _place(text: str, path: str) -> int | slice:
    """An index, or a range of them: `3`, `-1`, `1:`, `:4`."""
    try:
        if ":" not in text:
            return int(text)
        start, end = text.split(":")
        return slice(int(start) if start else None, int(end) if end else None)
    except ValueError as error:
        raise RecordError(f"JSONPath {path!r}: {text!r} is no index and no range") from error


def select(value: Any, steps: Sequence[Step]) -> Any:
    """The value at a path in a record. Several names give an object, several indexes a list. Raises
    RecordError when there is none."""
    for kind, argument in steps:
        try:
            if kind == "names":
                value = (
                    value[argument[0]]
                    if len(argument) == 1
                    else {name: value[name] for name in argument}
                )
            elif kind == "places":
                value = value[argument[0]] if len(argument) == 1 else _gather(value, argument)
            else:
                value = list(value.values()) if isinstance(value, dict) else list(value)
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise RecordError(f"a JSONPath finds nothing in a record: {error!r}") from error
    return value


def _gather(value: Any, places: Sequence[int | slice]) -> list[Any]:
    found: list[Any] = []
    for place in places:
        found.extend(value[place] if isinstance(place, slice) else [value[place]])
    return found


@dataclass(frozen=True)
class DataProcessing:
    """InputFilter, OutputFilter and JoinSource of a job for one content type."""

    csv: bool
    input_filter: list[Step]
    output_filter: list[Step]
    join: bool

    @classmethod
    def parse(cls, config: dict[str, Any], content_type: str | None) -> "DataProcessing | None":
        """From a request's `DataProcessing`; None when it has no effect. Raises RecordError."""
        join = config.get("JoinSource", "None") == "Input"
        paths = [config.get("InputFilter") or "$", config.get("OutputFilter") or "$"]
        if not join and paths == ["$", "$"]:
            return None
        kind = (content_type or "").partition(";")[0].strip().lower()
        if kind not in ("text/csv", "application/json", "application/jsonlines"):
            raise RecordError(
                f"DataProcessing needs the ContentType text/csv, application/json or "
                f"application/jsonlines, not {content_type!r}"
            )
        return cls(kind == "text/csv", parse_path(paths[0]), parse_path(paths[1]), join)

    def request(self, records: Sequence[bytes]) -> list[bytes]:
        """The records for the container, after InputFilter."""
        if not self.input_filter:
            return list(records)
        return [
            self._text(_as_list(selected, self.csv))
            for selected in (select(self._read(record), self.input_filter) for record in records)
        ]

    def output(self, records: Sequence[bytes], outputs: Sequence[bytes]) -> list[bytes]:
        """The records of the output object: joined with their inputs if requested, then filtered by
        OutputFilter.

        Raises RecordError when the container did not answer with one output per record.
        """
        if self.join and len(records) != len(outputs):
            raise RecordError(
                f"cannot join {len(records)} input records with {len(outputs)} output records"
            )
        if not self.join and not self.output_filter:
            return list(outputs)
        values = [self._read(output) for output in outputs]
        if self.join:
            values = [
                self._joined(self._read(record), value)
                for record, value in zip(records, values, strict=True)
            ]
        return [
            self._text(_as_list(select(value, self.output_filter), self.csv)) for value in values
        ]

    def _joined(self, record: Any, output: Any) -> Any:
        if self.csv:
            return [*record, *output]
        if isinstance(record, dict):
            return {**record, "SageMakerOutput": output}
        return {"SageMakerInput": record, "SageMakerOutput": output}

    def _read(self, record: bytes) -> Any:
        try:
            if self.csv:
                return next(csv.reader([record.decode()]), [])
            return json.loads(record)
        except (ValueError, csv.Error) as error:
            raise RecordError(f"a record is no {'CSV' if self.csv else 'JSON'}: {error}") from error

    def _text(self, value: Any) -> bytes:
        if self.csv:
            line = io.StringIO()
            csv.writer(line, lineterminator="").writerow(value)
            return line.getvalue().encode()
        return json.dumps(value).encode()


def _as_list(value: Any, is_csv: bool) -> Any:
    """The value as a list for CSV, also when a path selected one column."""
    return [value] if is_csv and not isinstance(value, list) else value
