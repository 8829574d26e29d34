"""Rows of numbers by the hour, as Parquet files in S3, which pandas and DuckDB read as well."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

from tenantry.aws import objects

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

ColumnType = Literal["hour", "integer", "number", "text"]
_MOST_BYTES: Final = 64 * 1024 * 1024


def read_rows(deployment: Deployment, key: str) -> list[dict[str, Any]] | None:
    """The rows of a file; None where there is none.

    Raises:
        objects.ObjectTooLargeError: it has more than 64 MiB.
    """
    import pyarrow.parquet as pq

    try:
        content = objects.read_bytes(
            deployment.s3, deployment.data_bucket, key, max_bytes=_MOST_BYTES
        )
    except objects.ObjectMissingError:
        return None
    rows: list[dict[str, Any]] = pq.read_table(io.BytesIO(content)).to_pylist()
    return rows


def write_rows(
    deployment: Deployment,
    key: str,
    columns: Mapping[str, ColumnType],
    rows: Sequence[Sequence[Any]],
) -> None:
    """Write a file of rows with such columns, in place of any that is there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {
        "hour": pa.timestamp("us", tz="UTC"),
        "integer": pa.int64(),
        "number": pa.float64(),
        "text": pa.string(),
    }
    table = pa.table(
        {
            name: pa.array([row[place] for row in rows], types[kind])
            for place, (name, kind) in enumerate(columns.items())
        }
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    objects.write_bytes(deployment.s3, deployment.data_bucket, key, buffer.getvalue())
