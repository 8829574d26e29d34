"""From S3's events to rows in the queue: each upload becomes a request, or a refusal with a reason,
exactly once."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import islice, zip_longest
from typing import TYPE_CHECKING, Final

from contracts.logs import log_fields
from tenantry.aws import objects
from tenantry.aws.notices import Notice, tell_operators, tell_tenant
from tenantry.models.registry import ModelRegistry
from tenantry.names import ids, s3_keys
from tenantry.requests.daily_uploads import count_upload
from tenantry.requests.queue import TOO_MANY_UPLOADS, RequestQueue
from tenantry.requests.rows import DATA_GROUP, OPEN
from tenantry.tracing.spans import span
from tenantry.uploads import manifests
from tenantry.uploads.current_data import current_data
from tenantry.workloads.schema import InvalidWorkloadError, Workload

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

_LOG = logging.getLogger(__name__)
_MANIFESTS_AT_ONCE: Final = 8
_MESSAGES_IN_HAND: Final = 1000
_TENANTS_IN_HAND: Final = 128  # as many have their turn before the queue is looked at again
_MANIFESTS_A_HANDFUL: Final = 32

_TAKEN_IN_FOR_ONE_MADE: Final = 10
"""The uploads taken in for each model that may be made for a tenant in a day: most uploads are
superseded before that."""

NO_MODEL_YET: Final = "no_model_yet"
"""The code of the refusal of data for inference where there is nothing to predict with."""
TOO_MANY_MODELS: Final = "too_many_models"
ONE_MODEL_FOR_ALL: Final = "one_model_for_all"
"""The code of the refusal of an upload for one more model than a tenant may have."""
_ONE_AT_A_TIME: Final = threading.Lock()
AddTenants = Callable[[ids.WorkloadName, Sequence[ids.ModelId]], None]


@dataclass
class WorkloadIntake:
    """The results of a round of intake for one workload."""

    accepted: int = 0
    known_already: int = 0
    refused: int = 0
    reasons: dict[ids.ModelId, str] = field(default_factory=dict)
    """Why each tenant's latest refused upload cannot be used."""


@dataclass
class Intake:
    """The results of a round of intake."""

    messages: int = 0
    refused: list[tuple[str, str]] = field(default_factory=list)  # manifest key, reason
    failed: int = 0  # not taken in, because our side failed; they are looked at again
    of_workload: dict[ids.WorkloadName, WorkloadIntake] = field(default_factory=dict)

    @property
    def accepted(self) -> int:
        """Uploads of all workloads that became requests."""
        return sum(its.accepted for its in self.of_workload.values())

    @property
    def repeated(self) -> int:
        """Uploads of all workloads that were known already."""
        return sum(its.known_already for its in self.of_workload.values())

    def __str__(self) -> str:
        return (
            f"{self.messages} events: {self.accepted} accepted, {self.repeated} known already, "
            f"{len(self.refused)} refused"
            + (
                f", {self.failed} could not be taken in and stay in the queue"
                if self.failed
                else ""
            )
        )


def drain_queue(
    deployment: Deployment,
    workloads: Mapping[str, Workload],
    add_tenants: AddTenants,
    *,
    max_seconds: float,
) -> Intake:
    """Take events off the uploads queue until it is empty or the time is up.

    Messages are received until some four handfuls of tenants are found, a thousand messages at
    most. Of those, each tenant's latest upload goes before any tenant's further ones. The queue is
    looked at again after every handful. So a tenant that uploads a thousand times does not keep the
    others waiting. Of ten thousand tenants that upload at once, only those whose turn comes are
    received.

    A message is deleted only after its request's row is durable and its tenant is known to Dagster.
    A message that fails before that, or is not reached in time, stays in the queue. It is seen
    again in a quarter of a minute.

    Args:
        deployment: queue, buckets, tables.
        workloads: those that the product offers.
        add_tenants: makes tenants known to Dagster; must be harmless to repeat.
        max_seconds: when to stop.
    """
    done, deadline = Intake(), time.monotonic() + max_seconds
    found: dict[str, list[str]] = {}  # manifest key → receipts of its messages
    deployment.s3, deployment.dynamodb  # noqa: B018 - made once here rather than by each thread
    with ThreadPoolExecutor(_MANIFESTS_AT_ONCE) as pool:
        while time.monotonic() < deadline:
            finished: list[str] = []
            while (
                len(_by_owner(found)) < _TENANTS_IN_HAND
                and sum(map(len, found.values())) < _MESSAGES_IN_HAND
                and time.monotonic() < deadline
            ):
                messages = deployment.uploads_queue.receive()
                for message in messages:
                    manifest_keys = _manifest_keys(deployment, message.body)
                    for key in manifest_keys:
                        found.setdefault(key, []).append(message.receipt)
                    if not manifest_keys:
                        finished.append(message.receipt)
                done.messages += len(messages)
                if not messages:
                    break
            handful = _next_in_turn(found)
            if not handful and not finished:
                break
            handled = pool.map(partial(_guarded, deployment, workloads), handful)
            receipts = {key: found.pop(key) for key in handful}
            taken = [outcome for outcome in handled if outcome is not None]
            _introduce(taken, add_tenants)
            done.failed += len(handful) - len(taken)
            for outcome in taken:
                _count(done, outcome)
            deployment.uploads_queue.delete(
                finished + [receipt for outcome in taken for receipt in receipts[outcome.key]]
            )
    return done


