"""Which packs get a run now: new ones, and those whose run died before they were finished. The
others wait.

The queue says which models are owed; Dagster says which runs are alive. A pack is taken up again
under its own id. So the new run finds the old one's training job by its name and goes on from
there. A pack whose runs died twice is split: a request that kills runs ends alone, and its
neighbours go on without it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final

from botocore.exceptions import BotoCoreError, ClientError
from dagster import (
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    RunConfig,
    RunRecord,
    RunRequest,
    RunsFilter,
)

from assets.onboarding import OnboardingConfig, PackedRequest, onboarding_step
from orchestration.partitions import add_tenants
from orchestration.private_dagster.names import PRIORITY_TAG
from resources.run_heartbeat import last_heartbeat
from tenantry.aws.notices import tell_operators
from tenantry.names import ids
from tenantry.requests.queue import LONGEST_PAUSE, RequestQueue
from tenantry.requests.rows import IN_A_PACK, NotTheirTurnError, Request, now
from tenantry.requests.turns import whose_turn_it_is
from tenantry.requests.workload_controls import WorkloadControls
from tenantry.workloads.schema import Workload

PACK_TAG: Final = "tenantry/pack"
MAX_RUNS_A_PACK: Final = 4
DEATHS_OF_A_PACK: Final = 2
"""The number of deaths of begun runs after which a pack of several requests is split."""
_LOG = logging.getLogger(__name__)
_FINISHED: Final = {DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED}
_BEING_STARTED: Final = 3.0  # how many times as long a run may take to give its first heartbeat


def runs_to_request(
    instance: DagsterInstance, queue: RequestQueue, workload: Workload, *, lost_run_seconds: float
) -> Iterator[RunRequest]:
    """One tick of the launcher for a workload.

    Args:
        instance: where runs are looked up.
        queue: the requests.
        workload: its limits.
        lost_run_seconds: how long a run may be silent before it is taken for dead.

    Yields:
        A run request for each pack that needs a run.
    """
    name = ids.workload_name(workload.name)
    on_their_way = queue.in_packs(name)
    busy = 0
    for pack, rows in _by_pack(on_their_way).items():
        try:
            is_busy, asked = _look_after(instance, queue, workload, pack, rows, lost_run_seconds)
        except Exception:  # noqa: BLE001 - one pack's trouble is not the others'
            _LOG.exception(
                "pack %s of %s could not be looked at; trying again next tick", pack, name
            )
            is_busy, asked = True, None
        busy += is_busy
        if asked is not None:
            yield asked
    if WorkloadControls(queue.deployment).paused(name) is not None:
        return
    for waiting in whose_turn_it_is(
        queue, workload, on_their_way, max_packs=workload.training.pack.max_at_once - busy
    ):
        claimed = queue.claim(waiting.requests, waiting.pack)
        if any(request.tenant == ids.SHARED for request in claimed):
            add_tenants(instance, name, [ids.SHARED])
        if claimed:
            yield _run_request(workload, waiting.pack, claimed, after=None)


def _look_after(
    instance: DagsterInstance,
    queue: RequestQueue,
    workload: Workload,
    pack: ids.PackId,
    rows: Sequence[Request],
    lost_run_seconds: float,
) -> tuple[bool, RunRequest | None]:
    """Whether a pack goes on, and the run it needs for that, if it has none that is alive."""
    runs = instance.get_run_records(RunsFilter(tags={PACK_TAG: pack}), limit=MAX_RUNS_A_PACK + 1)
    if any(not _is_over(instance, record, lost_run_seconds) for record in runs):
        return True, None
    # The index lags behind the rows, so the rows are read.
    found = queue.get_many([row.key for row in rows], ids.workload_name(workload.name))
    left = [r for r in found if r.pack == pack and r.status in IN_A_PACK]
    if not left:
        return False, None
    # A run that never began proves nothing about the pack: the machine was busy, or the code could
    # not be loaded.
    died = sum(record.start_time is not None for record in runs)
    if runs and runs[0].dagster_run.status == DagsterRunStatus.CANCELED:
        _give_back(queue, workload, left, "its run was cancelled", "run_cancelled")
    elif died >= DEATHS_OF_A_PACK and len(left) > 1:
        split(queue, workload, pack, left, f"{died} runs of pack {pack} died; it goes on in halves")
    elif len(runs) >= MAX_RUNS_A_PACK:
        reason = f"{len(runs)} runs of pack {pack} died before it was finished"
        _give_back(queue, workload, left, reason, "runs_died")
        tell_operators(queue.deployment, f"{workload.name}: a pack was given up", reason)
    else:
        return True, _run_request(
            workload, pack, left, after=runs[0].dagster_run.run_id if runs else None
        )
    return False, None


def split(
    queue: RequestQueue, workload: Workload, pack: ids.PackId, left: Sequence[Request], why: str
) -> None:
    """Put the rest of a pack back in two halves that do not meet again; no try is counted.

    Each time they wait twice as long, because the machine, not a request, may kill runs. Requests
    that could not be put back stay in the pack, which is then smaller and is split again at the
    next tick.
    """
    pause = timedelta(seconds=workload.scheduling.retry_seconds) * 2 ** min(
        max(r.postponements for r in left), 10
    )
    due = now() + min(pause, LONGEST_PAUSE)
    ordered = sorted(left, key=lambda request: request.tenant)
    half = (len(ordered) + 1) // 2
    for name, requests in (("a", ordered[:half]), ("b", ordered[half:])):
        for request in requests:
            queue.set_apart(request, f"{pack}-{name}", why=why, due=due)
    tell_operators(queue.deployment, f"{workload.name}: a pack was split", why)


def _by_pack(requests: Iterable[Request]) -> dict[ids.PackId, list[Request]]:
    packs: dict[ids.PackId, list[Request]] = {}
    for request in requests:
        if request.pack is not None:
            packs.setdefault(request.pack, []).append(request)
    return packs


def _run_request(
    workload: Workload, pack: ids.PackId, requests: Sequence[Request], after: str | None
) -> RunRequest:
    """The run of a pack, first or after one that died (``after``). Its key names the dead run, so
    that a repeated tick asks for no other run. It does not depend on the number of the pack's runs,
    some of which may have been deleted.
    """
    config = OnboardingConfig(
        pack=pack,
        requests=[
            PackedRequest(tenant=r.tenant, request=r.request, purpose=r.purpose)
            for r in sorted(requests, key=lambda r: r.tenant)
        ],
    )
    return RunRequest(
        run_key=f"{pack}-{after}" if after else pack,
        job_name=f"{workload.name}_fine_tuning",
        run_config=RunConfig({onboarding_step(workload.name): config}),
        tags={
            PACK_TAG: pack,
            "tenantry/tier": requests[0].tier,
            "tenantry/tenants": str(len(requests)),
            PRIORITY_TAG: "1" if any(r.first for r in requests) else "0",
        },
    )


def _is_over(instance: DagsterInstance, record: RunRecord, lost_run_seconds: float) -> bool:
    run = record.dagster_run
    if run.status in _FINISHED:
        return True
    if not _is_lost(run, record, lost_run_seconds):
        return False
    instance.report_run_failed(
        run, f"The run gave no heartbeat for {lost_run_seconds:.0f} s; its process is gone."
    )
    return True


def fail_lost_runs(instance: DagsterInstance, lost_run_seconds: float) -> int:
    """Mark runs of any job as failed if their process is gone: else each would keep one of the
    places for runs for ever.

    Args:
        instance: where runs are looked up.
        lost_run_seconds: how long a run may be silent before it is taken for dead.

    Returns:
        How many were found.
    """
    statuses = [DagsterRunStatus.STARTED, DagsterRunStatus.STARTING, DagsterRunStatus.CANCELING]
    records = instance.get_run_records(RunsFilter(statuses=statuses))
    return sum(_is_over(instance, record, lost_run_seconds) for record in records)


def _is_lost(run: DagsterRun, record: RunRecord, lost_run_seconds: float) -> bool:
    if run.status in {DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING}:
        last = last_heartbeat(run.tags) or record.start_time or 0.0
        return time.time() - last > lost_run_seconds
    if run.status in {DagsterRunStatus.STARTING, DagsterRunStatus.NOT_STARTED}:
        patience = timedelta(seconds=_BEING_STARTED * lost_run_seconds)
        return datetime.now(UTC) - record.update_timestamp.replace(tzinfo=UTC) > patience
    return False


def _give_back(
    queue: RequestQueue, workload: Workload, requests: Iterable[Request], reason: str, code: str
) -> None:
    for request in requests:
        try:
            with suppress(NotTheirTurnError):  # an operator cancelled it since it was read
                queue.fail(
                    request,
                    reason,
                    attempts=workload.training.attempts,
                    first_retry=timedelta(seconds=workload.scheduling.retry_seconds),
                    code=code,
                )
        except (ClientError, BotoCoreError):  # the next tick gives it back
            _LOG.exception(
                "request %s of %s could not be given back", request.request, request.tenant
            )
