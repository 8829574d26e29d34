"""The commands that show a tenant's results: an answer of its model, and its predictions."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from tenantry.command_line.invocation import (
    MODEL,
    WORKLOAD,
    Invocation,
    NotDone,
    common_options,
    plain,
)
from tenantry.names import ids

if TYPE_CHECKING:
    from tenantry.command_line.predicted import StoredPrediction
    from tenantry.hosting.invocation import Answer
    from tenantry.serving.client import TenantClient
    from tenantry.workloads.schema import Workload

_EARLIER: Final = 7  # predictions that are listed besides the one that is shown


class JsonObject(click.ParamType[dict[str, Any]]):
    """A JSON object, or ``-`` for one on standard input."""

    name = "request"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[str, Any]:
        """The object."""
        if isinstance(value, dict):
            return value
        text = sys.stdin.read() if value == "-" else str(value)
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            self.fail(f"{text[:80]!r} is no JSON: {error}", param, ctx)
        if not isinstance(document, dict):
            self.fail(f"{text[:80]!r} is no JSON object, as '{{\"period\": 7}}' is", param, ctx)
        return document


_OUTPUT: Final = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("tenant", type=MODEL, metavar="TENANT[.MODEL]")
@click.argument("request", type=JsonObject())
@click.option("--workload", type=WORKLOAD, help="Whose model, where the tenant has several.")
@click.option(
    "--output", type=_OUTPUT, help="Write pictures to this file, or an answer without any."
)
@click.option(
    "--asynchronous", is_flag=True, help="Ask the asynchronous endpoint, and wait for the answer."
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=900.0,
    show_default=True,
    help="Seconds to wait for an asynchronous answer.",
)
@common_options
def ask(
    invocation: Invocation,
    tenant: ids.ModelId,
    request: dict[str, Any],
    workload: Workload | None,
    output: Path | None,
    asynchronous: bool,
    timeout: float,
) -> None:
    """Ask TENANT's model, as the product's app does, and print its answer.

    REQUEST is a JSON object, or `-` to read one from standard input. The exchange is archived and
    counted as the app's are. A model that does not answer at once is asked asynchronously. So is
    one without an instance, where the workload says park_when_unavailable.

    \b
    Examples:
      tenantry ask acme '{"period": 7}'
      tenantry ask studio-1 '{"prompt": "a big star", "seed": 7}' --output star.png
    """
    from tenantry.aws.objects import ObjectMissingError
    from tenantry.hosting.invocation import EndpointBusyError, InvocationRefusedError
    from tenantry.hosting.shapes.asynchronous import NotAsynchronousError
    from tenantry.hosting.shapes.catalogue import UnknownShapeError
    from tenantry.serving.client import NoModelYetError, TenantClient

    chosen = _asked_workload(invocation, tenant, workload)
    try:
        with TenantClient.of_model(invocation.deployment, chosen, tenant) as client:
            version = client.champion().version
            answer = _answer(invocation, client, request, timeout, asynchronous=asynchronous)
    except TimeoutError as error:
        raise NotDone(f"{error}; repeat this, or give --timeout") from error
    except EndpointBusyError as error:
        slow = chosen.serving.asynchronous is not None and not asynchronous
        cure = "; --asynchronous waits for it" if slow else "; ask again later"
        raise NotDone(f"{_in_words(error)}{cure}") from error
    except (
        InvocationRefusedError,
        NoModelYetError,
        NotAsynchronousError,
        ObjectMissingError,
        UnknownShapeError,
    ) as error:
        raise NotDone(_in_words(error)) from error
    _write_answer(invocation, tenant, chosen, version, answer, output)


def _in_words(error: Exception) -> str:
    """The error's message; for a container's error document (docs/contracts.md), the one in it."""
    try:
        return str(json.loads(str(error))["error"]["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return str(error)


def _asked_workload(
    invocation: Invocation, tenant: ids.ModelId, workload: Workload | None
) -> Workload:
    """The workload to ask: the one named, the only one, or the one that serves the tenant. Raises
    ``NotDone``."""
    from tenantry.models.registry import ModelRegistry

    if workload is not None:
        return workload
    offered = invocation.chosen(None)
    if len(offered) == 1:
        return offered[0]
    registry = ModelRegistry(invocation.deployment)
    serving = [one for one in offered if registry.champion(tenant, ids.workload_name(one.name))]
    if not serving:
        raise NotDone(
            f"{tenant} has no model yet; `tenantry tenant {tenant}` tells what became of its "
            f"uploads"
        )
    if len(serving) > 1:
        names = " and ".join(one.name for one in serving)
        raise NotDone(f"{tenant} has models of {names}; name one with --workload")
    return serving[0]


def _answer(
    invocation: Invocation,
    client: TenantClient,
    request: dict[str, Any],
    timeout: float,
    *,
    asynchronous: bool,
) -> Answer:
    from tenantry.hosting.shapes.catalogue import shape_named
    from tenantry.hosting.shapes.shape import RealTimeShape
    from tenantry.serving.asynchronous import ParkedError

    at_once = isinstance(shape_named(client.champion().route.shape), RealTimeShape)
    if at_once and not asynchronous:
        try:
            return client.predict_bytes(request, wait_seconds=0)
        except ParkedError as parked:
            invocation.aside.print("no instance takes requests; this one is parked until one does")
            submitted = parked.submitted
    else:
        submitted = client.submit(request)
    with invocation.aside.status("waiting for the asynchronous answer"):
        return client.wait(submitted, timeout)


def _write_answer(
    invocation: Invocation,
    tenant: ids.ModelId,
    workload: Workload,
    version: ids.Version,
    answer: Answer,
    output: Path | None,
) -> None:
    from tenantry.command_line.predicted import without_pictures

    try:
        document: Any = json.loads(answer.content)
    except ValueError:
        document = None
        if output is None:
            raise NotDone(
                f"the model answered with {answer.content_type or 'bytes'}, which no terminal "
                f"shows; --output FILE saves them"
            ) from None
    try:
        shown, files = (
            (document, [])
            if invocation.as_json and output is None
            else without_pictures(document, output)
        )
        as_it_came = output is not None and not files
        if output is not None and not files:
            output.write_bytes(answer.content)
            files = [output]
    except OSError as error:
        raise NotDone(f"{error.filename} cannot be written: {error.strerror}") from error
    if invocation.as_json:
        invocation.write_json(
            {
                "format": 1,
                "tenant": tenant,
                "workload": workload.name,
                "version": version,
                "answer": shown,
                "files": [str(file) for file in files],
            }
        )
        return
    if not as_it_came:
        click.echo(plain(json.dumps(shown, ensure_ascii=False)))
    for file in files:
        invocation.aside.print(f"written: {file}", soft_wrap=True)


# ---- batch predictions ---------------------------------------------------------------------------


@click.command()
@click.argument("tenant", type=MODEL, metavar="TENANT[.MODEL]")
@click.option("--workload", type=WORKLOAD, help="Of this workload only.")
@click.option(
    "--day", type=click.DateTime(["%Y-%m-%d"]), help="The prediction of this day; else the latest."
)
@click.option("--batch", help="The prediction by this batch of the workload; else the latest.")
@click.option(
    "--rows",
    "most",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="Rows of the preview.",
)
@click.option("--output", type=_OUTPUT, help="Write the prediction to this file, as S3 has it.")
@click.option(
    "--first",
    is_flag=True,
    help="What the training of the newest version made with it, instead; needs --workload.",
)
@common_options
def predictions(
    invocation: Invocation,
    tenant: ids.ModelId,
    workload: Workload | None,
    day: datetime | None,
    batch: str | None,
    most: int,
    output: Path | None,
    first: bool,
) -> None:
    """The latest batch prediction of TENANT: when it was made, of which period, where it lies, and
    its first rows.

    \b
    Examples:
      tenantry predictions acme
      tenantry predictions acme --workload energy --day 2026-11-24 --output acme.jsonl
      tenantry predictions acme --workload portraits --first --output first.png
    """
    from tenantry.command_line.predicted import stored_predictions

    if first:
        _show_first_results(invocation, tenant, workload, output)
        return
    of_each = {}
    for one in invocation.chosen(workload):
        name = ids.workload_name(one.name)
        stored = stored_predictions(invocation.deployment, name, tenant)
        wanted = [
            made
            for made in stored
            if (day is None or made.day == day.date()) and batch in {None, made.batch}
        ]
        if wanted:
            of_each[name] = (wanted[-1], [made for made in stored if made is not wanted[-1]])
    if not of_each:
        what = "batch prediction" if day is None else f"batch prediction of {day:%Y-%m-%d}"
        of = "" if workload is None else f" for {workload.name}"
        raise NotDone(
            f"{tenant} has no {what}{of}; `tenantry tenant {tenant}` tells whether it has a model"
        )
    if output is not None and len(of_each) > 1:
        raise NotDone(
            f"{tenant} has predictions of {' and '.join(of_each)}; name one with --workload"
        )
    documents = [
        _shown_prediction(invocation, tenant, name, shown, others, most, output)
        for name, (shown, others) in of_each.items()
    ]
    if invocation.as_json:
        invocation.write_json({"format": 1, "tenant": tenant, "predictions": documents})


def _show_first_results(
    invocation: Invocation, tenant: ids.ModelId, workload: Workload | None, output: Path | None
) -> None:
    """List the first results of a tenant's newest version, or write them: the first one to
    ``output``, further ones beside it with their numbers."""
    from tenantry.models.first_results import first_results, read_first_result
    from tenantry.models.registry import ModelRegistry

    if workload is None:
        raise click.UsageError("--first needs --workload")
    name, deployment = ids.workload_name(workload.name), invocation.deployment
    versions = ModelRegistry(deployment).versions(tenant, name)
    found = first_results(deployment, name, tenant, versions[-1].version) if versions else []
    if not found:
        raise NotDone(f"{tenant} has no first results of {workload.name}")
    version, written = versions[-1].version, []
    for number, one in enumerate(found, 1):
        if output is not None:
            more = f"-{number}" if number > 1 else ""
            file = output.with_name(f"{output.stem}{more}{output.suffix}")
            file.write_bytes(read_first_result(deployment, name, tenant, version, one.name))
            written.append(str(file))
    if invocation.as_json:
        names = [one.name for one in found]
        invocation.write_json({"format": 1, "version": version, "files": names, "to": written})
        return
    invocation.say(f"Version {version}: {', '.join(f'{one.name} ({one.size} B)' for one in found)}")
    for path in written:
        invocation.aside.print(f"written: {path}", soft_wrap=True)


def _shown_prediction(
    invocation: Invocation,
    tenant: ids.ModelId,
    workload: ids.WorkloadName,
    shown: StoredPrediction,
    others: list[StoredPrediction],
    most: int,
    output: Path | None,
) -> dict[str, Any]:
    """Show a prediction, and write it to a file if one is named. Returns it for ``--json``."""
    from tenantry.aws.objects import read_bytes
    from tenantry.serving.client import MAX_PREDICTION_BYTES
    from tenantry.shown.tabulated import tabulated

    deployment = invocation.deployment
    content = read_bytes(deployment.s3, deployment.data_bucket, shown.key, MAX_PREDICTION_BYTES)
    try:
        table = tabulated([json.loads(line) for line in content.splitlines() if line.strip()])
    except ValueError:
        table = tabulated([])
    if output is not None:
        try:
            output.write_bytes(content)
        except OSError as error:
            raise NotDone(f"{output} cannot be written: {error.strerror}") from error
    where = f"s3://{deployment.data_bucket}/{shown.key}"
    if not invocation.as_json:
        unit = f" in {table.unit}" if table.unit else ""
        period = f", {table.period[0]} to {table.period[1]}" if table.period else ""
        invocation.say(
            f"{tenant}, {workload}: the prediction {shown.batch} of {shown.day}, written "
            f"{plain(shown.written)} UTC: {len(table.rows)} rows{unit}{period}"
        )
        invocation.say(where)
        if table.rows[:most]:
            invocation.show(invocation.table(table.columns, table.rows[:most]))
        if len(table.rows) > most:
            invocation.say(
                f"(the first {most} of {len(table.rows)} rows; --rows {len(table.rows)} shows all)"
            )
        if others:
            days = ", ".join(
                f"{other.day} ({other.batch})" for other in others[: -_EARLIER - 1 : -1]
            )
            more = f" and {len(others) - _EARLIER} more" if len(others) > _EARLIER else ""
            invocation.say(f"There are others, of {days}{more}: --day and --batch show one")
        if output is not None:
            invocation.aside.print(f"written: {output}", soft_wrap=True)
    return {
        "workload": workload,
        "batch": shown.batch,
        "day": shown.day.isoformat(),
        "written": shown.written,
        "uri": where,
        "bytes": shown.size,
        "rows": len(table.rows),
        "period": table.period,
        "preview": [dict(zip(table.columns, row, strict=True)) for row in table.rows[:most]],
        "other_days": [other.day.isoformat() for other in others],
    }
