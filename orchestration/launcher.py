"""Which packs get a run now: new ones, and those whose run died before they were finished; and who
has to wait.

The queue says what is owed; Dagster says which runs are alive. A pack is taken up again under its
own id, so the new run finds the training job of the old one by its name and goes on from there. A
pack whose runs died twice is split: whoever kills runs ends alone, and its neighbours go on without
it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
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
from dagster._core.storage.tags import PRIORITY_TAG

from assets.workload_assets import OnboardingConfig, PackedRequest, onboarding_step
from resources.signs_of_life import ALIVE_TAG
from tenantry.aws.notices import Notice, tell_operators, tell_tenant
from tenantry.models.registry import Champion, ModelRegistry
from tenantry.names import keys
from tenantry.requests.packing import PlannedPack, newest_of_each_tenant, plan_packs
from tenantry.requests.queue import (
    CAME_TO_NOTHING,
    IN_A_PACK,
    LONGEST_PAUSE,
    TOO_MANY_UPLOADS,
    NotTheirTurn,
    Request,
    RequestQueue,
    now,
)
from tenantry.requests.workload_controls import WorkloadControls
from tenantry.workloads.schema import Workload

PACK_TAG: Final = "tenantry/pack"
MOST_RUNS_A_PACK: Final = 4
DEATHS_OF_A_PACK: Final = 2
"""So many runs that had begun may die of a pack of several before it is split."""
_LOG = logging.getLogger(__name__)
_FINISHED: Final = {DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED}
_BEING_STARTED: Final = 3.0  # how many times as long a run may take to give its first sign of life
# of a backlog the longest waiting, which is several times what may start at once
_MOST_LOOKED_AT: Final = 3000
_ASKED_AT_ONCE: Final = 8
# a tick; a flood's rows are gone after a few, and none goes into a pack meanwhile
_MOST_SUPERSEDED: Final = 500


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
    name = keys.workload_name(workload.name)
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
    for waiting in _whose_turn_it_is(
        queue, workload, on_their_way, most_packs=workload.training.pack.most_at_once - busy
    ):
        claimed = queue.claim(waiting.requests, waiting.pack)
        if claimed:
            yield _run_request(workload, waiting.pack, claimed, after=None)


def _look_after(
    instance: DagsterInstance,
    queue: RequestQueue,
    workload: Workload,
    pack: keys.PackId,
    rows: Sequence[Request],
    lost_run_seconds: float,
) -> tuple[bool, RunRequest | None]:
    """Whether a pack goes on, and the run it needs for that, if it has none that is alive."""
    runs = instance.get_run_records(RunsFilter(tags={PACK_TAG: pack}), limit=MOST_RUNS_A_PACK + 1)
    if any(not _is_over(instance, record, lost_run_seconds) for record in runs):
        return True, None
    # The index lags behind; the rows themselves do not.
    found = queue.get_many([row.key for row in rows], keys.workload_name(workload.name))
    left = [r for r in found if r.pack == pack and r.status in IN_A_PACK]
    if not left:
        return False, None
    # One that never began says nothing of the pack: the machine was busy, or the code could not be
    # loaded.
    died = sum(record.start_time is not None for record in runs)
    if runs and runs[0].dagster_run.status == DagsterRunStatus.CANCELED:
        _give_back(queue, workload, left, "its run was cancelled", "run_cancelled")
    elif died >= DEATHS_OF_A_PACK and len(left) > 1:
        split(queue, workload, pack, left, f"{died} runs of pack {pack} died; it goes on in halves")
    elif len(runs) >= MOST_RUNS_A_PACK:
        reason = f"{len(runs)} runs of pack {pack} died before it was finished"
        _give_back(queue, workload, left, reason, "runs_died")
        tell_operators(queue.deployment, f"{workload.name}: a pack was given up", reason)
    else:
        return True, _run_request(
            workload, pack, left, after=runs[0].dagster_run.run_id if runs else None
        )
    return False, None


def split(
    queue: RequestQueue, workload: Workload, pack: keys.PackId, left: Sequence[Request], why: str
) -> None:
    """Put what is left of a pack back in two halves that do not meet again; no try is counted.

    Each time they wait twice as long: it may be the machine that kills runs, and no request. What
    could not be put back stays in the pack, which is smaller then, and is split again at the next
    tick.
    """
    pause = timedelta(seconds=workload.scheduling.retry_seconds) * 2 ** min(
        max(r.postponed for r in left), 10
    )
    due = now() + min(pause, LONGEST_PAUSE)
    ordered = sorted(left, key=lambda request: request.tenant)
    half = (len(ordered) + 1) // 2
    for name, requests in (("a", ordered[:half]), ("b", ordered[half:])):
        for request in requests:
            queue.set_apart(request, f"{pack}-{name}", why=why, due=due)
    tell_operators(queue.deployment, f"{workload.name}: a pack was split", why)


def _whose_turn_it_is(
    queue: RequestQueue, workload: Workload, on_their_way: Sequence[Request], *, most_packs: int
) -> list[PlannedPack]:
    """The packs to claim now; whatever a newer upload made needless is superseded on the way."""
    name = keys.workload_name(workload.name)
    queue.wake(name)
    if most_packs <= 0:
        return []  # nor is the backlog read: of thousands that wait, that takes seconds
    newest, older = newest_of_each_tenant(queue.due(name, most=_MOST_LOOKED_AT))
    to_finish: dict[keys.TenantId, Request] = {}
    for row, newer in older[:_MOST_SUPERSEDED]:
        if _was_crowned(queue, row):
            to_finish[row.tenant] = row
        else:
            queue.supersede(row, newer)
    newest = [to_finish.get(row.tenant, row) for row in newest]
    at, limits, scheduling = now(), workload.training.pack, workload.scheduling
    while True:
        planned = plan_packs(newest, on_their_way, limits, scheduling, at, most_packs=most_packs)
        rows = [row for pack in planned for row in pack.requests]
        champions = ModelRegistry(queue.deployment).champions_of(name, [row.tenant for row in rows])
        with ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:
            reigning = [champions.get(row.tenant) for row in rows]
            waits = pool.map(partial(_has_to_wait_or_fails, queue, workload, at), rows, reigning)
            held = {row.key for row, has_to_wait in zip(rows, waits, strict=True) if has_to_wait}
        if not held:
            return planned
        newest = [row for row in newest if row.key not in held]


def _has_to_wait_or_fails(
    queue: RequestQueue, workload: Workload, at: datetime, row: Request, champion: Champion | None
) -> bool:
    try:
        return _has_to_wait(queue, workload, at, row, champion)
    except Exception:  # noqa: BLE001 - its neighbours are claimed without it
        _LOG.exception(
            "request %s of %s could not be looked at; trying again next tick",
            row.request,
            row.tenant,
        )
        return True


def _has_to_wait(
    queue: RequestQueue, workload: Workload, at: datetime, row: Request, champion: Champion | None
) -> bool:
    """Whether a request that is about to be claimed is not to be: then it has been dealt with. New
    tenants cost no call."""
    most = workload.scheduling.most_per_tenant_a_day
    if row.attempt == 1 and champion is None and (most is None or (row.first and row.nth == 1)):
        return False
    rows = queue.of_tenant(row.workload, row.tenant)
    others = [other for other in rows if other.request != row.request]
    newer = [
        other
        for other in others
        if other.uploaded > row.uploaded
        and other.status not in CAME_TO_NOTHING
        and not _was_followed(other, champion)
        # What a re-training is made of stays so, though it was uploaded again.
        and not (row.quiet and other.manifest_key == row.manifest_key)
    ]
    if (
        newer
        and (row.attempt > 1 or _is_overtaken(row, champion, newer))
        and not _was_crowned(queue, row)
    ):
        queue.supersede(row, newer[-1])
        return True
    return (
        most is not None
        and not row.quiet
        and row.attempt == 1
        and _used_up_its_day(queue, row, rows, at, most)
    )


def _was_crowned(queue: RequestQueue, row: Request) -> bool:
    """Whether a run that died had made the request's model champion: its owner may have been told.
    Such a request is finished first."""
    if row.version is None or (row.attempt == 1 and row.postponed == 0):
        return False
    made = ModelRegistry(queue.deployment).version(row.tenant, row.workload, row.version)
    return made is not None and made.status in {"champion", "former_champion"}


def _used_up_its_day(
    queue: RequestQueue, row: Request, rows: Sequence[Request], at: datetime, most: int
) -> bool:
    """Whether as many uploads of a tenant were claimed within a day as may be: then this one waits,
    and its owner is told once."""
    day = timedelta(days=1)
    histories = [queue.history_of(other, since=at - day) for other in rows if not other.quiet]
    claimed = sorted(
        moment for history in histories for moment in _claims(history) if moment > at - day
    )
    if len(claimed) < most:
        return False
    until = claimed[-most] + day
    told = any(
        change.get("code") == TOO_MANY_UPLOADS and datetime.fromisoformat(change["at"]) > at - day
        for history in histories
        for change in history
    )
    if not told:
        message = (
            f"Models were made of {len(claimed)} of your uploads within a day; {most} may be."
            f" The newest upload waits until {until:%Y-%m-%d %H:%M} UTC. Upload less often."
        )
        notice = Notice(
            "upload_waits",
            row.workload,
            row.tenant,
            message,
            request=row.request,
            code=TOO_MANY_UPLOADS,
        )
        tell_tenant(queue.deployment, notice)
    why = f"{len(claimed)} of its uploads were claimed within a day; {most} may be"
    queue.postpone(row, why, until=until, code=TOO_MANY_UPLOADS)
    return True


def _claims(history: Iterable[Mapping[str, str]]) -> Iterator[datetime]:
    """When uploads were claimed that a request was made for; not when they were claimed again, as
    something had failed."""
    uploaded = False
    for change in history:
        if change["status"] == "pending" and change["why"].startswith("uploaded"):
            uploaded = True
        elif change["status"] == "claimed" and uploaded:
            yield datetime.fromisoformat(change["at"])
            uploaded = False


def _was_followed(other: Request, champion: Champion | None) -> bool:
    """Whether what a request made has made way for a later upload: however late it was uploaded
    again, it is not served."""
    return (
        other.status == "registered"
        and other.version is not None
        and champion is not None
        and keys.upload_moment(other.version) < keys.upload_moment(champion.version)
    )


def _is_overtaken(row: Request, champion: Champion | None, newer: Iterable[Request]) -> bool:
    """Whether a request's event came late: what was uploaded after it is served already.

    That may be what had been uploaded before it, too: made by then, and as new as its latest
    upload.
    """
    if row.version is None:
        return False
    moment = keys.upload_moment(row.version)
    if champion is not None and keys.upload_moment(champion.version) > moment:
        return True
    return not row.quiet and any(
        other.status == "registered"
        and other.version is not None
        and keys.upload_moment(other.version) <= moment
        for other in newer
    )


def _by_pack(requests: Iterable[Request]) -> dict[keys.PackId, list[Request]]:
    packs: dict[keys.PackId, list[Request]] = {}
    for request in requests:
        if request.pack is not None:
            packs.setdefault(request.pack, []).append(request)
    return packs


def _run_request(
    workload: Workload, pack: keys.PackId, requests: Sequence[Request], after: str | None
) -> RunRequest:
    """The run of a pack that comes after one that died. Its key is of that one, so that a tick that
    is repeated asks for no other run, and it does not matter whether somebody deleted some of the
    pack's runs.
    """
    config = OnboardingConfig(
        pack=pack,
        requests=[
            PackedRequest(tenant=r.tenant, request=r.request)
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
        run, f"The run showed no sign of life for {lost_run_seconds:.0f} s; its process is gone."
    )
    return True


def fail_lost_runs(instance: DagsterInstance, lost_run_seconds: float) -> int:
    """Mark runs as failed whose process is gone, of whatever job: else each would keep one of the
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
        last = float(run.tags.get(ALIVE_TAG) or record.start_time or 0.0)
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
            with suppress(NotTheirTurn):  # an operator cancelled it since it was read
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
