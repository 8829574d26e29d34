"""The next claims: which requests are claimed now, in which packs, and which ones newer uploads
supersede."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from tenantry.aws.notices import Notice, tell_tenant
from tenantry.models.registry import Champion, ModelRegistry
from tenantry.names import ids
from tenantry.requests.newest import came_after, is_older, newest_of_each_tenant
from tenantry.requests.packing import PlannedPack, plan_packs
from tenantry.requests.queue import TOO_MANY_UPLOADS, RequestQueue
from tenantry.requests.rows import CAME_TO_NOTHING, Request, now
from tenantry.workloads.schema import Workload

_LOG = logging.getLogger(__name__)
# requests of a backlog, the longest waiting: several times as many as may start at once
_MAX_LOOKED_AT: Final = 3000
_ASKED_AT_ONCE: Final = 8
# a tick; a flood's rows are gone after a few, and none goes into a pack meanwhile
_MAX_SUPERSEDED: Final = 500


def whose_turn_it_is(
    queue: RequestQueue, workload: Workload, on_their_way: Sequence[Request], *, max_packs: int
) -> list[PlannedPack]:
    """The packs to claim now. Requests that a newer upload made needless are superseded on the
    way."""
    name = ids.workload_name(workload.name)
    queue.wake(name)
    if max_packs <= 0:
        return []  # the backlog is not read either: reading thousands takes seconds
    due = queue.due(name, most=_MAX_LOOKED_AT)
    # Data for inference are all appended: none makes another needless, or a model.
    data = [row for row in due if row.purpose == "inference"]
    newest, older = newest_of_each_tenant(row for row in due if row.purpose != "inference")
    to_finish: dict[ids.ModelId, Request] = {}
    for row, newer in older[:_MAX_SUPERSEDED]:
        if _was_crowned(queue, row):
            to_finish[row.tenant] = row
        else:
            queue.supersede(row, newer)
    newest = [to_finish.get(row.tenant, row) for row in newest] + data
    at, limits, scheduling = now(), workload.training.pack, workload.scheduling
    while True:
        planned = plan_packs(newest, on_their_way, limits, scheduling, at, max_packs=max_packs)
        rows = [row for pack in planned for row in pack.requests]
        champions = ModelRegistry(queue.deployment).champions_of(name, [row.tenant for row in rows])
        with ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:
            reigning = [champions.get(row.tenant) for row in rows]
            waits = pool.map(partial(_left_out, queue, workload, at), rows, reigning)
            held = {row.key for row, has_to_wait in zip(rows, waits, strict=True) if has_to_wait}
        if not held:
            return planned
        newest = [row for row in newest if row.key not in held]


def _left_out(
    queue: RequestQueue, workload: Workload, at: datetime, row: Request, champion: Champion | None
) -> bool:
    try:
        return _supersede_or_postpone(queue, workload, at, row, champion)
    except Exception:  # noqa: BLE001 - its neighbours are claimed without it
        _LOG.exception(
            "request %s of %s could not be looked at; trying again next tick",
            row.request,
            row.tenant,
        )
        return True


def _supersede_or_postpone(
    queue: RequestQueue, workload: Workload, at: datetime, row: Request, champion: Champion | None
) -> bool:
    """Whether a request must not be claimed now; then it has been superseded or put off. New
    tenants cost no call."""
    if row.purpose == "inference":
        return False
    most = workload.scheduling.max_per_tenant_a_day
    if row.attempt == 1 and champion is None and (most is None or (row.first and row.nth == 1)):
        return False
    rows = queue.of_tenant(row.workload, row.tenant)
    others = [other for other in rows if other.request != row.request]
    newer = [
        other
        for other in others
        if came_after(other, row)
        and other.status not in CAME_TO_NOTHING
        and not _was_followed(other, champion)
        # A re-training keeps its upload, even if that content was uploaded again.
        and not (not row.notify_owner and other.manifest_key == row.manifest_key)
    ]
    if (
        newer
        and (row.attempt > 1 or _is_overtaken(row, champion, newer))
        and not _was_crowned(queue, row)
    ):
        queue.supersede(row, newer[-1])
        return True
    if most is None or not row.notify_owner or row.attempt != 1:
        return False
    # The limit is the tenant's, whichever of its models the uploads are for.
    models = ModelRegistry(queue.deployment).models_of(ids.tenant_of(row.tenant), row.workload)
    for model in models:
        if model != row.tenant:
            rows += queue.of_tenant(row.workload, model)
    return _used_up_its_day(queue, row, rows, at, most)


def _was_crowned(queue: RequestQueue, row: Request) -> bool:
    """Whether a run that died had made the request's model champion: its owner may know already.
    Such a request is finished first."""
    if row.version is None or (row.attempt == 1 and row.postponements == 0):
        return False
    made = ModelRegistry(queue.deployment).version(row.tenant, row.workload, row.version)
    return made is not None and made.status in {"champion", "former_champion"}


def _used_up_its_day(
    queue: RequestQueue, row: Request, rows: Sequence[Request], at: datetime, most: int
) -> bool:
    """Whether the uploads of a tenant that were claimed within a day have reached the limit. If so,
    this one waits, and its owner is told once."""
    day = timedelta(days=1)
    histories = [queue.history_of(other, since=at - day) for other in rows if other.notify_owner]
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
    """The moments at which a request's uploads were first claimed; later claims after a failure do
    not count."""
    uploaded = False
    for change in history:
        if change["status"] == "pending" and change["why"].startswith("uploaded"):
            uploaded = True
        elif change["status"] == "claimed" and uploaded:
            yield datetime.fromisoformat(change["at"])
            uploaded = False


def _was_followed(other: Request, champion: Champion | None) -> bool:
    """Whether the version that a request made has given way to a later upload's. It is not served,
    however late its content was uploaded again."""
    return (
        other.status == "registered"
        and other.version is not None
        and champion is not None
        and is_older(other.version, champion.version)
    )


def _is_overtaken(row: Request, champion: Champion | None, newer: Iterable[Request]) -> bool:
    """Whether a request's event came late: a later upload is served already.

    The later upload may repeat content from before this request: its version, made by then, is as
    new as its latest upload.
    """
    if row.version is None:
        return False
    if champion is not None and is_older(row.version, champion.version):
        return True
    return row.notify_owner and any(
        other.status == "registered"
        and other.version is not None
        and not is_older(row.version, other.version)
        for other in newer
    )
