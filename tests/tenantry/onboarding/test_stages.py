"""Each stage of an onboarding alone: members enter, members continue, and a failure affects only
its own member."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from containers.forecast.consumption.synthetic import generate
from tenantry.aws import objects
from tenantry.aws.deployment import Deployment
from tenantry.models.registry import ModelRegistry
from tenantry.names import ids, s3_keys
from tenantry.onboarding.member import Member, owed_members
from tenantry.onboarding.pack import PackAtWork
from tenantry.onboarding.preparing import prepare, prepared_before
from tenantry.onboarding.registering import RegistrationStage
from tenantry.onboarding.training import TrainingStage
from tenantry.requests.queue import RequestQueue
from tenantry.requests.rows import Request
from tenantry.shown.report import ONBOARDING
from tenantry.training.packed_job import FinishedJob, JobFailedError
from tenantry.uploads import manifests
from tenantry.workloads.schema import read_workloads
from tests.conftest import TrainedForecast
from tests.tenantry.onboarding.registration import NAME, trained_version
from tests.tenantry.onboarding.test_onboarding import Heard

ENERGY = read_workloads()["energy"]
ACME, GLOBEX = ids.tenant_id("acme"), ids.tenant_id("globex")
PACK = ids.pack_id("p-1")
READINGS = generate(1, datetime(2025, 1, 1, tzinfo=UTC), datetime(2025, 3, 1, tzinfo=UTC)).to_csv(
    index=False
)


def claimed(deployment: Deployment, files: dict[ids.TenantId, str]) -> dict[str, Member]:
    """Members of a pack, by tenant, each with an uploaded file and a claimed request."""
    queue = RequestQueue(deployment)
    for tenant, content in files.items():
        key = manifests.put_upload(
            deployment, NAME, tenant, ids.upload_id("u1"), {"a.csv": content.encode()}, {}
        )
        manifest = manifests.read_manifest(deployment, key, {"energy": ENERGY})
        queue.accept(NAME, tenant, manifest.request, key, "bridge", first=True)
    rows = queue.claim(queue.due(NAME), PACK)
    return {member.tenant: member for member in owed_members(rows, PACK)}


def at_work_on(deployment: Deployment, heard: Heard) -> PackAtWork:
    return PackAtWork(deployment, ENERGY, PACK, "bridge", heard, frozenset(ONBOARDING))


def row_of(deployment: Deployment, tenant: ids.TenantId) -> Request:
    (row,) = RequestQueue(deployment).of_tenant(NAME, tenant)
    return row


def test_preparing_lets_the_good_go_on_and_tells_the_others_why_they_do_not(
    deployment: Deployment,
) -> None:
    heard = Heard()
    members = claimed(deployment, {ACME: READINGS, GLOBEX: "no,readings\n1,2\n"})
    (ready,) = prepare(at_work_on(deployment, heard), list(members.values()))
    assert ready is members[ACME]
    assert ready.data is not None
    assert ready.data.rows == 59 * 24
    assert row_of(deployment, ACME).status == "training"
    assert row_of(deployment, GLOBEX).status == "refused"
    assert members[GLOBEX].failure in heard.reasons
    assert members[ACME].failure is None


def test_a_member_that_was_cancelled_meanwhile_is_left_alone(deployment: Deployment) -> None:
    members = claimed(deployment, {ACME: READINGS})
    RequestQueue(deployment).cancel(row_of(deployment, ACME), why="an operator said so")
    assert prepare(at_work_on(deployment, Heard()), list(members.values())) == []
    assert row_of(deployment, ACME).status == "cancelled"
    assert members[ACME].left_training
    assert members[ACME].failure is None


def test_training_alone_takes_what_was_prepared_before(deployment: Deployment) -> None:
    heard = Heard()
    members = claimed(deployment, {ACME: READINGS, GLOBEX: READINGS})
    prepare(at_work_on(deployment, heard), [members[ACME]])
    again = [
        Member(row, row.version, owed=True)
        for row in (row_of(deployment, ACME), row_of(deployment, GLOBEX))
        if row.version is not None
    ]
    (ready,) = prepared_before(at_work_on(deployment, heard), again)
    assert ready.tenant == ACME
    assert "never prepared" in str(again[1].failure)


@pytest.mark.parametrize("ends", ["well", "badly"])
def test_whoever_is_trained_goes_on_while_the_job_works_on_the_others(
    deployment: Deployment, trained_forecasts: list[TrainedForecast], ends: str
) -> None:
    heard, gone_on = Heard(), list[str]()
    members = claimed(deployment, {ACME: READINGS, GLOBEX: READINGS})
    made = trained_forecasts[0]

    def train(_: Any, __: str, on_message: Callable[[Any], None]) -> FinishedJob:
        acme = members[ACME]
        left = s3_keys.checkpoint_archive(NAME, PACK, ACME, acme.version)
        told = {
            **made.outcome,
            "task": acme.request.request,
            "tenant": ACME,
            "version": acme.version,
        }
        objects.write_bytes(deployment.s3, deployment.data_bucket, left, made.archive)
        on_message({"event": "task_finished", "outcome": told})
        assert gone_on == [ACME]
        on_message({"event": "task_finished", "outcome": told})
        assert gone_on == [ACME]
        if ends == "badly":
            raise JobFailedError("AlgorithmError: it broke", "algorithm")
        return FinishedJob("job")

    stage = TrainingStage(
        at_work_on(deployment, heard), train, lambda member: gone_on.append(member.tenant)
    )
    if ends == "badly":
        with pytest.raises(JobFailedError):
            stage.run(list(members.values()))
    else:
        stage.run(list(members.values()))
    assert row_of(deployment, ACME).status == "trained"
    assert row_of(deployment, GLOBEX).status == "failed"
    assert members[ACME].archive_checked
    assert ("it broke" if ends == "badly" else "without an outcome") in str(members[GLOBEX].failure)
    (version,) = ModelRegistry(deployment).versions(ACME, NAME)
    assert version == members[ACME].model


def test_what_an_earlier_run_trained_goes_on_without_a_job(
    deployment: Deployment, trained_forecasts: list[TrainedForecast]
) -> None:
    heard, gone_on = Heard(), list[str]()
    members = claimed(deployment, {ACME: READINGS, GLOBEX: READINGS})
    model = trained_version(deployment, ACME, 1, trained_forecasts[0].archive, {})
    queue = RequestQueue(deployment)
    row = queue.move(members[ACME].request, "trained", why="by a run that died")
    taken_up = Member(row, model.version, owed=True)

    def no_job(*_: Any) -> FinishedJob:
        raise AssertionError("no job is needed")

    stage = TrainingStage(
        at_work_on(deployment, heard), no_job, lambda member: gone_on.append(member.tenant)
    )
    assert list(stage.take_up([taken_up, members[GLOBEX]])) == [members[GLOBEX]]
    assert gone_on == [ACME]
    assert json.dumps(heard.made[0]["version"]) == json.dumps(model.version)


def test_registering_counts_those_that_serve_and_fails_whoever_has_nothing_to_serve(
    serving: Any, trained_forecasts: list[TrainedForecast]
) -> None:
    deployment, energy, _ = serving
    heard = Heard()
    rows = claimed(deployment, {ACME: READINGS, GLOBEX: READINGS})
    trained_version(deployment, ACME, 1, trained_forecasts[0].archive, {})
    at_work = PackAtWork(deployment, energy, PACK, "bridge", heard, frozenset(ONBOARDING))
    stage = RegistrationStage(at_work)
    stage.run([rows[ACME], rows[GLOBEX]])
    at_work.endings.tell_registered()
    assert stage.registered == 1
    champion = ModelRegistry(deployment).champion(ACME, NAME)
    assert champion is not None
    assert heard.made[0]["champion"] == champion.version
    assert "no usable artifact" in str(rows[GLOBEX].failure)
