"""A lost scheduled run is repeated, within limits and only if neither a person nor the system
decided otherwise."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from dagster import (
    DagsterEvent,
    DagsterEventType,
    DagsterInstance,
    DagsterRunStatus,
    RunRequest,
    build_schedule_context,
    build_sensor_context,
)
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    ScheduleInstigatorData,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from orchestration.definitions import defs
from orchestration.jobs import jobs_of
from orchestration.overdue import MAX_RUNS, GivenUp, Look, overdue
from orchestration.schedules import DUE_TAG, Scheduled, scheduled_of
from orchestration.sensors import sensors_of
from tenantry.aws.deployment import Deployment
from tenantry.workloads.schema import Workload, Workloads
from tests.orchestration.running import TENANTRY, run

BATCH = "energy_batch_predictions"
NOW = datetime(2026, 3, 12, 12, 0, tzinfo=UTC)  # long after 02:15
DUE = datetime(2026, 3, 12, 2, 15, tzinfo=UTC)
NOBODY = {"ops": {"energy_predict_everyone": {"config": {"day": "2026-03-12"}}}}


def looked_before(now: datetime = NOW) -> Look:
    """Long ago; the batches of all nights but the last are settled."""
    long_ago = now - timedelta(days=9)
    last = latest_night(now)
    settled = {"energy nightly batch": last - timedelta(hours=12)}
    return Look(long_ago, long_ago, now, settled)


def latest_night(now: datetime) -> datetime:
    """When the batch of the last night was due."""
    from dagster._utils.schedules import get_latest_completed_cron_tick

    return get_latest_completed_cron_tick("15 2 * * *", now, "Europe/London")


def batch_of(energy: Workload) -> Scheduled:
    return scheduled_of(energy, jobs_of(energy))[0]


def asked(
    instance: DagsterInstance, scheduled: list[Scheduled], look: Look, now: datetime = NOW
) -> list[Any]:
    return list(overdue(instance, scheduled, look, now))


def lose(
    instance: DagsterInstance,
    request: RunRequest,
    ended: DagsterEventType = DagsterEventType.RUN_FAILURE,
) -> str:
    """A run that was launched and ended without any event of its own."""
    made = instance.create_run_for_job(
        defs.resolve_job_def(str(request.job_name)), tags=dict(request.tags)
    )
    instance.handle_run_event(
        made.run_id, DagsterEvent(DagsterEventType.RUN_START.value, made.job_name)
    )
    instance.handle_run_event(made.run_id, DagsterEvent(ended.value, made.job_name))
    return made.run_id


@pytest.mark.parametrize(
    ("ended", "again"),
    [
        (DagsterEventType.RUN_FAILURE, True),
        (DagsterEventType.RUN_SUCCESS, False),
        (DagsterEventType.RUN_CANCELED, False),
    ],
)
def test_what_was_killed_is_asked_for_again_and_what_was_done_or_cancelled_is_not(
    dagster_instance: DagsterInstance, energy: Workload, ended: DagsterEventType, again: bool
) -> None:
    batch = batch_of(energy)
    first = batch.run_at(DUE)
    lost = lose(dagster_instance, first, ended)
    later = datetime.now(UTC) + timedelta(hours=2)  # the run ended by this machine's clock
    moment = batch_latest(batch, later)
    look = looked_before(later)
    if moment != DUE:
        lost = lose(dagster_instance, batch.run_at(moment), ended)
    requests = asked(dagster_instance, [batch], look, later)
    assert len(requests) == int(again)
    if again:
        (request,) = requests
        assert request.job_name == BATCH
        assert lost in request.run_key
        assert request.tags["tenantry/day"] == moment.date().isoformat()
        assert (
            request.run_config["ops"]["energy_predict_everyone"]["config"]["day"]
            == moment.date().isoformat()
        )


def batch_latest(batch: Scheduled, now: datetime) -> datetime:
    from dagster._utils.schedules import get_latest_completed_cron_tick

    return get_latest_completed_cron_tick(batch.cron, now, batch.timezone)


def test_a_run_that_never_came_is_asked_for_once_its_schedule_had_time_to(
    dagster_instance: DagsterInstance, energy: Workload
) -> None:
    batch = batch_of(energy)
    assert asked(dagster_instance, [batch], looked_before(), DUE + timedelta(minutes=1)) == []
    (request,) = asked(dagster_instance, [batch], looked_before())
    assert request.tags[DUE_TAG] == DUE.isoformat()
    new = Look.parse(None, NOW)
    assert asked(dagster_instance, [batch], new) == [], (
        "what was due before it was installed is nobody's loss"
    )
    back = Look.parse(looked_before(NOW - timedelta(days=2)).cursor(), NOW)
    assert asked(dagster_instance, [batch], back) == [], (
        "the schedules come first after a pause of the daemon"
    )
    missed = asked(dagster_instance, [batch], back, NOW + timedelta(minutes=6))
    days = [request.tags["tenantry/day"] for request in missed]
    assert days == ["2026-03-10", "2026-03-11", "2026-03-12"], "each has predictions of its own"


def test_a_run_that_waits_or_works_is_left_alone(
    dagster_instance: DagsterInstance, energy: Workload
) -> None:
    batch = batch_of(energy)
    job = defs.resolve_job_def(BATCH)
    tags = dict(batch.run_at(DUE).tags)
    dagster_instance.create_run_for_job(job, tags=tags, status=DagsterRunStatus.STARTED)
    assert asked(dagster_instance, [batch], looked_before()) == []


def test_more_missed_nights_than_are_made_up_are_given_up_at_once(
    dagster_instance: DagsterInstance, energy: Workload
) -> None:
    batch = batch_of(energy)
    look = looked_before()
    look.since, look.settled = NOW - timedelta(days=40), {}
    found = asked(dagster_instance, [batch], look)
    given_up = [one for one in found if isinstance(one, GivenUp)]
    assert [(one.moment.date().isoformat(), one.runs) for one in given_up] == [("2026-02-26", 0)]
    days = [one.tags["tenantry/day"] for one in found if isinstance(one, RunRequest)]
    assert (len(days), days[0], days[-1]) == (14, "2026-02-27", "2026-03-12")


def test_a_run_that_says_itself_why_it_failed_is_not_repeated(
    deployment: Deployment, dagster_instance: DagsterInstance, energy: Workload
) -> None:
    rollback = {"ops": {"energy_roll_back": {"config": {"tenants": ["nobody"]}}}}
    batch = batch_of(energy)
    later = datetime.now(UTC) + timedelta(hours=2)
    tags = {DUE_TAG: batch_latest(batch, later).astimezone(UTC).isoformat()}
    failed = run(dagster_instance, "energy_rollback", rollback, tags)
    assert not failed.success
    asking = Scheduled(
        "s", "g", "energy", defs.resolve_job_def("energy_rollback"), batch.cron, batch.timezone, ""
    )
    assert asked(dagster_instance, [asking], looked_before(later), later) == []


def test_it_is_asked_for_a_few_times_with_growing_pauses_and_then_given_up(
    dagster_instance: DagsterInstance, energy: Workload
) -> None:
    batch = batch_of(energy)
    now = datetime.now(UTC)
    batch_at = now - timedelta(hours=1)
    batch = Scheduled(
        batch.name,
        batch.group,
        "energy",
        batch.job,
        f"{batch_at.minute} {batch_at.hour} * * *",
        "UTC",
        "",
        batch.config,
    )
    look, pauses = looked_before(now), []
    (request,) = asked(dagster_instance, [batch], look, now)
    for _ in range(MAX_RUNS):
        lose(dagster_instance, request)
        ended = datetime.now(UTC)
        for minutes in range(60):
            found = asked(
                dagster_instance, [batch], look, ended + timedelta(minutes=minutes, seconds=1)
            )
            if found:
                break
        pauses.append(minutes)
        request = found[0]
    assert pauses == [1, 2, 4, 8, 0]
    assert isinstance(request, GivenUp)
    assert request.runs == MAX_RUNS
    assert asked(dagster_instance, [batch], look, ended + timedelta(minutes=59)) == []


def test_of_capacities_only_the_latest_counts(
    dagster_instance: DagsterInstance, energy: Workload
) -> None:
    capacities = [
        each for each in scheduled_of(energy, jobs_of(energy)) if "capacity" in each.group
    ]
    assert len(capacities) > 1
    # a Thursday: business hours and night were both due, night last
    evening = NOW.replace(hour=21)
    (request,) = asked(dagster_instance, capacities, looked_before(evening), evening)
    assert request.job_name == "energy_endpoint_capacity"


def test_a_schedule_that_a_person_stopped_is_not_made_up_for(
    dagster_instance: DagsterInstance, energy: Workload
) -> None:
    batch = batch_of(energy)
    location = InProcessCodeLocationOrigin(
        LoadableTargetOrigin(python_file="x.py"), location_name="tenantry"
    )
    origin = RemoteRepositoryOrigin(location, "__repository__").get_instigator_origin(batch.name)

    def state(status: InstigatorStatus, started: datetime | None = None) -> InstigatorState:
        data = ScheduleInstigatorData(batch.cron, started.timestamp() if started else None)
        return InstigatorState(origin, InstigatorType.SCHEDULE, status, data)

    dagster_instance.add_instigator_state(state(InstigatorStatus.STOPPED))
    assert asked(dagster_instance, [batch], looked_before()) == []
    dagster_instance.update_instigator_state(
        state(InstigatorStatus.RUNNING, NOW - timedelta(hours=1))
    )
    assert asked(dagster_instance, [batch], looked_before()) == [], (
        "it was due before it was started again"
    )
    dagster_instance.update_instigator_state(
        state(InstigatorStatus.RUNNING, NOW - timedelta(days=1))
    )
    assert len(asked(dagster_instance, [batch], looked_before())) == 1


def test_the_schedule_asks_for_its_day_unless_that_was_asked_for_already(
    dagster_instance: DagsterInstance,
) -> None:
    schedule = defs.resolve_schedule_def("energy_nightly_batch_schedule")
    with build_schedule_context(instance=dagster_instance, scheduled_execution_time=DUE) as context:
        (request,) = schedule.evaluate_tick(context).run_requests or ()
        assert (request.tags["tenantry/day"], request.tags[DUE_TAG]) == (
            "2026-03-12",
            DUE.isoformat(),
        )
        lose(dagster_instance, RunRequest(job_name=BATCH, tags=request.tags))
        assert not schedule.evaluate_tick(context).run_requests


def test_the_sensor_asks_for_a_lost_batch_and_tells_operators_when_it_gives_up(
    deployment: Deployment, dagster_instance: DagsterInstance, energy: Workload
) -> None:
    told = deployment.sqs.create_queue(QueueName="operators-of-a-test")["QueueUrl"]
    arn = deployment.sqs.get_queue_attributes(QueueUrl=told, AttributeNames=["QueueArn"])[
        "Attributes"
    ]["QueueArn"]
    deployment.sns.subscribe(TopicArn=deployment.operators_topic, Protocol="sqs", Endpoint=arn)
    now = datetime.now(UTC)
    at = now - timedelta(hours=1)
    batch = energy.batches[0].model_copy(
        update={"cron": f"{at.minute} {at.hour} * * *", "timezone": "UTC"}
    )
    serving = energy.serving.model_copy(update={"capacity": None})
    workload = energy.model_copy(
        update={"batches": (batch,), "retraining": None, "serving": serving}
    )
    hourly = Workloads({"energy": workload}, {})
    jobs = {"energy": jobs_of(hourly["energy"])}
    (sensor,) = [
        s for s in sensors_of(hourly, jobs, timedelta(seconds=1)) if s.name == "lost_scheduled_runs"
    ]

    def tick(cursor: str) -> tuple[list[RunRequest], str]:
        with build_sensor_context(
            instance=dagster_instance, cursor=cursor, resources={"tenantry": TENANTRY}
        ) as context:
            done = sensor.evaluate_tick(context)
            asked = [each for each in done.run_requests or () if each.job_name == BATCH]
            return asked, str(done.cursor)

    look = looked_before(now)
    look.settled = {"energy nightly batch": now - timedelta(hours=12)}
    (request,), cursor = tick(look.cursor())
    assert run(dagster_instance, BATCH, dict(request.run_config), dict(request.tags)).success
    assert tick(cursor)[0] == []
    dagster_instance.delete_run(dagster_instance.get_runs()[0].run_id)

    for _ in range(MAX_RUNS):
        lose(dagster_instance, request)
    requests, cursor = tick(look.cursor())
    assert requests == []
    messages = deployment.sqs.receive_message(QueueUrl=told, WaitTimeSeconds=2)["Messages"]
    assert "was lost 5 times" in json.loads(messages[0]["Body"])["Message"]
    assert tick(cursor)[0] == []
    assert not deployment.sqs.receive_message(QueueUrl=told).get("Messages")
