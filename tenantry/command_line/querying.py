"""The command that asks SQL of the tables of batch results."""

from __future__ import annotations

import click

from tenantry.command_line.invocation import Invocation, NotDone, common_options


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
    from tenantry.batch.queries import QueryFailedError, ask

    try:
        answer = ask(invocation.deployment, sql, most)
    except QueryFailedError as error:
        raise NotDone(str(error)) from error
    if invocation.as_json:
        document = {
            "format": 1,
            "columns": answer.columns,
            "rows": answer.rows,
            "complete": answer.complete,
        }
        invocation.write_json(document)
        return
    if answer.columns:
        invocation.show(invocation.table(answer.columns, answer.rows))
    if not answer.complete:
        invocation.say(f"(the first {most} rows; --most shows more)")
