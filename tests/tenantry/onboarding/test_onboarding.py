"""A training job's files in S3 decide, not its messages about them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tenantry.aws import objects
from tenantry.aws.deployment import Deployment
from tenantry.models.registry import ModelRegistry
from tenantry.names import ids, s3_keys
from tenantry.onboarding.member import Member
from tenantry.onboarding.onboarding import Onboarding
from tenantry.onboarding.pack import PackAtWork
from tenantry.requests.queue import RequestQueue
from tenantry.shown.report import AssetName
from tenantry.training.packed_job import FinishedJob
from tenantry.uploads.training_data import TrainingData
from tenantry.workloads.schema import read_workloads
from tests.conftest import TrainedForecast
from tests.tenantry.onboarding.registration import NAME

ACME, PACK = ids.tenant_id("acme"), ids.pack_id("p-1")


@dataclass
class Heard:
    """A report that records failures and materialisations."""

    made: list[Mapping[str, Any]] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def materialized(
        self, asset: AssetName, tenant: ids.ModelId, metadata: Mapping[str, Any], data_version: str
    ) -> None:
        self.made.append(metadata)

    def failed(self, asset: AssetName, tenant: ids.ModelId, reason: str) -> None:
        self.reasons.append(reason)

    def checked(self, *_: Any, **__: Any) -> None: ...
    def flush(self) -> None: ...
    def info(self, message: str) -> None: ...


def onboarded(
    deployment: Deployment, leave: Callable[[str, dict[str, Any]], None], outcome: dict[str, Any]
) -> Heard:
    """Take one claimed request through a job that reports an outcome, then calls ``leave`` for its
    files, and ends."""
    queue, energy, heard = RequestQueue(deployment), read_workloads()["energy"], Heard()
    request = ids.request_id_of(NAME, ACME, "one")
    assert queue.accept(
        NAME, ACME, request, "uploads/acme/energy/u/manifest.json", "bridge", first=True
    )
    (row,) = queue.claim(queue.due(NAME), PACK)
    assert row.version is not None
    data = TrainingData(row.version, (ids.file_name("readings.npz"),), 100, "fingerprint")
    member = Member(replace(row, facts={"training_data": data.to_json()}), row.version, owed=True)
    told = {**outcome, "task": request, "tenant": ACME, "version": row.version}
    archive = s3_keys.checkpoint_archive(NAME, PACK, ACME, row.version)

    def train(_: Any, __: str, on_message: Callable[[Any], None]) -> FinishedJob:
        objects.write_bytes(deployment.s3, deployment.data_bucket, archive, b"of an earlier try")
        on_message({"event": "task_finished", "outcome": told})
        leave(archive, told)
        return FinishedJob("job")

    stages = frozenset[AssetName](["fine_tuned_artifact"])
    at_work = PackAtWork(deployment, energy, PACK, "bridge", heard, stages)
    Onboarding(at_work, train, lambda *_: None).run([member])
    return heard


def test_an_archive_that_an_earlier_try_left_is_waited_over_and_never_taken_for_the_promised_one(
    deployment: Deployment, trained_forecasts: list[TrainedForecast]
) -> None:
    made = trained_forecasts[0]

    def leave(archive: str, told: dict[str, Any]) -> None:
        assert ModelRegistry(deployment).versions(ACME, NAME) == []
        objects.write_bytes(deployment.s3, deployment.data_bucket, archive, made.archive)
        outcome = json.dumps(told).encode()
        objects.write_bytes(
            deployment.s3, deployment.data_bucket, s3_keys.outcome_beside(archive), outcome
        )

    heard = onboarded(deployment, leave, made.outcome)
    (version,) = ModelRegistry(deployment).versions(ACME, NAME)
    assert heard.made[0]["dagster/uri"] == f"s3://{deployment.data_bucket}/{version.archive}"
    assert version.archive == s3_keys.artifact(NAME, ACME, version.version)
    assert (
        objects.digest(deployment.s3, deployment.data_bucket, version.archive).sha256
        == version.sha256
    )
    assert heard.reasons == []


def test_a_job_that_leaves_another_archive_than_it_told_of_has_made_no_version(
    deployment: Deployment, trained_forecasts: list[TrainedForecast]
) -> None:
    heard = onboarded(deployment, lambda *_: None, trained_forecasts[0].outcome)
    (reason,) = heard.reasons
    assert reason.startswith("the archive has 17 bytes where its outcome promised")
    assert ModelRegistry(deployment).versions(ACME, NAME) == []
    (row,) = RequestQueue(deployment).of_tenant(NAME, ACME)
    assert (row.status, row.attempt) == ("failed", 2)
