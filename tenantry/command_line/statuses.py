"""The state of everything at a moment, its problems, and their form in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from rich.text import Text

from tenantry.command_line import fleet
from tenantry.command_line.invocation import Invocation, age, coloured, duration, plain
from tenantry.requests.rows import now
from tenantry.tenants.wind_down import Leftover, left_behind
from tenantry.workloads.schema import Workload

if TYPE_CHECKING:
    from rich.table import Table

ALL_WELL: Final = "All well."
ALL_LISTED_WELL: Final = "All well with these."
"""For a list that is not complete."""
_LONG_WAIT_SECONDS: Final = 600.0  # far beyond the launcher's ticks
_ENDED_BADLY: Final = frozenset({"Failed", "Stopped"})


@dataclass(frozen=True)
class Statuses:
    """The state of the workloads at a moment. ``left_behind`` are the remains of removed ones;
    ``unreadable`` says by name why files cannot be used."""

    at: datetime
    upload_events: fleet.UploadEvents
    workloads: Sequence[fleet.WorkloadStatus]
    left_behind: Sequence[Leftover]
    unreadable: Mapping[str, str]

    @property
    def problems(self) -> list[str]:
        """The problems, a sentence each, with the cure."""
        found = []
        if dead := self.upload_events.dead_letters:
            found.append(f"Uploads in the dead-letter queue: {dead}; see `tenantry redrive`")
        found += map(str, self.left_behind)
        found += self.unreadable.values()
        for one in self.workloads:
            found += _problems_of(one)
        return found

    def to_json(self) -> dict[str, Any]:
        """The document that ``--json`` writes."""
        problems = self.problems
        return {"format": 1, **vars(self), "well": not problems, "problems": problems}


def collect(invocation: Invocation, workload: Workload | None) -> Statuses:
    """Look at a workload, or at all of them and at the remains of removed ones."""
    at, deployment = now(), invocation.deployment
    found = [fleet.workload_status(deployment, one, at) for one in invocation.chosen(workload)]
    left = left_behind(deployment, invocation.workloads.names) if workload is None else []
    unreadable = dict(invocation.workloads.unreadable) if workload is None else {}
    return Statuses(at, fleet.upload_events(deployment), found, left, unreadable)


def _problems_of(one: fleet.WorkloadStatus) -> Iterator[str]:
    name, waits = one.workload, one.oldest_wait or 0.0
    if one.paused is not None:
        yield f"{name} is paused; `tenantry resume {name}` ends it"
    elif waits > _LONG_WAIT_SECONDS and not one.packs:
        yield (
            f"Requests of {name} have been due for {duration(waits)} and no pack is on its way; "
            f"see that Dagster's daemon runs"
        )
    for status, stand in (("failed", "wait for their next try"), ("dead_lettered", "wait for you")):
        if count := one.requests.get(status, 0):
            yield (
                f"Requests of {name} that {stand}: {count} {status}; `tenantry requests {name} "
                f"--status {status}` tells why"
            )
    for pack in one.packs:
        if pack.job is not None and pack.job.status in _ENDED_BADLY:
            why = f": {pack.job.reason}" if pack.job.reason else ""
            yield f"Training job {pack.job.name} is {pack.job.status}{why}"
    yield from endpoint_problems(one.endpoints)


def endpoint_problems(endpoints: Sequence[fleet.EndpointInUse]) -> Iterator[str]:
    """The endpoints' problems; an endpoint that is being made or changed has none."""
    for one in endpoints:
        if one.status == "Failed" or one.reason:
            why = ", with the reason above" if one.reason else ""
            yield f"Endpoint {one.name} is {one.status}{why}"


def shown(invocation: Invocation, statuses: Statuses, *, fits: bool = False) -> list[Table | Text]:
    """The lines and tables for people; ``fits``: none is wider than the terminal."""
    events = statuses.upload_events
    head = f"{plain(statuses.at)} UTC. Uploads to be taken in: {events.waiting + events.being_read}"
    parts: list[Table | Text] = [Text(head)]
    for one in statuses.workloads:
        parts += [Text(), *_shown_workload(invocation, one, fits=fits)]
    return [*parts, Text(), *verdict(statuses.problems)]


def verdict(problems: Sequence[str], all_well: str = ALL_WELL) -> list[Text]:
    """The last lines of a status: all is well, or the problems."""
    if not problems:
        return [Text(all_well, style="green")]
    listed = [Text(f"  {plain(problem)}", style="red") for problem in problems]
    return [Text("Not well:", style="bold"), *listed]


def _shown_workload(
    invocation: Invocation, one: fleet.WorkloadStatus, *, fits: bool
) -> Iterator[Table | Text]:
    yield Text(one.workload, style="bold")
    if one.paused is not None:
        since = duration(age(one.paused.at))
        yield Text(
            plain(f"  paused for {since} by {one.paused.by}: {one.paused.why}"), style="yellow"
        )
    counts = Text("  requests: ")
    for number, (name, count) in enumerate(one.requests.items()):
        counts.append(", " if number else "")
        counts.append(f"{count} {name}", style=coloured(name).style if count else "dim")
    yield counts
    if one.oldest_wait is not None:
        yield Text(f"  the oldest has been due for {duration(one.oldest_wait)}")
    if one.packs:
        rows = [
            (
                f"  {pack.pack}",
                pack.tier,
                ", ".join(f"{count} {name}" for name, count in pack.requests.items()),
                *(job_cells(pack.job) if pack.job is not None else ("no job yet", "", "", "")),
            )
            for pack in one.packs
        ]
        of_packs = ("  pack", "tier", "requests", "job", "", "instances", "age")
        yield invocation.table(of_packs, rows, fits=fits)
    if one.endpoints:
        of_endpoints = ("  endpoint", "", "instances", "models", "reason")
        cells = endpoint_rows(one.endpoints)
        yield invocation.table(of_endpoints, cells, prose=["reason"], fits=fits)


def job_cells(job: fleet.TrainingJob) -> tuple[object, ...]:
    """A training job in a table: name, status, instances, how long it ran."""
    said = (
        job.status
        if job.secondary_status in {job.status, ""}
        else f"{job.status}, {job.secondary_status}"
    )
    ran = (job.ended - job.created).total_seconds() if job.ended is not None else age(job.created)
    stands = Text(said, style=coloured(job.status).style)
    return job.name, stands, f"{job.instances} × {job.instance_type}", duration(ran)


def why_or_until(endpoint: fleet.EndpointInUse, kept_days: int) -> str:
    """An endpoint's reason, or that it serves nobody and until when it is kept."""
    if endpoint.unused_since is None:
        return endpoint.reason or ""
    until = endpoint.unused_since + timedelta(days=kept_days)
    return f"serves nobody; removed on {until:%Y-%m-%d}" + (
        f"; {endpoint.reason}" if endpoint.reason else ""
    )


def endpoint_rows(endpoints: Sequence[fleet.EndpointInUse]) -> list[tuple[object, ...]]:
    """Endpoints in a table: name, status, instances, models, reason."""
    return [
        (
            f"  {one.name}",
            coloured(one.status),
            str(one.instances)
            if one.instances == one.wanted
            else f"{one.instances} of {one.wanted}",
            one.models,
            one.reason or "",
        )
        for one in endpoints
    ]
