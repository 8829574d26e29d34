"""The commands that stop and resume the claiming of a workload's requests: pause, resume, drain.
Each change records its author."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import click

from tenantry.command_line.invocation import WORKLOAD, Invocation, NotDone, common_options
from tenantry.names import ids
from tenantry.requests.rows import IN_A_PACK
from tenantry.requests.workload_controls import WorkloadControls
from tenantry.shown import operator_events

if TYPE_CHECKING:
    from tenantry.workloads.schema import Workload

_LOOK_SECONDS: Final = 1.0
_TICK_MAY_LAST_SECONDS: Final = 10.0


@click.command()
@click.argument("workload", type=WORKLOAD)
@click.option("--why", required=True, help="Shown beside the status.")
@common_options
def pause(invocation: Invocation, workload: Workload, why: str) -> None:
    """Claim no further requests of WORKLOAD. Uploads go on becoming requests, and packs on their
    way go on.

    \b
    Example:
      tenantry pause energy --why "a new image is being rolled out"
    """
    name = ids.workload_name(workload.name)
    paused = WorkloadControls(invocation.deployment, by=invocation.operator).pause(name, why)
    _show_claims(invocation, name, paused=True, why=why)
    if invocation.as_json:
        invocation.write_json({"format": 1, "workload": workload.name, "paused": paused})
    else:
        invocation.say(f"{workload.name} is paused; `tenantry resume {workload.name}` ends it")


@click.command()
@click.argument("workload", type=WORKLOAD)
@common_options
def resume(invocation: Invocation, workload: Workload) -> None:
    """Claim requests of WORKLOAD again.

    \b
    Example:
      tenantry resume energy
    """
    controls = WorkloadControls(invocation.deployment, by=invocation.operator)
    name = ids.workload_name(workload.name)
    was = controls.paused(name)
    controls.resume(name)
    if was is not None:
        _show_claims(invocation, name, paused=False)
    if invocation.as_json:
        invocation.write_json({"format": 1, "workload": workload.name, "was_paused": was})
    else:
        invocation.say(f"{name} goes on" if was is not None else f"{name} was not paused")


@click.command()
@click.argument("workload", type=WORKLOAD)
@click.option(
    "--why", default="an operator drains it", show_default=True, help="Shown beside the status."
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    help="Seconds to wait at most; as long as it takes if not given.",
)
@common_options
def drain(invocation: Invocation, workload: Workload, why: str, timeout: float | None) -> None:
    """Pause WORKLOAD and wait until nothing of it is on its way. It stays paused.

    Pending requests stay pending, failed ones wait. Ctrl-C ends the waiting, not the pause.

    \b
    Example:
      tenantry drain energy --timeout 3600 && make-the-change && tenantry resume energy
    """
    from tenantry.requests.queue import RequestQueue

    queue, name = RequestQueue(invocation.deployment), ids.workload_name(workload.name)
    WorkloadControls(invocation.deployment, by=invocation.operator).pause(name, why)
    _show_claims(invocation, name, paused=True, why=why)
    began = time.monotonic()
    deadline = None if timeout is None else began + timeout
    left = len(queue.in_packs(name))
    with invocation.progress() as progress:
        bar = progress.add_task(f"{name}: on their way", total=left)
        # A tick of the launcher that began before the pause may still claim some.
        while (left or time.monotonic() < began + _TICK_MAY_LAST_SECONDS) and (
            deadline is None or time.monotonic() < deadline
        ):
            time.sleep(_LOOK_SECONDS)
            counts = queue.counts(name)
            left = sum(counts[status] for status in IN_A_PACK)
            total = max(left, int(progress.tasks[0].total or 0))
            progress.update(bar, total=total, completed=total - left)
    if invocation.as_json:
        invocation.write_json(
            {"format": 1, "workload": name, "on_their_way": left, "requests": queue.counts(name)}
        )
    if left:
        raise NotDone(
            f"{left} requests of {name} are still on their way after {timeout:g} s; it stays "
            f"paused. Wait on with `tenantry drain {name}`"
        )
    if not invocation.as_json:
        invocation.say(
            f"nothing of {name} is on its way; it stays paused until `tenantry resume {name}`"
        )


def _show_claims(
    invocation: Invocation, workload: ids.WorkloadName, *, paused: bool, why: str = ""
) -> None:
    """Let Dagster's sensor show on ``uploads`` that the workload was paused or resumed."""
    from tenantry.shown.asset_metadata import claims_metadata

    metadata = claims_metadata(paused=paused, by=invocation.operator, why=why)
    operator_events.leave(
        invocation.deployment,
        operator_events.OperatorEvent("observation", workload, "uploads", None, metadata),
    )
