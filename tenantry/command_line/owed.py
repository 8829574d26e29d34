"""The commands that change tenants' requests: retry and cancel. Each change records its author."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import click

from tenantry.command_line.invocation import (
    MODEL,
    PACK,
    REQUEST,
    WORKLOAD,
    Invocation,
    NotDone,
    common_options,
)
from tenantry.names import ids
from tenantry.requests.newest import newest_of
from tenantry.requests.rows import OPEN, NotTheirTurnError, Request, Status

if TYPE_CHECKING:
    from tenantry.requests.queue import RequestQueue
    from tenantry.workloads.schema import Workload

_RETRIED: Final[tuple[Status, ...]] = ("failed", "refused", "cancelled", "dead_lettered")

yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


@dataclass
class _Changes:
    """The result of changing several requests: the changed ones, and why others stayed."""

    done: list[Request] = field(default_factory=list)
    not_done: list[tuple[Request, str]] = field(default_factory=list)

    def make(
        self,
        requests: Sequence[Request],
        change: Callable[[Request], Request],
        invocation: Invocation,
        verb: str,
    ) -> None:
        """Change each request, with a progress bar where there are several. A request that has
        moved on does not stop the others."""
        from botocore.exceptions import ClientError

        from tenantry.aws.objects import error_code

        with invocation.progress(shown=len(requests) > 1) as progress:
            bar = progress.add_task(verb, total=len(requests))
            for request in requests:
                try:
                    self.done.append(change(request))
                except NotTheirTurnError as error:
                    self.not_done.append((request, str(error)))
                except ClientError as error:
                    if error_code(error) != "ValidationException":
                        raise
                    self.not_done.append((request, str(error)))  # this row is too large, say
                progress.advance(bar)

    def report(self, invocation: Invocation, verb: str) -> None:
        """Report the changes. Raises ``NotDone`` when any request was not changed."""
        if invocation.as_json:
            invocation.write_json(
                {
                    "format": 1,
                    verb: [named(request) for request in self.done],
                    "not_done": [
                        {**named(request), "reason": reason} for request, reason in self.not_done
                    ],
                }
            )
        else:
            for request in self.done:
                invocation.say(
                    f"{verb}: {request.tenant}, {request.workload}, request {request.request}"
                )
        if len(self.not_done) == 1 and not self.done:
            raise NotDone(self.not_done[0][1])
        if self.not_done:
            reasons = "\n".join(f"  {reason}" for _, reason in self.not_done)
            raise NotDone(
                f"{len(self.not_done)} of {len(self.done) + len(self.not_done)} moved on "
                f"first:\n{reasons}"
            )


def named(request: Request) -> dict[str, str]:
    """A request as JSON tells it."""
    return {
        "workload": request.workload,
        "tenant": request.tenant,
        "request": request.request,
        "status": request.status,
    }


# ---- retry and cancel ----------------------------------------------------------------------------


@click.command()
@click.argument("tenant", type=MODEL, metavar="TENANT[.MODEL]", required=False)
@click.option(
    "--all-dead-lettered", is_flag=True, help="Every dead-lettered request instead of a tenant's."
)
@click.option("--workload", type=WORKLOAD, help="Of this workload only.")
@click.option("--request", type=REQUEST, help="This request of the tenant's instead of its latest.")
@click.option("--why", default="an operator retries it", show_default=True, help="For the history.")
@yes_option
@common_options
def retry(
    invocation: Invocation,
    tenant: ids.ModelId | None,
    all_dead_lettered: bool,
    workload: Workload | None,
    request: ids.RequestId | None,
    why: str,
    yes: bool,
) -> None:
    """Give TENANT's latest request all its tries again, from now on; or every dead-lettered one.

    It is for requests that failed, were dead-lettered, cancelled, or refused while they were worked
    on. An upload that was refused when it came in never was a request: its tenant has to upload
    again.

    \b
    Examples:
      tenantry retry acme --why "the image is fixed"
      tenantry retry --all-dead-lettered --workload energy
    """
    from tenantry.requests.queue import RequestQueue

    if (tenant is None) == (not all_dead_lettered):
        raise click.UsageError("name either a TENANT or --all-dead-lettered")
    queue = RequestQueue(invocation.deployment, by=invocation.operator)
    if tenant is not None:
        found = [_retried_of(queue, invocation.chosen(workload), tenant, request)]
    else:
        names = [ids.workload_name(one.name) for one in invocation.chosen(workload)]
        found = [row for name in names for row in queue.with_status(name, "dead_lettered")]
        if found:
            invocation.confirm(f"Retry {len(found)} dead-lettered requests?", yes=yes)
        elif not invocation.as_json:
            invocation.say("Nothing is dead-lettered.")
    changes = _Changes()
    changes.make(found, lambda row: queue.retry(row, why=why), invocation, "retrying")
    changes.report(invocation, "retried")


def _retried_of(
    queue: RequestQueue,
    workloads: Sequence[Workload],
    tenant: ids.ModelId,
    request: ids.RequestId | None,
) -> Request:
    """The tenant's request to retry. Raises ``NotDone``."""
    rows = [queue.of_tenant(ids.workload_name(workload.name), tenant) for workload in workloads]
    if request is not None:
        named = [row for of_workload in rows for row in of_workload if row.request == request]
        if not named:
            raise NotDone(
                f"{tenant} has no request {request}; `tenantry tenant {tenant}` lists them"
            )
        return named[0]
    latest = [newest for of_workload in rows if (newest := newest_of(of_workload))]
    if not latest:
        raise NotDone(f"{tenant} has no request; it never uploaded, or not for this workload")
    meant = [row for row in latest if row.status in _RETRIED] if len(latest) > 1 else latest
    if not meant:
        stand = ", ".join(f"{row.workload}: {row.status}" for row in latest)
        raise NotDone(f"there is nothing to retry of {tenant}; its latest requests: {stand}")
    if len(meant) > 1:
        raise NotDone(
            f"{tenant} could be retried for {' and '.join(row.workload for row in meant)}; name "
            f"one with --workload"
        )
    return meant[0]