def redrive(deployment: Deployment) -> Iterator[int]:
    """Send the events in the dead-letter queue back to be taken in. Yields how many were sent,
    after each."""
    moved = 0
    while messages := deployment.uploads_dead_letters.receive():
        for message in messages:
            # Send first, delete second: a process that dies in between leaves the event twice,
            # which is harmless, and never loses it.
            deployment.uploads_queue.send(message.body)
            deployment.uploads_dead_letters.delete([message.receipt])
            moved += 1
            yield moved


def _by_owner(found: Iterable[str]) -> dict[str, list[str]]:
    """Manifest keys by tenant and workload, in the order in which they were found."""
    owners: dict[str, list[str]] = {}
    for key in found:
        owners.setdefault(key.rpartition("/")[0].rpartition("/")[0], []).append(key)
    return owners


def _next_in_turn(found: Iterable[str]) -> list[str]:
    """A handful of manifest keys: each tenant's latest event first, then each tenant's next."""
    turns = (
        key
        for turn in zip_longest(*map(reversed, _by_owner(found).values()))
        for key in turn
        if key
    )
    return list(islice(turns, _MANIFESTS_A_HANDFUL))


@dataclass(frozen=True)
class Listing:
    """The end of a look at the uploads: ``after`` is the key after which the listing goes on; None
    when it is through."""

    done: Intake
    after: str | None


def find_lost_uploads(
    deployment: Deployment,
    workloads: Mapping[str, Workload],
    add_tenants: AddTenants,
    *,
    since: datetime,
    until: datetime,
    after: str = "",
    max_seconds: float = 20.0,
) -> Listing:
    """List uploads for manifests that landed between two moments and take in those whose event
    never came.

    A listing names a thousand objects of all tenants at a time. One that takes longer than
    ``max_seconds`` says where the next one goes on. ``failed`` counts the uploads that could not be
    taken in; they are listed again.

    Args:
        deployment: bucket and tables.
        workloads: those that the product offers.
        add_tenants: makes tenants known to Dagster.
        since: the first moment.
        until: the moment after the last.
        after: the key to go on after.
        max_seconds: when to stop.
    """
    done, deadline = Intake(), time.monotonic() + max_seconds
    pages = deployment.s3.get_paginator("list_objects_v2").paginate(
        Bucket=deployment.uploads_bucket, Prefix=s3_keys.UPLOADS_ROOT, StartAfter=after
    )
    with ThreadPoolExecutor(_MANIFESTS_AT_ONCE) as pool:
        for page in pages:
            entries = page.get("Contents", [])
            manifests = [
                entry["Key"]
                for entry in entries
                if entry["Key"].endswith(f"/{ids.MANIFEST}")
                and since <= entry["LastModified"] < until
            ]
            outcomes = list(pool.map(partial(_guarded, deployment, workloads), manifests))
            taken = [outcome for outcome in outcomes if outcome is not None]
            _introduce(taken, add_tenants)
            done.messages += len(outcomes)
            done.failed += len(outcomes) - len(taken)
            for outcome in taken:
                _count(done, outcome)
            if entries and page["IsTruncated"] and time.monotonic() > deadline:
                return Listing(done, entries[-1]["Key"])
    return Listing(done, None)


@dataclass(frozen=True)
class _Outcome:
    key: str
    workload: ids.WorkloadName | None
    tenant: ids.ModelId | None
    new: bool
    reason: str | None


def _manifest_keys(deployment: Deployment, body: str) -> list[str]:
    try:
        return list(manifests.manifest_keys_in_event(body, deployment.uploads_bucket))
    except ValueError as error:
        tell_operators(
            deployment,
            "A message in the uploads queue is not an S3 event",
            f"{error}\n\n{body[:2000]}",
        )
        return []


