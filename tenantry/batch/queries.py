"""SQL about the tables of batch results, which Athena answers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError

from tenantry.aws.objects import error_code
from tenantry.batch.periods import Period
from tenantry.names import s3_keys

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

MOST_OF_A_SUMMARY: Final = 20
"""Rows of a summary's answer that Dagster keeps with the table."""
_POLL_SECONDS: Final = 0.3
_NUMBERS: Final = ("double", "float", "real", "decimal")
_WHOLE_NUMBERS: Final = ("tinyint", "smallint", "integer", "int", "bigint")


class QueryFailedError(Exception):
    """A query has no answer; the message gives the reason and the cure."""


@dataclass(frozen=True)
class QueryAnswer:
    """The columns' names and the first rows; ``complete`` tells whether there are no more."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    complete: bool

    def named(self, row: Sequence[Any]) -> Iterator[tuple[str, Any]]:
        """The cells of a row, each with its column's name."""
        return zip(self.columns, row, strict=False)


def ask(deployment: Deployment, sql: str, most: int) -> QueryAnswer:
    """The answer to SQL about the tables of a deployment's batches.

    Args:
        deployment: where the tables are.
        sql: one statement.
        most: rows of the answer, the first; more are left out.

    Raises:
        QueryFailedError: Athena does not take the query, or it fails.
        ClientError: AWS refused for another reason.
    """
    athena = deployment.athena
    asked = _start(deployment, sql)
    try:
        statement = _wait(athena, asked)
    except KeyboardInterrupt:  # nobody waits for the answer any more, and it costs
        with suppress(ClientError):
            athena.stop_query_execution(QueryExecutionId=asked)
        raise
    columns: list[tuple[str, str]] = []
    rows: list[list[Any]] = []
    for page in athena.get_paginator("get_query_results").paginate(QueryExecutionId=asked):
        found: Sequence[Any] = page["ResultSet"]["Rows"]
        if not columns:
            info = page["ResultSet"]["ResultSetMetadata"]["ColumnInfo"]
            columns = [(one["Name"], one["Type"]) for one in info]
            # A SELECT's first row has the columns' names
            # (https://docs.aws.amazon.com/athena/latest/APIReference/API_GetQueryResults.html).
            found = found[1:] if statement == "DML" else found
        for row in found:
            if len(rows) == most:
                return QueryAnswer([name for name, _ in columns], rows, complete=False)
            cells = row.get("Data", [])
            rows.append(
                [
                    _value(cell.get("VarCharValue"), kind)
                    for cell, (_, kind) in zip(cells, columns, strict=False)
                ]
            )
    return QueryAnswer([name for name, _ in columns], rows, complete=True)


def summary_of(deployment: Deployment, period: Period, table: str) -> QueryAnswer | None:
    """The answer to a batch's ``summary`` about a day, its first rows; None without a summary.

    ``table`` is the batch's, with or without its database's name. Raises as ``ask`` does.
    """
    sql = period.batch.summary_of(table.rpartition(".")[2], period.day.isoformat())
    return ask(deployment, sql, MOST_OF_A_SUMMARY) if sql else None


def _start(deployment: Deployment, sql: str) -> str:
    """Give Athena the query; returns its id. Raises ``QueryFailedError`` if it is not taken."""
    results = f"s3://{deployment.data_bucket}/{s3_keys.QUERY_RESULTS_PREFIX}"
    try:
        return str(
            deployment.athena.start_query_execution(
                QueryString=sql,
                QueryExecutionContext={"Database": deployment.results_database},
                ResultConfiguration={"OutputLocation": results},
            )["QueryExecutionId"]
        )
    except ClientError as error:
        if error_code(error) == "InvalidRequestException":
            said = error.response["Error"].get("Message", "")
            raise QueryFailedError(f"Athena does not take the query: {said}") from error
        if "AccessDenied" in error_code(error):
            raise QueryFailedError(
                f"AWS refused: {error}; your role needs the stack's QueryPolicy"
            ) from error
        raise


def _wait(athena: Any, asked: str) -> str:
    """Wait until a query has succeeded; returns the type of its statement. Raises
    ``QueryFailedError`` if it does not succeed."""
    while True:
        found = athena.get_query_execution(QueryExecutionId=asked)["QueryExecution"]
        status = found["Status"]
        if status["State"] == "SUCCEEDED":
            return str(found.get("StatementType", ""))
        if status["State"] in {"FAILED", "CANCELLED"}:
            reason = status.get("StateChangeReason") or "Athena gives no reason"
            raise QueryFailedError(f"the query {status['State'].lower()}: {reason}")
        time.sleep(_POLL_SECONDS)


def _value(text: str | None, kind: str) -> Any:
    """A cell's value: Athena gives each as text."""
    if text is None:
        return None
    if kind in _WHOLE_NUMBERS:
        return int(text)
    if kind in _NUMBERS:
        return float(text)
    return text == "true" if kind == "boolean" else text
