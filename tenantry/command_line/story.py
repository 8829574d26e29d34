"""A tenant's whole story: its uploads, their results and reasons, its models, and its last
prediction."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from contracts.trace_context import trace_id_of
from tenantry.aws.deployment import Deployment
from tenantry.command_line.predicted import stored_predictions
from tenantry.models.registry import Champion, ModelRegistry, ModelVersion
from tenantry.names import ids, s3_keys
from tenantry.names.purposes import Purpose
from tenantry.requests.queue import RequestQueue
from tenantry.requests.rows import Request
from tenantry.workloads.schema import Workload
from tenantry.workloads.sections import Quality

_MAX_UPLOADED_OBJECTS: Final = 20_000


@dataclass(frozen=True)
class Event:
    """Something that happened to a tenant: when, what, who did it, and why; ``code`` names the kind
    of reason.

    ``kind`` is ``upload``, ``request``, ``version``, ``champion`` or ``prediction``; ``id`` is that
    thing's.
    """

    at: datetime
    workload: str
    kind: str
    id: str
    what: str
    by: str = ""
    why: str = ""
    code: str = ""


@dataclass(frozen=True)
class Story:
    """The known facts about a tenant for one workload. ``events`` are in the order of time."""

    tenant: str
    workload: str
    champion: Champion | None
    requests: Sequence[Request]
    versions: Sequence[ModelVersion]
    events: Sequence[Event]

    @property
    def known(self) -> bool:
        """Whether there is anything to tell."""
        return bool(self.events)


@dataclass
class _Upload:
    files: int = 0
    size: int = 0
    manifest: datetime | None = None
    last: list[datetime] = field(default_factory=list)


def story_of(deployment: Deployment, workload: Workload, tenant: ids.ModelId) -> Story:
    """Collect a tenant's story for a workload, from the tables and from S3."""
    name, registry = ids.workload_name(workload.name), ModelRegistry(deployment)
    queue = RequestQueue(deployment)
    lanes: tuple[Purpose, ...] = ("training", "inference")
    requests = [row for purpose in lanes for row in queue.of_tenant(name, tenant, purpose)]
    others = {
        request.manifest_key
        for model in registry.models_of(ids.tenant_of(tenant), name)
        if model != tenant
        for purpose in lanes
        for request in queue.of_tenant(name, model, purpose)
    }
    versions = registry.versions(tenant, name)
    champion = registry.champion(workload.served_by(tenant), name)
    events = [
        *_uploads(deployment, name, tenant, requests, others),
        *(event for request in requests for event in _changes(request, queue.history_of(request))),
        *(_made(version, workload.quality) for version in versions),
        *_latest_prediction(deployment, name, tenant),
    ]
    # A shared model would answer for tenants of which nothing is known, too.
    if events or workload.shared_model is None:
        events += _crowned(champion)
    return Story(
        tenant, name, champion, requests, versions, sorted(events, key=lambda event: event.at)
    )


def _uploads(
    deployment: Deployment,
    workload: ids.WorkloadName,
    tenant: ids.ModelId,
    requests: Sequence[Request],
    others: Collection[str],
) -> Iterator[Event]:
    """The uploads for a model. One that made no request may be for any of its tenant's models;
    ``others`` are the manifests of those that made another model's."""
    prefix = s3_keys.tenant_uploads_prefix(workload, tenant)
    pages = deployment.s3.get_paginator("list_objects_v2").paginate(
        Bucket=deployment.uploads_bucket,
        Prefix=prefix,
        PaginationConfig={"MaxItems": _MAX_UPLOADED_OBJECTS},
    )
    found: dict[str, _Upload] = {}
    for page in pages:
        for entry in page.get("Contents", []):
            name, _, file = entry["Key"].removeprefix(prefix).partition("/")
            upload = found.setdefault(name, _Upload())
            upload.last.append(entry["LastModified"])
            if file == ids.MANIFEST:
                upload.manifest = entry["LastModified"]
            else:
                upload.files += 1
                upload.size += entry["Size"]
    made = {request.manifest_key: request.request for request in requests}
    for name, upload in found.items():
        if f"{prefix}{name}/{ids.MANIFEST}" in others:
            continue
        what = f"{upload.files} {'file' if upload.files == 1 else 'files'}, {upload.size:,} bytes"
        if upload.manifest is None:
            what += "; its manifest.json has not come, so it is not complete"
        elif f"{prefix}{name}/{ids.MANIFEST}" not in made:
            what += "; it made no request: not taken in yet, or the same content as an earlier one"
        yield Event(upload.manifest or max(upload.last), workload, "upload", name, what)


def _changes(request: Request, history: Sequence[Mapping[str, Any]]) -> Iterator[Event]:
    last_trained = max(
        (at for at, entry in enumerate(history) if entry["status"] == "training"), default=None
    )
    given = ", ".join(f"{name} {value}" for name, value in sorted(request.hyperparameters.items()))
    trace_id = trace_id_of(request.traceparent)
    traced = f"; trace {trace_id}" if trace_id else ""
    for at, entry in enumerate(history):
        with_them = f"; trained with {given}" if given and at == last_trained else ""
        yield Event(
            at=datetime.fromisoformat(entry["at"]),
            workload=request.workload,
            kind="request",
            id=request.request,
            what=str(entry["status"]),
            by=str(entry.get("by", "")),
            why=str(entry.get("why", "")) + with_them + (traced if at == 0 else ""),
            code=str(entry.get("code", "")),
        )


def _made(version: ModelVersion, quality: Quality) -> Event:
    compared = [name for name in (quality.metric, quality.baseline) if name is not None]
    scores = [f"{name} {version.metrics[name]:.4g}" for name in compared if name in version.metrics]
    became = version.status.replace("_", " ") + (f": {version.note}" if version.note else "")
    return Event(
        at=version.made,
        workload=version.workload,
        kind="version",
        id=version.version,
        what=f"made, {version.size:,} bytes; now {became}",
        by=f"job {version.job}" if version.job else "made elsewhere",
        why=", ".join(scores),
    )


def _crowned(champion: Champion | None) -> Iterator[Event]:
    if champion is not None:
        previous = f"; before it {champion.previous}" if champion.previous else ""
        whom = "all tenants" if champion.route.tenant == ids.SHARED else "the tenant"
        yield Event(
            at=champion.since,
            workload=champion.workload,
            kind="champion",
            id=champion.version,
            what=f"serves {whom} from {champion.endpoint}{previous}",
        )


def _latest_prediction(
    deployment: Deployment, workload: ids.WorkloadName, tenant: ids.ModelId
) -> Iterator[Event]:
    if found := stored_predictions(deployment, workload, tenant):
        latest = found[-1]
        what = f"the latest batch prediction, {latest.size:,} bytes"
        yield Event(latest.written, workload, "prediction", latest.day.isoformat(), what)
