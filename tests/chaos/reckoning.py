"""The reckoning at the end: every upload accounted for, and S3, DynamoDB, Dagster and SageMaker
telling the same."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError
from dagster import DagsterInstance, DagsterRunStatus, RunsFilter
from dagster._core.storage.partition_status_cache import AssetPartitionStatus

from orchestration.partitions import tenants_of
from orchestration.private_dagster.chosen_partitions import asset_key
from tenantry.aws.deployment import Deployment
from tenantry.hosting import endpoints
from tenantry.hosting.invocation import InvocationRefusedError, invoke
from tenantry.models.registry import ModelRegistry, ModelVersion
from tenantry.names import ids, s3_keys, sagemaker_names
from tenantry.names.tiers import machines_of
from tenantry.requests.queue import RequestQueue
from tenantry.requests.rows import NEXT, Request
from tenantry.shown.report import AssetName
from tenantry.workloads.schema import Workload
from tests.chaos.tenants import ENERGY, Upload, Uploader
from tests.chaos.world import RELEASED

_ASSETS: Final[Sequence[AssetName]] = (
    "training_data",
    "fine_tuned_artifact",
    "endpoint_registration",
)
_FINAL: Final = frozenset({"registered", "superseded", "refused", "dead_lettered"})
_RUN_OVER: Final = frozenset(
    {DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED}
)
_CROWNED: Final = frozenset({"champion", "former_champion"})
# The allowed reasons of a dead letter: each is a fault of the system, none a defect of the tenant's
# data.
_FAULTS: Final = re.compile(
    r"AlgorithmError|InternalServerError|CapacityError|capacity|interrupt|Expired|SlowDown|Throttl|Unavailable|Connection"
    r"|did not answer|not in service|died before|without an outcome|SIGKILL|timed out|endpoint",
    re.IGNORECASE,
)
_NOTICE_OF: Final[Mapping[str, frozenset[str]]] = {
    "registered": frozenset({"model_ready", "model_kept"}),
    "refused": frozenset({"upload_refused", "model_not_made"}),
    "dead_lettered": frozenset({"model_not_made"}),
}


@dataclass
class Reckoning:
    """The findings at the end. ``wrong`` holds the discrepancies by tenant; ``""`` means no
    particular tenant."""

    deployment: Deployment
    workload: Workload
    uploads: Sequence[Upload]
    uploader: Uploader
    wrong: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._queue, self._registry = RequestQueue(self.deployment), ModelRegistry(self.deployment)
        self.tenants = sorted({upload.tenant for upload in self.uploads})
        self.rows: dict[ids.TenantId, list[Request]] = {}
        self.versions: dict[ids.TenantId, list[ModelVersion]] = {}
        self.notices: dict[str, list[dict[str, Any]]] = defaultdict(list)

    def _say(self, tenant: str, sentence: str) -> None:
        self.wrong[tenant].append(sentence)

    # ---- is it at rest? --------------------------------------------------------------------------

    def unsettled(self) -> Counter[str]:
        """The work in progress: uploads without a row, and open requests by status. Empty at
        rest."""
        waiting = Counter[str](request.status for request in self._queue.open(ENERGY))
        if not waiting:
            known = {
                row.manifest_key
                for tenant in self.tenants
                for row in self._queue.of_tenant(ENERGY, tenant)
            }
            for upload in self.uploads:
                if upload.manifest_key not in known and not self._is_known_by_content(upload):
                    waiting["uploads without a request"] += 1
        if not waiting and not self._is_released():
            waiting["endpoint that is not as it was released"] += 1
        return waiting

    def _is_released(self) -> bool:
        """Whether the endpoint is in service and its container has the release's environment."""
        name = sagemaker_names.endpoint_name(
            self.deployment.prefix, ENERGY, machines_of(self.workload.tier, ids.tenant_id("anyone"))
        )
        client = self.deployment.sagemaker
        try:
            endpoint = endpoints.describe_endpoint(self.deployment, name)
            if endpoint is None or endpoint["EndpointStatus"] != "InService":
                return False
            config = client.describe_endpoint_config(
                EndpointConfigName=endpoint["EndpointConfigName"]
            )
            container = client.describe_model(
                ModelName=config["ProductionVariants"][0]["ModelName"]
            )["PrimaryContainer"]
        except (ClientError, BotoCoreError):  # a fault meets this call, too
            return False
        return RELEASED.items() <= container.get("Environment", {}).items()

    def _is_known_by_content(self, upload: Upload) -> bool:
        request = self.uploader.request_of(upload, {ENERGY: self.workload})
        return request is not None and self._queue.get(ENERGY, upload.tenant, request) is not None

    def open_runs(
        self, instance: DagsterInstance, begun_before: datetime | None = None
    ) -> list[str]:
        """Unfinished runs that were created before a moment."""
        statuses = [status for status in DagsterRunStatus if status not in _RUN_OVER]
        return [
            f"{run.run_id} {run.status.value}"
            for run in instance.get_runs(RunsFilter(statuses=statuses, created_before=begun_before))
        ]

    # ---- the accounts ----------------------------------------------------------------------------

    def settle(self, instance: DagsterInstance, messages: Iterator[str], rested: datetime) -> None:
        """Compare everything with everything. ``messages`` are the bodies of the app's queue;
        ``rested`` is the time at which no work was in progress."""
        self.rows = {tenant: self._queue.of_tenant(ENERGY, tenant) for tenant in self.tenants}
        self.versions = {tenant: self._registry.versions(tenant, ENERGY) for tenant in self.tenants}
        for body in messages:
            notice = json.loads(body)
            notice = json.loads(notice["Message"]) if "Message" in notice else notice
            self.notices[str(notice["request"])].append(notice)
        self._uploads_and_requests()
        self._versions_and_champions()
        self._last_wishes()
        self._objects()
        self._told()
        self._dagster(instance, rested)
        self._sagemaker()

    def _uploads_and_requests(self) -> None:
        by_key = {row.manifest_key: row for rows in self.rows.values() for row in rows}
        for upload in self.uploads:
            request = self.uploader.request_of(upload, {ENERGY: self.workload})
            same = [row for row in self.rows[upload.tenant] if row.request == request]
            row = by_key.get(upload.manifest_key) or (same[0] if same else None)
            if row is None:
                self._say(upload.tenant, f"upload {upload.upload} never became a request")
            elif upload.spoiled and row.status != "refused" and row.status != "superseded":
                self._say(
                    upload.tenant,
                    f"upload {upload.upload} ({upload.spoiled}) is {row.status}, not refused",
                )
            elif not upload.spoiled and row.status == "refused":
                self._say(upload.tenant, f"good upload {upload.upload} was refused: {row.reason}")
        for tenant, rows in self.rows.items():
            for row in rows:
                self.counts[f"requests {row.status}"] += 1
                self._request(tenant, row)
            self._newest(tenant, rows)

    def _request(self, tenant: ids.TenantId, row: Request) -> None:
        if row.status not in _FINAL:
            self._say(tenant, f"request {row.request} is {row.status}")
        told = [str(change["status"]) for change in row.history]
        for before, after in pairwise(told):
            if after not in NEXT[before]:  # type: ignore[index]  # a status as the history has it
                self._say(tenant, f"request {row.request} went from {before} to {after}")
        if told[-1] != row.status:
            self._say(
                tenant,
                f"request {row.request} is {row.status} and its history ends with {told[-1]}",
            )
        times = [str(change["at"]) for change in row.history]
        if row.status == "registered" and told.count("registered") != 1:
            self._say(
                tenant, f"request {row.request} was registered {told.count('registered')} times"
            )
        if times != sorted(times):
            self.counts["histories out of order"] += 1
        if row.status in {"refused", "dead_lettered"}:
            self.reasons[f"{row.status}: {_shortened(row.reason or '')}"] += 1
            if not row.reason:
                self._say(tenant, f"request {row.request} is {row.status} without a reason")
        if row.status == "dead_lettered" and not _FAULTS.search(row.reason or ""):
            self._say(
                tenant, f"request {row.request} is dead-lettered for no fault of ours: {row.reason}"
            )

    def _newest(self, tenant: ids.TenantId, rows: Sequence[Request]) -> None:
        """A superseding request is no older than the superseded one, and has its own end. S3 gives
        times to the second."""
        champion = self._registry.champion(tenant, ENERGY)

        def moment(row: Request) -> str:
            """The time of its latest upload; for a trained request that a newer one followed, the
            time of its data."""
            made = ids.upload_moment(row.version) if row.version else ""
            followed = champion is not None and made < ids.upload_moment(champion.version)
            return made if row.status == "registered" and followed else ids.moment_of(row.uploaded)

        latest = max(
            (moment(row) for row in rows if row.version and row.status != "superseded"), default=""
        )
        for row in rows:
            if row.status == "superseded" and ids.moment_of(row.uploaded) > latest:
                self._say(
                    tenant, f"request {row.request} was superseded, and there is nothing newer"
                )

    def _versions_and_champions(self) -> None:
        for tenant, versions in self.versions.items():
            registered = {
                row.request: row for row in self.rows[tenant] if row.status == "registered"
            }
            by_request = defaultdict(list)
            for version in versions:
                by_request[version.request].append(version)
                self.counts[f"versions {version.status}"] += 1
            for request, row in registered.items():
                made = [
                    version for version in by_request[request] if version.version == row.version
                ]
                if len(made) != 1:
                    self._say(
                        tenant,
                        f"request {request} is registered, with {len(made)} versions {row.version}",
                    )
                elif made[0].status == "trained":
                    self._say(
                        tenant,
                        f"version {row.version} is registered, and nobody noted what became of it",
                    )
            champion = self._registry.champion(tenant, ENERGY)
            if champion is None:
                if registered:
                    self._say(tenant, "something is registered, and there is no champion")
                continue
            self.counts["champions"] += 1
            crowned = [version for version in versions if version.status in _CROWNED]
            if [version.version for version in versions if version.status == "champion"] != [
                champion.version
            ]:
                told = {version.version: version.status for version in versions}
                self._say(
                    tenant, f"the champion is {champion.version}, and the versions say {told}"
                )
            if champion.turn != len(crowned):
                self._say(
                    tenant,
                    f"turn {champion.turn} of the champion, and {len(crowned)} versions were "
                    f"crowned",
                )
            if not registered:
                self._say(
                    tenant,
                    f"the champion is {champion.version}, and no request of it is registered",
                )
            elif ids.upload_moment(champion.version) != max(
                (ids.upload_moment(version.version) for version in crowned), default=""
            ):
                self._say(
                    tenant, f"the champion {champion.version} is not the newest that was crowned"
                )

    def _last_wishes(self) -> None:
        """A tenant is served its last upload, unless that upload gave no model."""
        bucket = self.deployment.uploads_bucket
        pages = self.deployment.s3.get_paginator("list_objects_v2").paginate(
            Bucket=bucket, Prefix="uploads/"
        )
        moments = {
            entry["Key"]: entry["LastModified"]
            for page in pages
            for entry in page.get("Contents", [])
        }
        for tenant, versions in self.versions.items():
            uploads = [upload for upload in self.uploads if upload.tenant == tenant]
            latest = max(moments[upload.manifest_key].replace(microsecond=0) for upload in uploads)
            last = [u for u in uploads if moments[u.manifest_key].replace(microsecond=0) == latest]
            wanted = {self.uploader.request_of(upload, {ENERGY: self.workload}) for upload in last}
            rows = sorted(
                (r for r in self.rows[tenant] if r.content in wanted),
                key=lambda r: (r.uploaded, r.accepted),
            )
            champion = self._registry.champion(tenant, ENERGY)
            if len(last) > 1 or not rows or rows[-1].status != "registered" or champion is None:
                continue
            own = next(
                (version for version in versions if version.version == rows[-1].version), None
            )
            if own is not None and own.status == "rejected" and "a newer version" not in own.note:
                continue  # it scored worse than its predecessor
            self.counts["last uploads served"] += 1
            served = {
                row.content
                for row in self.rows[tenant]
                for version in versions
                if version.version == champion.version and version.request == row.request
            }
            if served != wanted:
                self._say(
                    tenant,
                    f"{last[0].upload} was uploaded last, and {champion.version} of another is "
                    f"served",
                )

    def _objects(self) -> None:
        bucket = self.deployment.data_bucket
        stored = {
            str(key)
            for prefix in ("endpoints/", "checkpoints/", "artifacts/")
            for key in self._listed(bucket, prefix)
        }
        known = {version.archive for versions in self.versions.values() for version in versions}
        served: dict[str, ModelVersion] = {
            sagemaker_names.target_model(tenant, version.version): version
            for tenant, versions in self.versions.items()
            for version in versions
        }
        for key in stored:
            if key.startswith("endpoints/"):
                self.counts["archives of endpoints"] += 1
                target = "/".join(key.split("/")[-2:])
                if target not in served:
                    self._say(target.split("/")[0], f"archive {key} is of no version")
            elif key.startswith("artifacts/"):
                self.counts["archives kept"] += 1
            elif key.endswith(".tar.gz"):
                self.counts["archives of checkpoints"] += 1
        for missing in known - stored:
            self._say(missing.split("/")[-2], f"version's archive {missing} is not in S3")
        for tenant in self.tenants:
            champion = self._registry.champion(tenant, ENERGY)
            if (
                champion
                and s3_keys.endpoint_model(champion.endpoint, tenant, champion.version)
                not in stored
            ):
                self._say(
                    tenant,
                    f"the champion's archive {champion.version} is not under its endpoint's prefix",
                )
        self.counts["uploads"] = sum(
            key.endswith(f"/{ids.MANIFEST}")
            for key in self._listed(self.deployment.uploads_bucket, "uploads/")
        )
        if self.counts["uploads"] != len(self.uploads):
            self._say(
                "",
                f"{len(self.uploads)} uploads were made, {self.counts['uploads']} manifests are in "
                f"S3",
            )

    def _listed(self, bucket: str, prefix: str) -> Iterator[str]:
        pages = self.deployment.s3.get_paginator("list_objects_v2").paginate(
            Bucket=bucket, Prefix=prefix
        )
        for page in pages:
            for entry in page.get("Contents", []):
                yield entry["Key"]

    def _told(self) -> None:
        """Each owner received at least one notice of each of its requests' ends, and no notice
        without an event."""
        for tenant, rows in self.rows.items():
            for row in rows:
                kinds = [notice["kind"] for notice in self.notices.get(row.request, [])]
                expected = _NOTICE_OF.get(row.status, frozenset())
                self.counts["notices"] += len(kinds)
                self.counts["notices given again"] += max(0, len(kinds) - 1)
                if expected and not expected & set(kinds):
                    self._say(
                        tenant,
                        f"request {row.request} is {row.status}, and its owner was told "
                        f"{kinds or 'nothing'}",
                    )
                if set(kinds) - expected:
                    self._say(
                        tenant,
                        f"request {row.request} is {row.status}, and its owner was told {kinds}",
                    )

    def _dagster(self, instance: DagsterInstance, rested: datetime) -> None:
        # Sensors keep starting runs, because a run checks the endpoint from time to time.
        for run in self.open_runs(instance, rested):
            self._say("", f"run {run} is not over")
        for over in _RUN_OVER:
            self.counts[f"runs {over.value}"] = instance.get_runs_count(RunsFilter(statuses=[over]))
        known = set(instance.get_dynamic_partitions(tenants_of(ENERGY).name or ""))
        for asset in _ASSETS:
            found = (
                instance.get_status_by_partition(
                    asset_key(ENERGY, asset), self.tenants, tenants_of(ENERGY)
                )
                or {}
            )
            for tenant in self.tenants:
                status = found.get(tenant)
                last = [row.status for row in self.rows[tenant] if row.status != "superseded"]
                if status is not None:
                    self.counts[f"{asset} {status.value}"] += 1
                if status == AssetPartitionStatus.IN_PROGRESS:
                    self._say(tenant, f"{asset} is in progress for ever")
                if (
                    last
                    and set(last) == {"registered"}
                    and status != AssetPartitionStatus.MATERIALIZED
                ):
                    self._say(
                        tenant,
                        f"{asset} is {status.value if status else 'missing'}, and its requests are "
                        f"registered",
                    )
                if "registered" in last and tenant not in known:
                    self._say(tenant, "it is no partition")

    def _sagemaker(self) -> None:
        pages = self.deployment.sagemaker.get_paginator("list_training_jobs").paginate()
        jobs = [job for page in pages for job in page["TrainingJobSummaries"]]
        names = Counter(job["TrainingJobName"] for job in jobs)
        for job in jobs:
            self.counts[f"jobs {job['TrainingJobStatus']}"] += 1
            if job["TrainingJobStatus"] in {"InProgress", "Stopping"}:
                self._say("", f"job {job['TrainingJobName']} is {job['TrainingJobStatus']}")
        for name, times in names.items():
            if times > 1:
                self._say("", f"there are {times} jobs {name}")
        of_versions = {version.job for versions in self.versions.values() for version in versions}
        for job_name in of_versions - set(names):
            self._say("", f"versions were made by job {job_name}, which SageMaker does not know")
        for tenant in self.tenants:
            champion = self._registry.champion(tenant, ENERGY)
            if champion is None:
                continue
            try:
                smoke_request = dict(self.workload.serving.smoke_request)
                invoke(self.deployment, champion.route, smoke_request)
            except (InvocationRefusedError, ClientError) as error:
                self._say(tenant, f"the champion does not answer: {error}")
            else:
                self.counts["champions that answer"] += 1

    # ---- for people ------------------------------------------------------------------------------

    def story(self, tenant: str) -> str:
        """All known facts about a tenant, in lines."""
        who = ids.tenant_id(tenant)
        lines = [f"--- {tenant} ---"]
        lines += [
            f"upload {u.upload}: {u.spoiled or 'good'}, event {u.event}"
            for u in self.uploads
            if u.tenant == who
        ]
        for row in self.rows.get(who, []):
            lines.append(
                f"request {row.request} {row.status} version {row.version} pack {row.pack} from "
                f"{row.manifest_key}"
            )
            lines += [
                f"    {c['at'][11:23]} {c.get('by', '')}: {c['status']}: {c['why']}"
                for c in row.history
            ]
            lines += [
                f"    told: {n['kind']}: {n['message']}" for n in self.notices.get(row.request, [])
            ]
        lines += [
            f"version {v.version} {v.status} job {v.job}: {v.note}"
            for v in self.versions.get(who, [])
        ]
        lines.append(f"champion {self._registry.champion(who, ENERGY)}")
        return "\n".join(lines)


def _shortened(reason: str) -> str:
    return re.sub(r"\b[0-9a-f]{16,}\b|\d{4}-\d\d-\d\dT[\d:.]+|\bp-[0-9a-f]+", "…", reason)[:110]