def _guarded(
    deployment: Deployment, workloads: Mapping[str, Workload], key: str
) -> _Outcome | None:
    """One manifest's outcome; None when it must be tried again, because our side failed."""
    with log_fields(**_owner_of(key)):
        try:
            return take_in(deployment, workloads, key)
        except InvalidWorkloadError as error:
            _LOG.error("upload %s waits until its workload's file is mended: %s", key, error)
            return None
        except Exception:  # noqa: BLE001 - one upload's trouble must not stop its neighbours'
            _LOG.exception("upload %s could not be taken in; its event stays in the queue", key)
            return None


def _owner_of(key: str) -> dict[str, str]:
    """Workload and tenant of a manifest's key; empty for a key that is no manifest's."""
    try:
        workload, tenant, _ = s3_keys.parse_manifest_key(key)
    except ids.InvalidIdError:
        return {}
    return {"workload": workload, "tenant": tenant}


def take_in(deployment: Deployment, workloads: Mapping[str, Workload], key: str) -> _Outcome:
    """Turn one manifest into a request, or refuse it and tell its owner. A repeated call changes
    nothing.

    Raises:
        InvalidWorkloadError: its workload is offered, but the workload's file cannot be used.
    """
    try:
        workload, tenant, upload = s3_keys.parse_manifest_key(key)
    except ids.InvalidIdError as error:
        tell_operators(
            deployment, "An upload lies under a key that is not a tenant's", f"{key}\n{error}"
        )
        return _Outcome(key, None, None, new=True, reason=str(error))
    workloads.get(workload)  # raises where its file cannot be used: its uploads wait
    queue, began = RequestQueue(deployment, by="intake"), time.time_ns()
    try:
        manifest = manifests.read_manifest(deployment, key, workloads)
    except objects.ObjectMissingError:
        # Deleted between its event and now: there is nothing to make a model from.
        return _Outcome(key, workload, None, new=False, reason=None)
    except manifests.RefusedUploadError as error:
        request = ids.request_id_of(workload, tenant, f"refused:{upload}:{error}")
        new = queue.get(workload, tenant, request) is None
        if new:
            # Tell first, record second: a process that dies in between leads to a second notice,
            # which is harmless, and never to none.
            _tell_refused(deployment, workload, tenant, request, str(error), error.code)
            queue.refuse_at_the_door(workload, tenant, request, key, str(error), error.code)
        return _Outcome(key, workload, None, new, str(error))
    with span(
        "intake",
        manifest.traceparent,
        began=began,
        workload=workload,
        tenant=tenant,
        request=manifest.request,
    ) as traceparent:
        return _accept(queue, workloads[workload], manifest, key, traceparent)


def _accept(
    queue: RequestQueue,
    workload: Workload,
    manifest: manifests.Manifest,
    key: str,
    traceparent: str,
) -> _Outcome:
    """Put the request of a manifest into the queue, unless its tenant has uploaded too much."""
    deployment, name, tenant = queue.deployment, manifest.workload, manifest.tenant
    most, nth = workload.scheduling.max_per_tenant_a_day, 1
    if most is not None and manifest.uploaded is not None:
        most *= _TAKEN_IN_FOR_ONE_MADE
        owner = ids.tenant_of(tenant)
        counted = count_upload(deployment, name, owner, manifest.upload, manifest.uploaded, most)
        if counted is None:
            return _refuse_flood(queue, name, owner, key, manifest.uploaded, most)
        nth = counted
    registry = ModelRegistry(deployment)
    if workload.shared_model is not None and ids.name_of(tenant) != ids.DEFAULT_MODEL:
        reason = (
            f"one model answers for all tenants of {name}, so {ids.name_of(tenant)!r} cannot have "
            f"one of its own; upload without a model's name"
        )
        return _refuse_name(queue, manifest, key, reason, ONE_MODEL_FOR_ALL)
    if manifest.purpose == "inference" and not _may_append(queue, name, tenant):
        return _refuse_data(queue, manifest, key)
    if not registry.note_name(tenant, name, workload.upload.max_models):
        reason = (
            f"a tenant has at most {workload.upload.max_models} models of {name}, and "
            f"{ids.name_of(tenant)!r} would be another; upload for one of those that are there"
        )
        return _refuse_name(queue, manifest, key, reason, TOO_MANY_MODELS)
    tier, champion = registry.tier_and_champion(tenant, name, workload.tier)
    first = champion is None
    group = manifest.group(workload.training.pack.together)
    if workload.shared_model is not None and manifest.purpose != "inference":
        group = DATA_GROUP
    new = queue.accept(
        name,
        tenant,
        manifest.request,
        key,
        tier,
        first=first,
        uploaded=manifest.uploaded,
        group=group,
        nth=nth,
        traceparent=traceparent,
        purpose=manifest.purpose,
    )
    return _Outcome(key, name, tenant, new, None)