@click.command()
@click.argument("tenant", type=MODEL, metavar="TENANT[.MODEL]", required=False)
@click.option(
    "--pack",
    type=PACK,
    help="Every request of this pack instead of a tenant's; its training job is stopped, too.",
)
@click.option("--workload", type=WORKLOAD, help="Of this workload only.")
@click.option(
    "--why", default="an operator cancelled it", show_default=True, help="For the history."
)
@yes_option
@common_options
def cancel(
    invocation: Invocation,
    tenant: ids.ModelId | None,
    pack: ids.PackId | None,
    workload: Workload | None,
    why: str,
    yes: bool,
) -> None:
    """Take TENANT's unfinished requests out of the queue, or all requests of a pack.

    A pack on its way goes on without a cancelled tenant. Cancelling a whole pack stops its job,
    too; models that are registered already stay. `tenantry retry` brings a cancelled request back.

    \b
    Examples:
      tenantry cancel acme --workload energy --why "the contract ended"
      tenantry cancel --pack p-3f2a9c0d11e2b4a7
    """
    from tenantry.requests.queue import RequestQueue

    if (tenant is None) == (pack is None):
        raise click.UsageError("name either a TENANT or --pack")
    queue = RequestQueue(invocation.deployment, by=invocation.operator)
    names = [ids.workload_name(one.name) for one in invocation.chosen(workload)]
    if tenant is not None:
        found = [
            row for name in names for row in queue.of_tenant(name, tenant) if row.status in OPEN
        ]
        what = f"{tenant} has no unfinished request"
    else:
        found = [row for name in names for row in queue.in_packs(name) if row.pack == pack]
        what = f"no request is in pack {pack}; `tenantry status` shows the packs on their way"
    if not found:
        raise NotDone(what)
    invocation.confirm(f"Cancel {len(found)} requests ({_by_status(found)})?", yes=yes)
    changes = _Changes()
    changes.make(found, lambda row: queue.cancel(row, why=why), invocation, "cancelling")
    if pack is not None:
        _stop_job_of(invocation, found[0].workload, pack)
    changes.report(invocation, "cancelled")


def _by_status(requests: Sequence[Request]) -> str:
    counts: dict[str, int] = {}
    for request in requests:
        counts[request.status] = counts.get(request.status, 0) + 1
    return ", ".join(f"{count} {status}" for status, count in counts.items())


def _stop_job_of(invocation: Invocation, workload: ids.WorkloadName, pack: ids.PackId) -> None:
    from tenantry.training.jobs import stop_job_of_pack

    if job := stop_job_of_pack(invocation.deployment, workload, pack):
        invocation.aside.print(f"training job {job} is being stopped", soft_wrap=True)
