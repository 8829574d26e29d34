"""The commands that look and change nothing: status, tenant, requests, jobs, endpoints."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Final

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from tenantry.command_line import fleet, story
from tenantry.command_line.invocation import (
    TENANT,
    WORKLOAD,
    Invocation,
    NotDone,
    age,
    common_options,
    duration,
    plain,
)
from tenantry.names import ids
from tenantry.requests.queue import RequestQueue
from tenantry.requests.rows import INDEXED, Request, Status, now
from tenantry.serving.moments import data_age
from tenantry.tenants.wind_down import Leftover, left_behind
from tenantry.workloads.schema import Workload

_SHORTEST_SECONDS: Final = 1.0  # between two redraws: each is a dozen calls to AWS
_WORSE: Final = {
    "dead_lettered": "red",
    "failed": "yellow",
    "refused": "yellow",
    "Failed": "red",
    "Stopped": "yellow",
}

# A run's id as the Dagster UI shows it in lists; --json has all of it.
_SHORT_RUN: Final = re.compile(r"(run [0-9a-f]{8})-[0-9a-f]{4}-[0-9a-f-]{22}[0-9a-f]*")


def _coloured(status: str) -> Text:
    return Text(status, style=_WORSE.get(status, ""))


# ---- status --------------------------------------------------------------------------------------


@click.command()
@click.argument("workload", type=WORKLOAD, required=False)
@click.option("--watch", is_flag=True, help="Look again and again until Ctrl-C.")
@click.option(
    "--every",
    type=click.FloatRange(min=_SHORTEST_SECONDS),
    default=2.0,
    show_default=True,
    help="Seconds between two looks of --watch.",
)
@common_options
def status(invocation: Invocation, workload: Workload | None, watch: bool, every: float) -> None:
    """How the queue, the packs and the endpoints stand: of WORKLOAD, or of all.

    Requests are counted by status; the oldest wait is how long the longest waiting one has been
    due. Each pack on its way is shown with its training job, each shared endpoint with the models
    it serves.

    \b
    Example:
      tenantry status energy --watch
    """
    if not watch:
        _write_status(invocation, _statuses(invocation, workload))
        return
    try:
        if invocation.as_json:
            while True:
                _write_status(invocation, _statuses(invocation, workload))
                time.sleep(every)
        with Live(console=invocation.console, auto_refresh=False) as live:
            while True:
                live.update(
                    _shown_status(invocation, *_statuses(invocation, workload)), refresh=True
                )
                time.sleep(every)
    except KeyboardInterrupt:  # the way to end it
        return


Statuses = tuple[fleet.UploadEvents, Sequence[fleet.WorkloadStatus], Sequence[Leftover], datetime]


def _statuses(invocation: Invocation, workload: Workload | None) -> Statuses:
    at = now()
    found = [
        fleet.workload_status(invocation.deployment, one, at) for one in invocation.chosen(workload)
    ]
    left = (
        left_behind(invocation.deployment, invocation.workloads.names) if workload is None else []
    )
    return fleet.upload_events(invocation.deployment), found, left, at


def _write_status(invocation: Invocation, statuses: Statuses) -> None:
    events, found, left, at = statuses
    if invocation.as_json:
        invocation.write_json(
            {
                "format": 1,
                "at": at,
                "upload_events": events,
                "workloads": found,
                "left_behind": left,
                "unreadable": invocation.workloads.unreadable,
            }
        )
    else:
        invocation.console.print(_shown_status(invocation, *statuses))


def _shown_status(
    invocation: Invocation,
    events: fleet.UploadEvents,
    found: Sequence[fleet.WorkloadStatus],
    left: Sequence[Leftover],
    at: datetime,
) -> RenderableType:
    head = f"{plain(at)} UTC. Uploads to be taken in: {events.waiting + events.being_read}"
    parts: list[RenderableType] = [Text(head)]
    if events.dead_letters:
        parts.append(
            Text(
                f"Uploads in the dead-letter queue: {events.dead_letters}; see `tenantry redrive`",
                style="red",
            )
        )
    parts += [Text(plain(str(one)), style="red") for one in left]
    for one in found:
        parts += ["", *_shown_workload(invocation, one)]
    return Group(*parts)


def _shown_workload(invocation: Invocation, one: fleet.WorkloadStatus) -> Iterator[RenderableType]:
    yield Text(one.workload, style="bold")
    if one.paused is not None:
        since = duration(age(one.paused.at))
        yield Text(
            plain(f"  paused for {since} by {one.paused.by}: {one.paused.why}"), style="yellow"
        )
    counts = Text("  requests: ")
    for number, (name, count) in enumerate(one.requests.items()):
        counts.append(", " if number else "")
        counts.append(f"{count} {name}", style=_WORSE.get(name, "") if count else "dim")
    yield counts
    if one.oldest_wait is not None:
        yield Text(f"  the oldest has been due for {duration(one.oldest_wait)}")
    if one.packs:
        rows = [
            (
                f"  {pack.pack}",
                pack.tier,
                ", ".join(f"{count} {name}" for name, count in pack.requests.items()),
                *(_job_cells(pack.job) if pack.job is not None else ("no job yet", "", "", "")),
            )
            for pack in one.packs
        ]
        yield invocation.table(("  pack", "tier", "requests", "job", "", "instances", "age"), rows)
    if one.endpoints:
        yield invocation.table(
            ("  endpoint", "", "instances", "models", "reason"), _endpoint_rows(one.endpoints)
        )


def _job_cells(job: fleet.TrainingJob) -> tuple[object, ...]:
    said = (
        job.status
        if job.secondary_status in {job.status, ""}
        else f"{job.status}, {job.secondary_status}"
    )
    ran = (job.ended - job.created).total_seconds() if job.ended is not None else age(job.created)
    shown = Text(said, style=_WORSE.get(job.status, ""))
    return job.name, shown, f"{job.instances} × {job.instance_type}", duration(ran)


def _endpoint_rows(endpoints: Sequence[fleet.EndpointInUse]) -> list[Sequence[object]]:
    return [
        (
            f"  {one.name}",
            _coloured(one.status),
            str(one.instances)
            if one.instances == one.wanted
            else f"{one.instances} of {one.wanted}",
            one.models,
            one.reason or "",
        )
        for one in endpoints
    ]


# ---- a tenant ------------------------------------------------------------------------------------


@click.command()
@click.argument("tenant", type=TENANT)
@click.option("--workload", type=WORKLOAD, help="Of this workload only.")
@click.option(
    "--most",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="Events shown, the latest.",
)
@common_options
def tenant(
    invocation: Invocation, tenant: ids.TenantId, workload: Workload | None, most: int
) -> None:
    """The whole story of TENANT in the order of time: uploads, requests, versions, champion, latest
    prediction.

    Each change of a request says who made it and why; the reason of a refused or dead-lettered one
    is what the tenant's owner was told. Times are UTC.

    \b
    Example:
      tenantry tenant acme --workload energy
    """
    stories = [
        story.story_of(invocation.deployment, one, tenant) for one in invocation.chosen(workload)
    ]
    known = [one for one in stories if one.known]
    if not known:
        where = "" if workload is None else f" of {workload.name}"
        raise NotDone(
            f"nothing is known of tenant {tenant}{where}: it never uploaded; is the id right?"
        )
    if invocation.as_json:
        invocation.write_json({"format": 1, "tenant": tenant, "workloads": known})
        return
    for one in known:
        invocation.console.print(Text(f"{one.tenant}, {one.workload}", style="bold"))
        invocation.console.print(plain(_served(one)))
        left_out = len(one.events) - most
        if left_out > 0:
            invocation.console.print(
                f"({left_out} earlier events are left out; --most {len(one.events)} shows them)"
            )
        rows = [
            (
                event.at,
                event.kind,
                event.id[:24],
                _what_happened(event),
                _SHORT_RUN.sub(r"\1", event.by),
            )
            for event in one.events[-most:]
        ]
        invocation.console.print(invocation.table(("at", "", "id", "what", "by"), rows))


def _what_happened(event: story.Event) -> Text:
    text = _coloured(plain(event.what))
    if event.code:
        text.append(f" ({plain(event.code)})", style="")
    return text.append(plain(f": {event.why}"), style="") if event.why else text


def _served(one: story.Story) -> str:
    if one.champion is None:
        return "It has no model yet."
    before = f"; before it {one.champion.previous}" if one.champion.previous else ""
    served = f"Served by version {one.champion.version} from {one.champion.endpoint}{before}."
    kept = [version.archive for version in one.versions if version.version == one.champion.version]
    if kept:
        served += f" Its archive: {kept[0]}."
    data = data_age(one.champion.card)
    if data is None:
        return served
    return (
        f"{served} Its data end on {data.end:%Y-%m-%d}, {data.days(now()):.0f} days ago;"
        f" it predicts until {data.usable_until:%Y-%m-%d}."
    )


# ---- lists ---------------------------------------------------------------------------------------


@click.command()
@click.argument("workload", type=WORKLOAD)
@click.option("--status", "wanted", type=click.Choice(INDEXED), help="Of this status only.")
@click.option(
    "--most",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Rows of each status.",
)
@common_options
def requests(invocation: Invocation, workload: Workload, wanted: Status | None, most: int) -> None:
    """The requests of WORKLOAD that are not finished, and those that are dead-lettered; the first
    due first.

    Finished ones are part of their tenant's story: `tenantry tenant`.

    \b
    Example:
      tenantry requests energy --status dead_lettered
    """
    queue, name = RequestQueue(invocation.deployment), ids.workload_name(workload.name)
    statuses: tuple[Status, ...] = INDEXED if wanted is None else (wanted,)
    found = [(one, queue.with_status(name, one)) for one in statuses]
    listed = [row for _, rows in found for row in rows[:most]]
    if invocation.as_json:
        invocation.write_json(
            {"format": 1, "workload": workload.name, "requests": [_listed(row) for row in listed]}
        )
        return
    for one, rows in found:
        if len(rows) > most:
            invocation.aside.print(f"{len(rows)} are {one}; the first {most} are shown (--most)")
    cells = [
        (
            row.tenant,
            row.request[:12],
            _coloured(row.status),
            row.tier,
            row.attempt,
            row.accepted,
            row.due,
            row.pack,
            row.reason,
        )
        for row in listed
    ]
    columns = ("tenant", "request", "status", "tier", "try", "accepted", "due", "pack", "reason")
    invocation.console.print(invocation.table(columns, cells) if cells else "There are none.")


def _listed(row: Request) -> dict[str, Any]:
    left_out = {"facts", "hyperparameters", "history"}  # lists do not read them
    return {name: value for name, value in vars(row).items() if name not in left_out}


@click.command()
@click.argument("workload", type=WORKLOAD, required=False)
@click.option(
    "--most",
    type=click.IntRange(1, 100),
    default=20,
    show_default=True,
    help="Jobs shown, the newest.",
)
@common_options
def jobs(invocation: Invocation, workload: Workload | None, most: int) -> None:
    """The newest training jobs, of WORKLOAD or of all: status, instances, how long they ran or are
    running.

    \b
    Example:
      tenantry jobs energy --most 5
    """
    found = fleet.newest_training_jobs(invocation.deployment, workload, most)
    if invocation.as_json:
        invocation.write_json({"format": 1, "jobs": found})
        return
    rows = [(*_job_cells(job), job.created, job.reason or "") for job in found]
    columns = ("job", "status", "instances", "time", "created", "reason")
    invocation.console.print(invocation.table(columns, rows) if rows else "There are none.")


@click.command()
@click.argument("workload", type=WORKLOAD, required=False)
@common_options
def endpoints(invocation: Invocation, workload: Workload | None) -> None:
    """Every endpoint, of WORKLOAD or of all: status, instances, how many tenants' models it serves.

    Those of silo tenants are among them; at most a hundred a workload are shown, the newest.

    \b
    Example:
      tenantry endpoints --json
    """
    found = [
        one
        for chosen in invocation.chosen(workload)
        for one in fleet.all_endpoints(invocation.deployment, chosen)
    ]
    if invocation.as_json:
        invocation.write_json({"format": 1, "endpoints": found})
        return
    rows = [
        (*row[:4], one.changed, row[4])
        for row, one in zip(_endpoint_rows(found), found, strict=True)
    ]
    columns = ("  endpoint", "", "instances", "models", "changed", "reason")
    invocation.console.print(invocation.table(columns, rows) if rows else "There are none.")
