"""The commands that change models, endpoints and whole workloads: wind-down, rollback, tier,
capacity, prewarm, remove-unused, retrain, redrive. Each change records its author."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

import click

from tenantry.command_line.invocation import (
    MODEL,
    TENANT,
    VERSION,
    WORKLOAD,
    WORKLOAD_NAME,
    Invocation,
    NotDone,
    common_options,
)
from tenantry.command_line.owed import named, yes_option
from tenantry.names import ids, tiers
from tenantry.requests.rows import OPEN
from tenantry.shown import operator_events

if TYPE_CHECKING:
    from tenantry.workloads.schema import Workload


@click.command("wind-down")
@click.argument("workload", type=WORKLOAD_NAME)
@click.option(
    "--delete-data", is_flag=True, help="Delete its uploads, models, predictions and rows, too."
)
@yes_option
@common_options
def wind_down(
    invocation: Invocation, workload: ids.WorkloadName, delete_data: bool, yes: bool
) -> None:
    """Cancel all open requests of WORKLOAD, tell their tenants, and delete its endpoints with their
    configurations and models.

    First remove the workload's YAML, and have Dagster load its definitions again: else its sensors
    make the endpoint anew. Its schedules are gone with the file. The tenants' data and models stay,
    unless --delete-data says otherwise.

    \b
    Example:
      tenantry wind-down energy
    """
    from tenantry.requests.queue import RequestQueue
    from tenantry.tenants import wind_down as ending

    if workload in invocation.workloads.names:
        raise NotDone(
            f"{workload}.yaml is still there; remove it, have Dagster load its definitions again, "
            f"and repeat this"
        )
    open_requests = len(RequestQueue(invocation.deployment).open(workload))
    data = "its data are deleted" if delete_data else "its data stay"
    invocation.confirm(
        f"Cancel {open_requests} open requests of {workload} and delete its endpoints ({data})?",
        yes=yes,
    )
    done = ending.wind_down(
        invocation.deployment, workload, by=invocation.operator, delete_data=delete_data
    )
    if invocation.as_json:
        invocation.write_json(
            {
                "format": 1,
                "workload": workload,
                "cancelled": [named(row) for row in done.cancelled],
                "endpoints": done.endpoints,
                "configurations": done.configurations,
                "models": done.models,
                "roles": done.roles,
                "objects": done.objects,
                "rows": done.rows,
            }
        )
    else:
        invocation.say(
            f"{workload} is wound down: {len(done.cancelled)} requests cancelled, "
            f"{len(done.endpoints)} endpoints,"
            f" {len(done.configurations)} configurations, {len(done.models)} models and"
            f" {len(done.roles)} roles deleted"
            + (
                f", {done.objects} objects and {done.rows} rows"
                if delete_data
                else f"; its data stay until `tenantry wind-down {workload} --delete-data`"
            )
        )
    if done.moved_on:
        raise NotDone(f"{len(done.moved_on)} requests moved on in this moment; repeat this")


# ---- rollback ------------------------------------------------------------------------------------


@click.command()
@click.argument("tenant", type=MODEL, metavar="TENANT[.MODEL]")
@click.option("--workload", type=WORKLOAD, required=True, help="Whose model.")
@click.option("--to", type=VERSION, help="This version instead of the previous champion.")
@click.option(
    "--why",
    default="an operator rolled it back",
    show_default=True,
    help="For the versions' notes.",
)
@yes_option
@common_options
def rollback(
    invocation: Invocation,
    tenant: ids.ModelId,
    workload: Workload,
    to: ids.Version | None,
    why: str,
    yes: bool,
) -> None:
    """Serve TENANT by its previous champion again, once that has answered, and tell its owner.

    The version that was rolled back does not return by itself; --to brings it back.

    \b
    Example:
      tenantry rollback acme --workload energy --why "it missed the holidays"
    """
    from tenantry.models.registry import ModelRegistry
    from tenantry.onboarding.registration import ArtifactUnusableError, roll_back
    from tenantry.shown.asset_metadata import rollback_metadata

    champion = ModelRegistry(invocation.deployment).champion(
        tenant, ids.workload_name(workload.name)
    )
    wanted = to or (champion.previous if champion is not None else None)
    if champion is not None and wanted is not None:
        invocation.confirm(f"Serve {tenant} by {wanted} instead of {champion.version}?", yes=yes)
    try:
        crowned = roll_back(
            invocation.deployment, workload, tenant, to=to, why=why, by=invocation.operator
        )
    except (LookupError, ArtifactUnusableError) as error:
        raise NotDone(str(error)) from error
    if champion is None or crowned.turn != champion.turn:
        metadata = rollback_metadata(crowned, by=invocation.operator, why=why)
        show_in_dagster(invocation, "materialization", workload, tenant, metadata, crowned.version)
    if invocation.as_json:
        invocation.write_json({"format": 1, "champion": crowned})
    else:
        invocation.say(
            f"{tenant} is served by version {crowned.version} from {crowned.endpoint} again"
        )


def show_in_dagster(
    invocation: Invocation,
    kind: operator_events.Kind,
    workload: Workload,
    tenant: ids.ModelId,
    metadata: Mapping[str, Any],
    data_version: str = "",
) -> None:
    """Let Dagster's sensor show the change on the tenant's partition of
    ``endpoint_registration``."""
    name = ids.workload_name(workload.name)
    event = operator_events.OperatorEvent(
        kind, name, "endpoint_registration", tenant, metadata, data_version
    )
    operator_events.leave(invocation.deployment, event)


# ---- a tenant's tier -----------------------------------------------------------------------------


@click.command()
@click.argument("tenant", type=TENANT)
@click.argument("workload", type=WORKLOAD)
@click.argument("tier", type=click.Choice(get_args(tiers.Tier)), required=False)
@click.option(
    "--why", default="an operator set it", show_default=True, help="Stands beside the setting."
)
@click.option("--now", "at_once", is_flag=True, help="Serve its present model there at once.")
@common_options
def tier(
    invocation: Invocation,
    tenant: ids.TenantId,
    workload: Workload,
    tier: tiers.Tier | None,
    why: str,
    at_once: bool,
) -> None:
    """Give TENANT a tier of its own for WORKLOAD: silo, bridge or pool. Without a tier, show the
    present one.

    It holds for requests that are taken in from now on: an upload, or a re-training. Until the
    model of such a request is registered, the tenant is served as before. With --now its present
    model moves: the new endpoint is made and has answered before it takes over.

    \b
    Examples:
      tenantry tier acme energy
      tenantry tier acme energy silo --why "its contract says so"
      tenantry tier acme energy silo --now
    """
    from tenantry.tenants.tier_changes import (
        OneModelForAllError,
        change_tier,
        move_to_its_tier,
        tier_metadata,
        tier_of,
    )

    if at_once and tier is None:
        raise click.UsageError("--now needs the tier: silo, bridge or pool")
    if tier is None:
        stands = tier_of(invocation.deployment, workload, tenant)
    else:
        try:
            stands = change_tier(
                invocation.deployment, workload, tenant, tier, by=invocation.operator, why=why
            )
        except OneModelForAllError as error:
            raise NotDone(str(error)) from error
        if at_once:
            move_to_its_tier(invocation.deployment, workload, tenant)
            stands = tier_of(invocation.deployment, workload, tenant)
        metadata = tier_metadata(stands, by=invocation.operator, why=why)
        show_in_dagster(invocation, "observation", workload, tenant, metadata)
    if invocation.as_json:
        invocation.write_json({"format": 1, "tier": stands})
        return
    whose = "its own" if stands.own else f"that of {workload.name}"
    invocation.say(
        f"{tenant}, {workload.name}: tier {stands.tier}, {whose}. {stands.what_moves_when}"
    )


# ---- changes that the Dagster UI offers, too -----------------------------------------------------


@click.command()
@click.argument("workload", type=WORKLOAD)
@click.argument("instances", type=click.IntRange(0, 1000), required=False)
@click.option(
    "--hours",
    type=click.FloatRange(0, 24 * 31, min_open=True),
    default=8.0,
    show_default=True,
    help="How long that number holds; then the YAML's bounds are back.",
)
@click.option("--end", is_flag=True, help="End such a number now.")
@click.option(
    "--asynchronous", is_flag=True, help="Of the asynchronous endpoint, not the real-time one."
)
@click.option("--tenant", type=TENANT, help="Of this silo tenant's own endpoint.")
@yes_option
@common_options
def capacity(
    invocation: Invocation,
    workload: Workload,
    instances: int | None,
    hours: float,
    end: bool,
    asynchronous: bool,
    tenant: ids.ModelId | None,
    yes: bool,
) -> None:
    """Give the shared endpoint of WORKLOAD, or a silo tenant's own, so many INSTANCES for some
    hours.

    Without INSTANCES, register what the YAML says; without --tenant, for the other tier's endpoint
    and each silo tenant's, too. A number that holds goes on, unless --end ends it.

    \b
    Examples:
      tenantry capacity energy 4 --hours 2
      tenantry capacity energy --end
      tenantry capacity energy 4 --hours 2 --tenant acme
    """
    from tenantry.capacity.every_endpoint import (
        NoEndpointOfItsOwnError,
        OtherEndpoints,
        mend_others,
        own_endpoint,
    )
    from tenantry.capacity.registration import Override, register_capacity
    from tenantry.capacity.scaled_endpoints import Kind, scaled_endpoint
    from tenantry.hosting.shapes.asynchronous import NotAsynchronousError
    from tenantry.requests.rows import now
    from tenantry.shown.capacity_view import (
        capacity_in_words,
        others_in_words,
        others_that_differed,
        plain_capacity_metadata,
    )

    if instances is not None and end:
        raise click.UsageError("give INSTANCES or --end, one of the two")
    kind: Kind = "asynchronous" if asynchronous else "real_time"
    deployment = invocation.deployment
    try:
        scaled = (
            scaled_endpoint(deployment.prefix, workload, workload.shared_machines, kind)
            if tenant is None
            else own_endpoint(deployment, workload, tenant, kind)
        )
    except (NoEndpointOfItsOwnError, NotAsynchronousError) as error:
        raise NotDone(str(error)) from error
    override = None
    if instances is not None:
        if scaled.kind == "real_time" and instances == 0:
            raise click.UsageError(
                "an endpoint that answers in real time needs an instance; 0 is for --asynchronous"
            )
        override = Override(instances, now() + timedelta(hours=hours))
        invocation.confirm(
            f"Give {scaled.name} {instances} instances for {hours:g} hours, at "
            f"{scaled.usd_per_hour:g} USD an hour each?",
            yes=yes,
        )
    done = register_capacity(deployment, scaled, override=override, end_override=end)
    plain = plain_capacity_metadata(scaled, done)
    if override is not None or end:
        name = ids.workload_name(workload.name)
        asset = "asynchronous_capacity" if asynchronous else "endpoint_capacity"
        metadata = {**plain, "by": invocation.operator}
        # The plotted figures of the asset are the shared endpoint's, so a tenant's are texts.
        event = (
            operator_events.OperatorEvent("materialization", name, asset, None, metadata)
            if tenant is None
            else operator_events.OperatorEvent(
                "observation",
                name,
                asset,
                None,
                {"tenant": tenant} | {key: str(value) for key, value in metadata.items()},
            )
        )
        operator_events.leave(deployment, event)
    others = OtherEndpoints((), 0)
    if tenant is None and override is None and not end:
        others = mend_others(deployment, workload, kind, tell=partial(click.echo, err=True))
    if invocation.as_json:
        differed = others_that_differed(others)
        of_others = {"other_endpoints": len(others.looked_at), "others_differed": differed}
        invocation.write_json({"format": 2, **plain, **(of_others if others.looked_at else {})})
    else:
        for line in capacity_in_words(deployment, scaled, done):
            invocation.say(line)
        for line in others_in_words(others) if others.looked_at else ():
            invocation.say(line)
    if failed := sum(bool(one.failure) for one in others.looked_at):
        raise NotDone(
            f"{failed} of {len(others.looked_at)} other endpoints could not be registered; their "
            f"reasons stand above"
        )


@click.command()
@click.argument("workload", type=WORKLOAD)
@common_options
def prewarm(invocation: Invocation, workload: Workload) -> None:
    """Load the models of WORKLOAD that will be asked in the coming hours, as its schedule does.

    The section `serving.prewarming` of its file says which, and how many.

    \b
    Example:
      tenantry prewarm energy
    """
    from tenantry.capacity.prewarming import prewarm
    from tenantry.requests.rows import now

    if workload.serving.prewarming is None:
        raise NotDone(
            f"{workload.name}.yaml has no section `serving.prewarming`; add one, which says which "
            f"models are loaded and when"
        )
    done = prewarm(invocation.deployment, workload, workload.serving.prewarming, now())
    metadata = {**done.figures, "by": invocation.operator}
    name = ids.workload_name(workload.name)
    operator_events.leave(
        invocation.deployment,
        operator_events.OperatorEvent("materialization", name, "prewarmed_models", None, metadata),
    )
    if invocation.as_json:
        invocation.write_json({"format": 1, **done.figures, "failures": done.failed})
    else:
        invocation.say(str(done))
        for tenant, reason in sorted(done.failed.items()):
            invocation.say(f"{tenant}: {reason}")
    if done.failed or done.untried:
        raise NotDone("not all of the chosen models are loaded")


@click.command("remove-unused")
@click.argument("workload", type=WORKLOAD)
@click.option("--days", type=click.IntRange(0), help="How long it must have been unused.")
@yes_option
@common_options
def remove_unused(invocation: Invocation, workload: Workload, days: int | None, yes: bool) -> None:
    """Remove endpoints of WORKLOAD that serve nobody, and what updates left, as its schedule does.

    Without --days, `serving.remove_unused_after_days` of its file says how long they are kept.

    \b
    Example:
      tenantry remove-unused energy --days 0
    """
    from tenantry.requests.rows import now
    from tenantry.tenants.unused import remove_unused

    after = workload.serving.remove_unused_after_days if days is None else days
    invocation.confirm(f"Remove what {workload.name} has not used for {after} days?", yes=yes)
    removed = remove_unused(invocation.deployment, workload, now(), after_days=after)
    if invocation.as_json:
        invocation.write_json({"format": 1, "removed": removed})
        return
    for one in removed:
        invocation.say(f"removed {one.kind} {one.name}")
    if not removed:
        invocation.say("There is nothing to remove.")


@click.command()
@click.argument("workload", type=WORKLOAD)
@yes_option
@common_options
def retrain(invocation: Invocation, workload: Workload, yes: bool) -> None:
    """Ask for challengers of the champions of WORKLOAD that are due, as its schedule does.

    The section `retraining` of its file says which are due, and how many at once. A workload with
    a shared model makes that anew, if any tenant's data have changed.

    \b
    Examples:
      tenantry retrain energy
      tenantry retrain churn
    """
    from tenantry.training.retraining import ask_for_retraining

    if workload.shared_model is not None:
        _remake_shared_model(invocation, workload, yes=yes)
        return
    if workload.retraining is None:
        raise NotDone(
            f"{workload.name}.yaml has no section `retraining`; add one, which says which "
            f"champions are due"
        )
    most = workload.retraining.max_at_once
    invocation.confirm(f"Ask for up to {most} re-trainings of {workload.name}?", yes=yes)
    done = ask_for_retraining(invocation.deployment, workload, by=invocation.operator)
    if invocation.as_json:
        invocation.write_json({"format": 1, "retraining": done})
    else:
        invocation.say(str(done))


def _remake_shared_model(invocation: Invocation, workload: Workload, *, yes: bool) -> None:
    from tenantry.training.shared_model import ask_for_shared_model

    invocation.confirm(f"Make the shared model of {workload.name} of the present data?", yes=yes)
    asked = ask_for_shared_model(
        invocation.deployment, workload, by=invocation.operator, why="an operator asked"
    )
    if invocation.as_json:
        invocation.write_json({"format": 1, "request": asked})
    elif asked is None:
        invocation.say(
            f"Nothing was asked for: the shared model of {workload.name} is on its way, or too few "
            f"tenants have data. `tenantry status {workload.name}` tells which."
        )
    elif asked.status in OPEN:
        invocation.say(f"Asked for: `tenantry tenant {asked.tenant}` tells what becomes of it.")
    else:
        invocation.say(
            f"Nothing was asked for: the data are those of the latest request, which is "
            f"{asked.status}."
        )


# ---- the uploads' dead letters -------------------------------------------------------------------


@click.command()
@yes_option
@common_options
def redrive(invocation: Invocation, yes: bool) -> None:
    """Send the events in the uploads' dead-letter queue back to be taken in.

    An event goes there after fifty failed attempts to take its upload in. The usual cause is a
    table or bucket that was away.

    \b
    Example:
      tenantry redrive
    """
    from tenantry.command_line import fleet
    from tenantry.uploads.intake import redrive as redriven

    waiting = fleet.upload_events(invocation.deployment).dead_letters
    if waiting:
        invocation.confirm(f"Send {waiting} events back to the uploads queue?", yes=yes)
    moved = 0
    with invocation.progress(shown=waiting > 1) as progress:
        bar = progress.add_task("sending back", total=waiting)
        for moved in redriven(invocation.deployment):  # noqa: B007 - the last count is shown
            progress.advance(bar)
    if invocation.as_json:
        invocation.write_json({"format": 1, "sent_back": moved})
    else:
        invocation.say(f"{moved} events were sent back")
