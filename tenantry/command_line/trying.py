"""The command that tries a second version of a tenant's model beside the champion: trial."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tenantry.command_line.changing import show_in_dagster
from tenantry.command_line.invocation import (
    MODEL,
    VERSION,
    WORKLOAD,
    Invocation,
    NotDone,
    common_options,
)
from tenantry.command_line.owed import yes_option
from tenantry.names import ids

if TYPE_CHECKING:
    from tenantry.workloads.schema import Workload

_SHARE = 20  # percent


@click.command()
@click.argument("tenant", type=MODEL, metavar="TENANT[.MODEL]")
@click.argument("workload", type=WORKLOAD)
@click.argument("version", type=VERSION, required=False)
@click.option(
    "--share",
    "percent",
    type=click.IntRange(1, 50),
    help=f"Percent of the requests that VERSION answers ({_SHARE} if not given).",
)
@click.option("--why", default="", help="Shown beside the trial, and in the versions' notes.")
@click.option("--promote", "promoted", is_flag=True, help="Make the version on trial champion.")
@click.option("--end", "ended", is_flag=True, help="End the trial; the champion stays.")
@yes_option
@common_options
def trial(
    invocation: Invocation,
    tenant: ids.ModelId,
    workload: Workload,
    version: ids.Version | None,
    percent: int | None,
    why: str,
    promoted: bool,
    ended: bool,
    yes: bool,
) -> None:
    """Let VERSION answer a share of the requests of TENANT for WORKLOAD beside the champion.
    Without VERSION, show the verdict on the trial.

    The same question always gets the same version. What VERSION does not answer, the champion
    answers. A version that fails too often is taken off by itself.

    \b
    Examples:
      tenantry trial acme energy 20261121t100000-1a2b3c4d --share 10
      tenantry trial acme energy
      tenantry trial acme energy --promote --why "it is better on weekends"
      tenantry trial acme energy --end
    """
    if promoted + ended + (version is not None) > 1:
        raise click.UsageError("give VERSION, --promote or --end, one of the three")
    if percent is not None and version is None:
        raise click.UsageError("--share needs VERSION")
    if version is not None:
        _start(invocation, tenant, workload, version, percent or _SHARE, why, yes=yes)
    elif promoted:
        _promote(invocation, tenant, workload, why, yes=yes)
    elif ended:
        _end(invocation, tenant, workload, why, yes=yes)
    else:
        _verdict(invocation, tenant, workload)


def _start(
    invocation: Invocation,
    tenant: ids.ModelId,
    workload: Workload,
    version: ids.Version,
    percent: int,
    why: str,
    *,
    yes: bool,
) -> None:
    from tenantry.trials.running import TrialRefusedError, start, started_metadata

    by = invocation.operator
    invocation.confirm(f"Let {version} answer {percent} % of the requests of {tenant}?", yes=yes)
    try:
        champion = start(
            invocation.deployment, workload, tenant, version, percent=percent, by=by, why=why
        )
    except TrialRefusedError as error:
        raise NotDone(str(error)) from error
    metadata = started_metadata(champion, version, percent, by=by, why=why)
    show_in_dagster(invocation, "observation", workload, tenant, metadata)
    if invocation.as_json:
        invocation.write_json({"format": 1, "champion": champion})
    else:
        invocation.say(
            f"{version} answers {percent} % of the requests of {tenant} beside "
            f"{champion.version}; `tenantry trial {tenant} {workload.name}` shows the verdict"
        )


def _promote(
    invocation: Invocation, tenant: ids.ModelId, workload: Workload, why: str, *, yes: bool
) -> None:
    from tenantry.trials.running import Ended, TrialRefusedError, ended_metadata, promote

    by = invocation.operator
    invocation.confirm(f"Make the version on trial the champion of {tenant}?", yes=yes)
    try:
        done = promote(invocation.deployment, workload, tenant, by=by, why=why)
    except TrialRefusedError as error:
        raise NotDone(str(error)) from error
    champion = done.champion if isinstance(done, Ended) else done
    if isinstance(done, Ended):
        metadata = ended_metadata(done, by=by, why=why)
        show_in_dagster(invocation, "materialization", workload, tenant, metadata, champion.version)
    if invocation.as_json:
        invocation.write_json({"format": 1, "champion": champion})
    else:
        invocation.say(f"{tenant} is served by version {champion.version}")


def _end(
    invocation: Invocation, tenant: ids.ModelId, workload: Workload, why: str, *, yes: bool
) -> None:
    from tenantry.trials.running import end, ended_metadata

    by = invocation.operator
    invocation.confirm(f"End the trial of {tenant}?", yes=yes)
    done = end(invocation.deployment, workload, tenant, by=by, why=why)
    if done is not None:
        metadata = ended_metadata(done, by=by, why=why)
        show_in_dagster(invocation, "observation", workload, tenant, metadata)
    if invocation.as_json:
        ended = None if done is None else done.trial.version
        invocation.write_json({"format": 1, "ended": ended})
    elif done is None:
        invocation.say(f"no version of {tenant} is on trial")
    else:
        invocation.say(
            f"the trial of {done.trial.version} is over; {done.champion.version} answers all "
            f"requests of {tenant}"
        )


def _verdict(invocation: Invocation, tenant: ids.ModelId, workload: Workload) -> None:
    from tenantry.models.registry import ModelRegistry
    from tenantry.requests.rows import now
    from tenantry.trials.verdict import verdict_metadata, verdict_of

    deployment, name = invocation.deployment, ids.workload_name(workload.name)
    champion = ModelRegistry(deployment).champion(tenant, name)
    running = None if champion is None else champion.trial
    if champion is None or running is None:
        if invocation.as_json:
            invocation.write_json({"format": 1, "verdict": None})
        else:
            invocation.say(f"no version of {tenant} is on trial for {name}")
        return
    verdict = verdict_of(deployment, workload, champion, running, now())
    if invocation.as_json:
        invocation.write_json({"format": 1, "verdict": verdict_metadata(verdict)})
        return
    for sentence in verdict.sentences:
        invocation.say(sentence)
