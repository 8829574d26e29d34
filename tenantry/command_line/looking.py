"""The commands that look and change nothing: status, tenants, tenant, requests, jobs,
endpoints."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import click

from contracts.trace_context import trace_id_of
from tenantry.command_line.invocation import (
    MODEL,
    WORKLOAD,
    Invocation,
    NotDone,
    age,
    coloured,
    common_options,
    duration,
    plain,
)
from tenantry.names import ids
from tenantry.requests.rows import INDEXED, Request, Status, now

if TYPE_CHECKING:
    from rich.text import Text

    from tenantry.aws.deployment import Deployment
    from tenantry.command_line import story
    from tenantry.command_line.roster import TenantStanding
    from tenantry.workloads.schema import Workload

_SHORTEST_SECONDS: Final = 1.0  # between two redraws: each is a dozen calls to AWS


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
    it serves. The last line says "All well.", or the last lines name each problem and its cure.

    \b
    Example:
      tenantry status energy --watch
    """
    from rich.console import Group
    from rich.live import Live

    from tenantry.command_line import statuses

    if not watch:
        found = statuses.collect(invocation, workload)
        if invocation.as_json:
            invocation.write_json(found.to_json())
        else:
            invocation.show(*statuses.shown(invocation, found))
        return
    try:
        if invocation.as_json:
            while True:
                invocation.write_json(statuses.collect(invocation, workload).to_json())
                time.sleep(every)
        with Live(console=invocation.console, auto_refresh=False) as live:
            while True:
                found = statuses.collect(invocation, workload)
                live.update(Group(*statuses.shown(invocation, found, fits=True)), refresh=True)
                time.sleep(every)
    except KeyboardInterrupt:  # the way to end it
        return


# ---- a tenant ------------------------------------------------------------------------------------


