"""Champion and challenger inside Dagster, on the local cloud with the real container: drift,
comparison, rollback, re-training."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pandas as pd
import pytest
from dagster import AssetCheckKey, DagsterInstance
from dagster._core.storage.tags import PARTITION_NAME_TAG

from containers.forecast.consumption.synthetic import generate
from orchestration.definitions import defs
from orchestration.jobs import jobs_of
from orchestration.private_dagster.chosen_partitions import asset_key
from orchestration.schedules import scheduled_of
from tenantry.aws.deployment import Deployment
from tenantry.models.registry import ModelRegistry
from tenantry.names import ids
from tenantry.requests.queue import RequestQueue
from tenantry.serving.client import TenantClient
from tenantry.workloads.schema import Workload
from tests.conftest import RECENT_UNTIL
from tests.orchestration.conftest import DAYS, Upload
from tests.orchestration.running import (
    TENANTRY,
    at_once,
    metadata_of,
    onboard,
    run,
    statuses,
    take_in,
)

ENERGY = ids.workload_name("energy")
REGISTRATION = asset_key("energy", "endpoint_registration")
DRIFT = AssetCheckKey(REGISTRATION, "drift")


def readings(days: int, grown: float = 1.0) -> bytes:
    """A customer's hours as CSV; readings after the first ten weeks are multiplied."""
    start = RECENT_UNTIL - timedelta(days=DAYS)
    frame = generate(1, start, start + timedelta(days=days), seed=3)
    frame.loc[frame.timestamp >= start + timedelta(days=DAYS), "consumption"] *= grown
    sink = io.StringIO()
    pd.DataFrame(frame[["timestamp", "consumption"]]).to_csv(sink, index=False)
    return sink.getvalue().encode()


def drift_checks(instance: DagsterInstance) -> dict[str, tuple[bool, Mapping[str, Any]]]:
    """Each tenant's latest drift check: whether it passed, and its metadata."""
    found: dict[str, tuple[bool, Mapping[str, Any]]] = {}
    for record in instance.event_log_storage.get_asset_check_execution_history(DRIFT, limit=50):
        if record.event is not None and (dagster_event := record.event.dagster_event) is not None:
            evaluation = dagster_event.asset_check_evaluation_data
            if evaluation.partition is not None:
                metadata = {name: value.value for name, value in evaluation.metadata.items()}
                found.setdefault(evaluation.partition, (evaluation.passed, metadata))
    return found


@pytest.fixture
def told_operators(deployment: Deployment) -> str:
    """The URL of a queue that receives operators' notices."""
    url = deployment.sqs.create_queue(QueueName="operators-of-a-test")["QueueUrl"]
    arn = deployment.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])[
        "Attributes"
    ]["QueueArn"]
    deployment.sns.subscribe(TopicArn=deployment.operators_topic, Protocol="sqs", Endpoint=arn)
    return url