def _refuse_flood(
    queue: RequestQueue,
    workload: ids.WorkloadName,
    tenant: ids.ModelId,
    key: str,
    uploaded: datetime,
    most: int,
) -> _Outcome:
    """Refuse an upload beyond the limit of its day. There is one row for them a day, and the owner
    is told once a day."""
    day = f"{uploaded.astimezone(UTC):%Y-%m-%d}"
    reason = (
        f"more than {most} uploads came on {day} (UTC), and no more are taken in; upload the "
        f"newest again the day after"
    )
    request = ids.request_id_of(workload, tenant, f"refused:{TOO_MANY_UPLOADS}:{day}")
    with _ONE_AT_A_TIME:  # many of a flood are taken in side by side, and one of them tells
        new = queue.get(workload, tenant, request) is None
        if new:
            _tell_refused(queue.deployment, workload, tenant, request, reason, TOO_MANY_UPLOADS)
            queue.refuse_at_the_door(workload, tenant, request, key, reason, TOO_MANY_UPLOADS)
    return _Outcome(key, workload, None, new, reason)


def _may_append(queue: RequestQueue, workload: ids.WorkloadName, model: ids.ModelId) -> bool:
    """Whether there is a model that new data would be for, or one is on its way."""
    if current_data(queue.deployment, workload, model) is not None:
        return True
    return any(row.status in OPEN for row in queue.of_tenant(workload, model))


def _refuse_data(queue: RequestQueue, manifest: manifests.Manifest, key: str) -> _Outcome:
    """Refuse data for inference of a model that there is not."""
    workload, tenant = manifest.workload, manifest.tenant
    reason = (
        f"there is no model of {workload} yet that could predict from these data; upload a history "
        f"for training first"
    )
    new = queue.get(workload, tenant, manifest.request, "inference") is None
    if new:
        _tell_refused(queue.deployment, workload, tenant, manifest.request, reason, NO_MODEL_YET)
        queue.refuse_at_the_door(
            workload, tenant, manifest.request, key, reason, NO_MODEL_YET, "inference"
        )
    return _Outcome(key, workload, ids.tenant_of(tenant), new, reason)


def _refuse_name(
    queue: RequestQueue, manifest: manifests.Manifest, key: str, reason: str, code: str
) -> _Outcome:
    """Refuse an upload for a model that its tenant may not have. Its row lies with the default
    model's, as there is no model of that name."""
    workload, tenant = manifest.workload, ids.tenant_of(manifest.tenant)
    request = ids.request_id_of(workload, tenant, f"refused:{manifest.upload}:{code}")
    new = queue.get(workload, tenant, request) is None
    if new:
        _tell_refused(queue.deployment, workload, tenant, request, reason, code)
        queue.refuse_at_the_door(workload, tenant, request, key, reason, code)
    return _Outcome(key, workload, tenant, new, reason)


def _tell_refused(
    deployment: Deployment,
    workload: ids.WorkloadName,
    tenant: ids.ModelId,
    request: ids.RequestId,
    reason: str,
    code: str,
) -> None:
    message = f"Your upload cannot be used: {reason}"
    tell_tenant(
        deployment, Notice("upload_refused", workload, tenant, message, request=request, code=code)
    )


def _introduce(outcomes: Sequence[_Outcome], add_tenants: AddTenants) -> None:
    by_workload: dict[ids.WorkloadName, list[ids.ModelId]] = {}
    for outcome in outcomes:
        if outcome.workload is not None and outcome.tenant is not None:
            by_workload.setdefault(outcome.workload, []).append(outcome.tenant)
    for workload, tenants in by_workload.items():
        add_tenants(workload, tenants)


def _count(done: Intake, outcome: _Outcome) -> None:
    its = (
        WorkloadIntake()  # of a key that is no manifest's
        if outcome.workload is None
        else done.of_workload.setdefault(outcome.workload, WorkloadIntake())
    )
    if not outcome.new:
        its.known_already += 1
    elif outcome.reason is not None:
        done.refused.append((outcome.key, outcome.reason))
        its.refused += 1
        if outcome.workload is not None:
            its.reasons[s3_keys.parse_manifest_key(outcome.key)[1]] = outcome.reason
    else:
        its.accepted += 1
