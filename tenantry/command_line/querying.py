"""The command that asks SQL of the tables of batch results."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import click

from tenantry.command_line.invocation import Invocation, NotDone, common_options
from tenantry.names import s3_keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tenantry.aws.deployment import Deployment

_POLL_SECONDS: Final = 0.3
_NUMBERS: Final = ("double", "float", "real", "decimal")
_WHOLE_NUMBERS: Final = ("tinyint", "smallint", "integer", "int", "bigint")


@click.command()
@click.argument("sql")
@click.option(
    "--most",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="Rows shown, the first.",
)
@common_options
def query(invocation: Invocation, sql: str, most: int) -> None:
    """The answer of Athena to SQL about the batch predictions of all tenants.

    Each batch of a workload is a table, as energy_nightly, with the columns tenant, version, those
    of the answers, and day. Athena charges for what it reads: name the days. --json gives numbers
    as numbers.

    \b
    Examples:
      tenantry query "SELECT tenant, mean FROM energy_nightly WHERE day = '2026-11-24'"
      tenantry query "SELECT count(*) AS rows FROM energy_nightly" --json
    """
    columns, rows, left_out = _answer(invocation.deployment, sql, most)
    if invocation.as_json:
        names = [name for name, _ in columns]
        document = {"format": 1, "columns": names, "rows": rows, "complete": not left_out}
        invocation.write_json(document)
        return
    if columns:
        invocation.show(invocation.table([name for name, _ in columns], rows))
    if left_out:
        invocation.say(f"(the first {most} rows; --most shows more)")


def _answer(
    deployment: Deployment, sql: str, most: int
) -> tuple[list[tuple[str, str]], list[list[Any]], bool]:
    """The names and types of the columns, the first rows, and whether there are more.

    Raises:
        NotDone: Athena does not take the query, or it fails.
    """
    from botocore.exceptions import ClientError

    from tenantry.aws.objects import error_code

    athena = deployment.athena
    results = f"s3://{deployment.data_bucket}/{s3_keys.QUERY_RESULTS_PREFIX}"
    try:
        asked = athena.start_query_execution(
            QueryString=sql,
            QueryExecutionContext={"Database": deployment.results_database},
            ResultConfiguration={"OutputLocation": results},
        )["QueryExecutionId"]
    except ClientError as error:
        if error_code(error) == "InvalidRequestException":
            said = error.response["Error"].get("Message", "")
            raise NotDone(f"Athena does not take the query: {said}") from error
        if "AccessDenied" in error_code(error):
            raise NotDone(
                f"AWS refused: {error}; your role needs the stack's QueryPolicy"
            ) from error
        raise
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
                return columns, rows, True
            cells = row.get("Data", [])
            rows.append(
                [
                    _value(cell.get("VarCharValue"), kind)
                    for cell, (_, kind) in zip(cells, columns, strict=False)
                ]
            )
    return columns, rows, False


def _wait(athena: Any, asked: str) -> str:
    """Wait until a query has succeeded; returns the type of its statement. Raises ``NotDone`` if it
    does not succeed."""
    while True:
        found = athena.get_query_execution(QueryExecutionId=asked)["QueryExecution"]
        status = found["Status"]
        if status["State"] == "SUCCEEDED":
            return str(found.get("StatementType", ""))
        if status["State"] in {"FAILED", "CANCELLED"}:
            reason = status.get("StateChangeReason") or "Athena gives no reason"
            raise NotDone(f"the query {status['State'].lower()}: {reason}")
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
