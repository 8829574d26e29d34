"""A tenant's batch predictions as S3 has them, and answers for people: as a table, with their
pictures in files."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tenantry.names import ids, s3_keys

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

_PICTURE: Final = "png"  # docs/workload-file.md, "What people see"


@dataclass(frozen=True)
class StoredPrediction:
    """A prediction by one of the workload's batches, of a day; ``size`` in bytes, ``written`` when
    S3 took it."""

    batch: ids.BatchName
    day: date
    key: str
    size: int
    written: datetime


def stored_predictions(
    deployment: Deployment, workload: ids.WorkloadName, tenant: ids.ModelId
) -> list[StoredPrediction]:
    """All batch predictions of a tenant's model, in the order of their days."""
    pages = deployment.s3.get_paginator("list_objects_v2").paginate(
        Bucket=deployment.data_bucket, Prefix=s3_keys.predictions_prefix(workload, tenant)
    )
    found = []
    for page in pages:
        for entry in page.get("Contents", []):
            with suppress(ids.InvalidIdError):
                batch, day = s3_keys.parse_prediction(workload, tenant, entry["Key"])
                size, written = entry["Size"], entry["LastModified"]
                found.append(StoredPrediction(batch, day, entry["Key"], size, written))
    return sorted(found, key=lambda one: (one.day, one.written))


# ---- answers as tables ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Tabulated:
    """Answers as a table. ``period`` is its first and its last moment, where a column has
    moments. ``unit`` is that of its numbers, where the answers agree on one."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    unit: str | None = None

    @property
    def period(self) -> tuple[str, str] | None:
        """The first and the last moment of the first column that has moments alone."""
        for number in range(len(self.columns)):
            cells = [row[number] for row in self.rows]
            if cells and all(map(_is_moment, cells)):
                return str(cells[0]), str(cells[-1])
        return None


def tabulated(documents: Sequence[Any]) -> Tabulated:
    """Answers of any workload as a table.

    Lists of one length become columns. A list of objects becomes rows. An answer that has neither
    is a row itself.
    """
    rows: list[Mapping[str, Any]] = [row for one in documents for row in _rows_of(one)]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    units = {
        unit
        for one in documents
        if isinstance(one, dict) and isinstance(unit := one.get("unit"), str)
    }
    cells = [[row.get(name) for name in columns] for row in rows]
    return Tabulated(columns, cells, units.pop() if len(units) == 1 else None)


def _rows_of(document: Any) -> Iterator[Mapping[str, Any]]:
    if not isinstance(document, dict):
        yield {"answer": document}
        return
    for value in document.values():
        if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
            yield from ({name: _cell(name, of) for name, of in one.items()} for one in value)
            return
    lists = dict(_lists(document, ""))
    longest = max(map(len, lists.values()), default=0)
    columns = {name: values for name, values in lists.items() if len(values) == longest}
    if longest:
        for cells in zip(*columns.values(), strict=True):
            yield dict(zip(columns, cells, strict=True))
    else:
        yield {name: _cell(name, value) for name, value in document.items()}


def _lists(document: Mapping[str, Any], inside: str) -> Iterator[tuple[str, list[Any]]]:
    for name, value in document.items():
        if isinstance(value, list):
            yield f"{inside}{name}", value
        elif isinstance(value, dict):
            yield from _lists(value, f"{inside}{name} ")


def _cell(name: str, value: Any) -> Any:
    if name == _PICTURE and isinstance(value, str):
        return f"{len(value) * 3 // 4:,} bytes"
    return value


def _is_moment(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(datetime.fromisoformat(value))
    except ValueError:
        return False


# ---- answers with pictures -----------------------------------------------------------------------


def without_pictures(document: Any, output: Path | None) -> tuple[Any, list[Path]]:
    """An answer with each picture replaced by its file, or by its size if no file is to be written;
    and the files.

    The first picture is written to ``output``; further ones beside it, with their numbers.

    Raises:
        OSError: a file cannot be written.
    """
    images = document.get("images") if isinstance(document, dict) else None
    if not isinstance(images, list):
        return document, []
    files: list[Path] = []
    shown = []
    for image in images:
        content = _picture(image)
        if content is None:
            shown.append(image)
        elif output is None:
            said = f"{len(content):,} bytes; --output FILE saves them"
            shown.append({**image, _PICTURE: said})
        else:
            number = f"-{len(files) + 1}" if files else ""
            file = output.with_name(f"{output.stem}{number}{output.suffix}")
            file.write_bytes(content)
            files.append(file)
            shown.append({**image, _PICTURE: str(file)})
    return {**document, "images": shown}, files


def _picture(image: object) -> bytes | None:
    encoded = image.get(_PICTURE) if isinstance(image, dict) else None
    try:
        return base64.b64decode(encoded, validate=True) if isinstance(encoded, str) else None
    except binascii.Error:
        return None