def test_a_champion_is_watched_challenged_rolled_back_and_retrained(
    deployment: Deployment,
    dagster_instance: DagsterInstance,
    energy: Workload,
    upload: Upload,
    told_operators: str,
) -> None:
    workload = at_once(energy)
    steady, grown = upload("acme", readings(DAYS)), upload("globex", readings(DAYS))
    take_in(deployment, dagster_instance)
    assert all(result.success for result in onboard(deployment, dagster_instance, workload))
    assert drift_checks(dagster_instance) == {}, "there was nobody to watch"
    registry = ModelRegistry(deployment)
    first = registry.champion(grown, ENERGY)
    assert first is not None
    assert first.recipe == workload.recipe

    # Newer data: at the old level for one tenant, at another level for the other.
    upload("acme", readings(DAYS + 7))
    upload("globex", readings(DAYS + 7, grown=1.8))
    take_in(deployment, dagster_instance)
    assert all(result.success for result in onboard(deployment, dagster_instance, workload))
    checks = drift_checks(dagster_instance)
    assert {tenant: passed for tenant, (passed, _) in checks.items()} == {
        steady: True,
        grown: False,
    }
    _, warned = checks[grown]
    assert warned["version"] == first.version
    assert warned["mase"] > 2 * warned["promised_mase"]
    assert warned["readings"] == 7 * 24
    assert warned["plot"].startswith("![plot](data:image/png;base64,")
    messages = deployment.sqs.receive_message(QueueUrl=told_operators, MaxNumberOfMessages=10)[
        "Messages"
    ]
    (said,) = [json.loads(message["Body"]) for message in messages]
    assert said["Subject"] == "energy: a served model drifted"
    assert said["Message"].startswith(f"globex: mase {warned['mase']:g} where {first.version} had")

    # The challenger, trained on the new level, took over; the UI shows its opponent.
    second = registry.champion(grown, ENERGY)
    assert second is not None
    assert second.previous == first.version
    registered = metadata_of(dagster_instance, "energy", "endpoint_registration")[grown]
    assert f"from {first.version}, within the tolerance" in registered["decision"]
    assert f"challenger {second.version} | champion {first.version}" in registered["comparison"]

    # A person selects the tenant in the UI and rolls it back.
    rollback = defs.resolve_job_def("energy_rollback")
    config = {"ops": {"energy_roll_back": {"config": {"why": "its nights are wrong"}}}}
    done = rollback.execute_in_process(
        instance=dagster_instance,
        partition_key=grown,
        run_config=config,
        resources={"tenantry": TENANTRY},
    )
    assert done.success
    back = registry.champion(grown, ENERGY)
    assert back is not None
    assert (back.version, back.rolled_back_from) == (first.version, second.version)
    shown = metadata_of(dagster_instance, "energy", "endpoint_registration")[grown]
    assert (shown["decision"], shown["why"]) == (
        f"rolled back to {first.version} from {second.version}",
        "its nights are wrong",
    )
    assert statuses(dagster_instance, "energy", "endpoint_registration", [grown]) == {
        grown: "MATERIALIZED"
    }
    with TenantClient(deployment, workload, grown) as client:
        assert client.predict({"period": 1})["version"] == first.version

    # Neither a person's materialisation of the registration nor the schedule restores the rejected
    # version.
    job = defs.resolve_implicit_global_asset_job_def().get_subset(
        asset_selection={REGISTRATION}, asset_check_selection=set()
    )
    assert job.execute_in_process(
        instance=dagster_instance, partition_key=grown, resources={"tenantry": TENANTRY}
    ).success
    assert registry.champion(grown, ENERGY) == back
    assert run(dagster_instance, "energy_retraining", None).success
    assert RequestQueue(deployment).open(ENERGY) == []

    # A person can also run the check: the rolled-back champion is older than the newest upload.
    by_hand = defs.resolve_implicit_global_asset_job_def().get_subset(
        asset_selection=set(), asset_check_selection={DRIFT}
    )
    assert by_hand.execute_in_process(
        instance=dagster_instance,
        tags={PARTITION_NAME_TAG: grown},
        resources={"tenantry": TENANTRY},
    ).success, "drift warns, and fails nothing"
    passed, again = drift_checks(dagster_instance)[grown]
    assert (passed, again["mase"]) == (False, warned["mase"])


def test_re_training_is_asked_for_at_the_times_the_yaml_says_where_it_says_any(
    energy: Workload,
) -> None:
    schedule = defs.resolve_schedule_def("energy_retraining_schedule")
    assert energy.retraining is not None
    assert (schedule.cron_schedule, schedule.execution_timezone) == (
        energy.retraining.cron,
        "Europe/London",
    )
    assert schedule.job_name == "energy_retraining"
    never = energy.model_copy(update={"retraining": None})
    jobs = jobs_of(never)
    assert [job.name for job in jobs.all if "retraining" in job.name] == []
    assert [made.name for made in scheduled_of(never, jobs) if "retraining" in made.name] == []


def test_a_rollback_of_several_says_whom_it_could_not_help(
    deployment: Deployment, dagster_instance: DagsterInstance
) -> None:
    def rolled_back(**config: object) -> str:
        result = run(
            dagster_instance, "energy_rollback", {"ops": {"energy_roll_back": {"config": config}}}
        )
        assert not result.success
        (failure,) = [event for event in result.all_node_events if event.is_step_failure]
        return failure.step_failure_data.error_display_string

    assert "pick a partition" in rolled_back()
    assert "A version is one tenant's" in rolled_back(tenants=["acme", "globex"], to="v1")
    told = rolled_back(tenants=["acme", "globex"])
    assert "2 tenants failed" in told
    assert "globex has no energy model yet" in told