@click.command()
@click.argument("tenant", type=MODEL, metavar="TENANT[.MODEL]")
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
    invocation: Invocation, tenant: ids.ModelId, workload: Workload | None, most: int
) -> None:
    """The whole story of TENANT in the order of time: uploads, requests, versions, champion, latest
    prediction. Each of its models has a story of its own; MODEL shows one alone.

    Each change of a request shows who made it and why. The tenant's owner was told the reason of a
    refused or dead-lettered one. Times are UTC.

    \b
    Example:
      tenantry tenant acme --workload energy
    """
    from rich.text import Text

    from tenantry.command_line import story

    stories = [
        story.story_of(invocation.deployment, one, model)
        for one in invocation.chosen(workload)
        for model in _models_of(invocation, one, tenant)
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
        invocation.show(
            Text(f"{one.tenant}, {one.workload}", style="bold"), *map(plain, _served(one))
        )
        left_out = len(one.events) - most
        if left_out > 0:
            invocation.say(
                f"({left_out} earlier events are left out; --most {len(one.events)} shows them)"
            )
        rows = [
            (event.at, event.kind, event.id, _what_happened(event), event.by)
            for event in one.events[-most:]
        ]
        invocation.show(invocation.table(("at", "", "id", "what", "by"), rows, prose=["what"]))


def _models_of(
    invocation: Invocation, workload: Workload, tenant: ids.ModelId
) -> list[ids.ModelId]:
    """The model that was named; all of a tenant's, if none was."""
    from tenantry.models.registry import ModelRegistry

    if tenant != ids.tenant_of(tenant):
        return [tenant]
    name = ids.workload_name(workload.name)
    return ModelRegistry(invocation.deployment).models_of(ids.tenant_of(tenant), name)


def _what_happened(event: story.Event) -> Text:
    text = coloured(plain(event.what))
    if event.code:
        text.append(f" ({plain(event.code)})", style="")
    return text.append(plain(f": {event.why}"), style="") if event.why else text


def _served(one: story.Story) -> list[str]:
    """By which version a tenant is served, a line each for what belongs to it."""
    from tenantry.serving.moments import data_age

    if one.champion is None:
        return ["It has no model yet."]
    before = f"; before it {one.champion.previous}" if one.champion.previous else ""
    version = f"version {one.champion.version}"
    if one.champion.route.tenant != one.tenant:
        version += " of the model that all tenants share,"
    served = [f"Served by {version} from {one.champion.endpoint}{before}."]
    kept = [version.archive for version in one.versions if version.version == one.champion.version]
    if kept:
        served.append(f"Its archive: {kept[0]}.")
    if (trial := one.champion.trial) is not None:
        served.append(
            f"On trial: {trial.version}, {trial.percent} % of the requests since "
            f"{trial.since:%Y-%m-%d %H:%M} UTC, by {trial.by}."
        )
    if trace_id := trace_id_of(one.champion.traceparent):
        served.append(f"Its trace: {trace_id}.")
    data = data_age(one.champion.card)
    if data is not None:
        served.append(
            f"Its data end on {data.end:%Y-%m-%d}, {_days(data.days(now()))} ago; it predicts "
            f"until {data.usable_until:%Y-%m-%d}."
        )
    return served


def _days(number: float) -> str:
    return f"{number:.0f} day" + ("" if round(number) == 1 else "s")


# ---- all tenants ---------------------------------------------------------------------------------


@click.command()
@click.option("--workload", type=WORKLOAD, help="Of this workload only.")
@click.option(
    "--most",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Tenants shown of each workload.",
)
@click.option("--after", type=MODEL, help="Only tenants after this one; needs --workload.")
@common_options
def tenants(
    invocation: Invocation, workload: Workload | None, most: int, after: ids.ModelId | None
) -> None:
    """The tenants by their ids: champion, its score, the age of its data, the newest request.

    The list has each tenant with a model, its own or one for all, and those with an unfinished or
    dead-lettered request. For a tenant whose every upload was refused, see `tenantry tenant`.

    \b
    Examples:
      tenantry tenants
      tenantry tenants --workload energy --after shop-0100 --most 1000
    """
    from tenantry.command_line import statuses
    from tenantry.command_line.roster import problems_of

    if after is not None and workload is None:
        raise click.UsageError("--after needs --workload")
    documents: list[dict[str, Any]] = []
    listed: list[TenantStanding] = []
    for one in invocation.chosen(workload):
        found, more = _list_tenants(invocation, one, most, after or "")
        listed += found
        going_on = found[-1].tenant if more else None
        documents.append({"workload": one.name, "tenants": found, "more_after": going_on})
    if invocation.as_json:
        invocation.write_json({"format": 1, "workloads": documents})
        return
    if listed:
        invocation.show(*statuses.verdict(problems_of(listed), statuses.ALL_LISTED_WELL))


def _list_tenants(
    invocation: Invocation, workload: Workload, most: int, after: str
) -> tuple[list[TenantStanding], bool]:
    """List a workload's tenants, each page as it is read. Returns them, and whether there are
    more."""
    from tenantry.command_line.roster import roster

    listed: list[TenantStanding] = []
    more, deployment = False, invocation.deployment
    for page in roster(deployment, workload, after=after, most=most):
        more = page.more
        if not (listed or invocation.as_json):
            invocation.show(_tenants_head(deployment, workload))
        listed += page.tenants
        if not invocation.as_json:
            columns = ("tenant", "champion", workload.quality.metric, "age of data", "request", "")
            invocation.show(invocation.table(columns, list(map(_tenant_cells, page.tenants))))
    if invocation.as_json:
        return listed, more
    if not listed:
        invocation.say(f"{workload.name}: there are none")
    if more:
        invocation.say(
            f"(the first {len(listed):,} are shown; go on with `tenantry tenants --workload "
            f"{workload.name} --after {listed[-1].tenant}`, or show more with --most)"
        )
    return listed, more


def _tenants_head(deployment: Deployment, workload: Workload) -> Text:
    from rich.text import Text

    from tenantry.models.registry import ModelRegistry

    count = ModelRegistry(deployment).count_champions(ids.workload_name(workload.name))
    models = f"{count:,} with a model" if workload.shared_model is None else "one model for all"
    better = "lower" if workload.quality.lower_is_better else "higher"
    said = f"; of {workload.quality.metric}, {better} is better"
    return Text(f"{workload.name}: {models}{said}", style="bold")


def _tenant_cells(one: TenantStanding) -> tuple[object, ...]:
    score = None if one.score is None else f"{one.score:.4g}"
    data = duration(age(one.data_end)) + (", too old" if one.too_old else "")
    return one.tenant, one.version, score, data, coloured(one.status or "–"), one.request


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
    from tenantry.requests.queue import RequestQueue

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
            said = f"{len(rows)} are {one}; the first {most} are shown (--most)"
            invocation.aside.print(said, soft_wrap=True)
    cells = [
        (
            row.tenant,
            row.request,
            coloured(row.status),
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
    table = invocation.table(columns, cells, prose=["reason"])
    invocation.show(table if cells else "There are none.")


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
    from tenantry.command_line import fleet
    from tenantry.command_line.statuses import job_cells

    found = fleet.newest_training_jobs(invocation.deployment, workload, most)
    if invocation.as_json:
        invocation.write_json({"format": 1, "jobs": found})
        return
    rows = [(*job_cells(job), job.created, job.reason or "") for job in found]
    columns = ("job", "status", "instances", "time", "created", "reason")
    table = invocation.table(columns, rows, prose=["reason"])
    invocation.show(table if rows else "There are none.")


@click.command()
@click.argument("workload", type=WORKLOAD)
@click.option(
    "--hours", type=click.FloatRange(0.01, 168), default=1.0, show_default=True, help="Looked at."
)
@common_options
def shadow(invocation: Invocation, workload: Workload, hours: float) -> None:
    """What the shadow of WORKLOAD's shared endpoint answers otherwise than the endpoint does.

    \b
    Example:
      tenantry shadow portraits --hours 24
    """
    from tenantry.hosting.shadows import has_shadow, report_of_shared

    if not has_shadow(workload):
        raise click.ClickException(
            f"the shared endpoint of {workload.name} has no shadow; add hosting.shadow to "
            f"{workload.name}.yaml (docs/hosting.md)"
        )
    now = datetime.now(UTC)
    found = report_of_shared(invocation.deployment, workload, now - timedelta(hours=hours), now)
    if invocation.as_json:
        said = {**asdict(found), "disagreement": found.disagreement}
        invocation.write_json({"format": 1, **said})
        return
    if found.disagreement is None:
        invocation.say(f"The shadow of {found.endpoint} has answered nobody's copy.")
        return
    invocation.say(
        f"{found.endpoint}: of {found.compared + found.failed} answers compared, "
        f"{found.differing} differ and {found.failed} failed ({found.disagreement:.1%}); "
        f"{found.unmatched} requests have no copy."
    )


@click.command()
@click.argument("workload", type=WORKLOAD, required=False)
@common_options
def endpoints(invocation: Invocation, workload: Workload | None) -> None:
    """Every endpoint, of WORKLOAD or of all: status, instances, how many tenants' models it serves.

    Those of silo tenants are among them; at most a hundred a workload are shown, the newest. What
    serves nobody says so, and when it will be removed.

    \b
    Example:
      tenantry endpoints --json
    """
    from tenantry.command_line import fleet, statuses

    found = [
        (one, chosen.serving.remove_unused_after_days)
        for chosen in invocation.chosen(workload)
        for one in fleet.all_endpoints(invocation.deployment, chosen)
    ]
    shown = [one for one, _ in found]
    if invocation.as_json:
        invocation.write_json({"format": 1, "endpoints": shown})
        return
    if not found:
        invocation.say("There are none.")
        return
    rows = [
        (*row[:4], f"{one.usd_per_hour:g}", one.changed, statuses.why_or_until(one, kept_days))
        for row, (one, kept_days) in zip(statuses.endpoint_rows(shown), found, strict=True)
    ]
    columns = ("  endpoint", "", "instances", "models", "USD/h", "changed", "reason")
    table = invocation.table(columns, rows, prose=["reason"])
    invocation.show(table, *statuses.verdict([*statuses.endpoint_problems(shown)]))
