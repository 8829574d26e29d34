"""What the YAML says about capacity becomes what endpoints have, on a SageMaker whose minutes are
seconds."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, Self

import pytest

from tenantry.capacity.demand import Hour, demand_of, write_day
from tenantry.capacity.registration import (
    Capacity,
    Override,
    activities,
    deregister,
    register_capacity,
    registered,
)
from tenantry.capacity.scaled_endpoints import Kind, ScaledEndpoint, scaled_endpoint
from tenantry.capacity.timetable import Bounds
from tenantry.hosting.endpoints import EndpointFailedError, describe_endpoint
from tenantry.names import s3_keys
from tenantry.names.tiers import Shared
from tenantry.serving.metrics import MISSES, NAMESPACE
from tenantry.shown.capacity_view import capacity_in_words, capacity_metadata
from tenantry.workloads.capacity import EndpointCapacity
from tests.tenantry.serving.tiny_family import MEANS, World

PICTURE = b"\x89PNG"


def scaled(world: World, kind: Kind = "real_time", **section: Any) -> ScaledEndpoint:
    """The endpoint of a kind with this section."""
    found = scaled_endpoint(world.deployment.prefix, world.tiny, Shared("bridge"), kind)
    given = EndpointCapacity.model_validate({"minimum": 1, "maximum": 3, **section})
    return ScaledEndpoint(
        found.name, kind, given, found.usd_per_hour, found.workload, found.environment
    )


@pytest.fixture(autouse=True)
def afresh(paced: World) -> None:
    """Nothing is registered before a test, and both endpoints have one instance."""
    for kind in ("real_time", "asynchronous"):
        of = scaled(paced, kind, minimum=1, maximum=1)
        deregister(paced.deployment, of.name)
        register_capacity(paced.deployment, of)
        deregister(paced.deployment, of.name)


def instances(world: World, of: ScaledEndpoint) -> int:
    described = describe_endpoint(world.deployment, of.name)
    assert described is not None
    return described["ProductionVariants"][0]["CurrentInstanceCount"]


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_bounds_hold_at_once_and_what_differs_is_mended_and_told(paced: World) -> None:
    of = scaled(
        paced,
        minimum=2,
        policies=[{"kind": "target_tracking", "metric": "cpu", "target": 60}],
        timetable=[{"name": "always", "cron": "0 0 * * *", "minimum": 2}],
    )
    done = register_capacity(paced.deployment, of)
    assert (done.endpoint.instances, done.bounds, done.differed) == (2, Bounds(2, 3), ())
    assert register_capacity(paced.deployment, of).differed == ()
    client: Any = paced.deployment.auto_scaling
    scope = {
        "ServiceNamespace": "sagemaker",
        "ResourceId": of.resource,
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }
    client.register_scalable_target(**scope, MinCapacity=1, MaxCapacity=9)
    client.delete_scheduled_action(**scope, ScheduledActionName="tenantry-always")
    client.put_scheduled_action(
        **scope,
        ScheduledActionName="somebody-elses",
        Schedule="rate(1 day)",
        ScalableTargetAction={"MaxCapacity": 9},
    )
    again = register_capacity(paced.deployment, of)
    assert again.differed == (
        "minimum was 1; it is 2",
        "maximum was 9; it is 3",
        "scheduled action tenantry-always was missing",
    )
    other = scaled(paced, minimum=2)
    assert register_capacity(paced.deployment, other).differed == (
        "scheduled action tenantry-always was there without the YAML",
        "policy tenantry-target_tracking-cpu was there without the YAML",
    )
    assert set(registered(paced.deployment, other).actions) == {"somebody-elses"}


def test_an_operators_number_ends_by_itself_and_before_if_told_so(paced: World) -> None:
    of = scaled(paced, timetable=[{"name": "always", "cron": "0 0 * * *", "minimum": 1}])
    register_capacity(paced.deployment, of)

    def override(seconds: float) -> Capacity:
        wanted = Override(2, datetime.now(UTC) + timedelta(seconds=seconds))
        return register_capacity(paced.deployment, of, override=wanted)

    assert override(4).endpoint.instances == 2
    held = register_capacity(paced.deployment, of)
    assert held.bounds == Bounds(2, 2)
    assert held.override is not None
    assert held.override.instances == 2
    assert "an operator's number, until" in "\n".join(capacity_in_words(paced.deployment, of, held))
    until(lambda: registered(paced.deployment, of).bounds == Bounds(1, 3))
    assert register_capacity(paced.deployment, of).override is None
    assert override(3600).bounds == Bounds(2, 2)
    assert register_capacity(paced.deployment, of).differed == ()
    ended = register_capacity(paced.deployment, of, end_override=True)
    assert (ended.bounds, ended.override, ended.differed) == (Bounds(1, 3), None, ())
    assert register_capacity(paced.deployment, of).differed == ()


def test_a_queue_starts_the_first_instance_and_the_last_one_leaves(paced: World) -> None:
    of = scaled(
        paced,
        "asynchronous",
        minimum=0,
        maximum=2,
        policies=[
            {"kind": "scale_from_zero"},
            {"kind": "backlog", "target": 4, "in_cooldown_seconds": 60},
        ],
    )
    register_capacity(paced.deployment, of)
    until(lambda: instances(paced, of) == 0)
    tenants = [paced.tenant() for _ in range(3)]
    asked = []
    for tenant in tenants:
        with paced.client(tenant) as client:
            asked += [(tenant, add, client.submit({"add": add})) for add in range(4)]
    for tenant, add, submitted in asked:
        with paced.client(tenant) as client:
            answer = json.loads(client.wait(submitted, 60).content)
            assert answer["mean"] == MEANS[tenant] + add
    why = [str(one["Cause"]) for one in activities(paced.deployment, of, 50)]
    assert any("triggered policy tenantry-scale_from_zero" in cause for cause in why)
    until(lambda: instances(paced, of) == 0)
    deregister(paced.deployment, of.name)
    assert registered(paced.deployment, of).alarms == {}


def test_what_people_see_of_capacity(paced: World) -> None:
    of = scaled(paced, minimum=2, monthly_budget_usd=2.2 * 730 * paced.tiny.serving.usd_per_hour)
    done = register_capacity(paced.deployment, of)
    shown = capacity_metadata(paced.deployment, of, done)
    assert (shown["minimum"], shown["maximum"], shown["instances"]) == (2, 2, 2)
    assert shown["maximum_is_capped"] == "by the budget; the YAML allows 3"
    assert shown["usd_per_hour"] == pytest.approx(2 * paced.tiny.serving.usd_per_hour)
    assert shown["capacity and demand"].startswith(PICTURE)
    rows = shown["scaling activities"].rows
    assert rows[0]["why"] == "minimum capacity was set to 2"


def test_instances_that_cannot_be_had_are_told_with_the_reason(paced: World) -> None:
    of = scaled(paced, minimum=600, maximum=600)
    with pytest.raises(EndpointFailedError, match=r"service limit|quota"):
        register_capacity(paced.deployment, of)
    missing = ScaledEndpoint("tenantry-energy-none", "real_time", of.section, 1.0, of.workload, "x")
    with pytest.raises(EndpointFailedError, match="is not there"):
        register_capacity(paced.deployment, missing)


PEAK = 3 * 3600
"""Requests of the busy hour, for which three instances of one request a second are too few."""


def with_history(world: World, of: ScaledEndpoint, expected: float | None) -> None:
    """Five days with an hour of many requests: the present one, on each day."""
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    days: dict[date, dict[datetime, Hour]] = {}
    for ago in range(1, 5 * 24 + 1):
        hour = now - timedelta(hours=ago)
        days.setdefault(hour.date(), {})[hour] = Hour(PEAK if ago % 24 == 0 else 60, expected)
    for day, hours in days.items():
        write_day(world.deployment, of, day, hours)


FORECAST = {"kind": "predictive", "seconds_per_answer": 1.0, "start_seconds": 600}


def test_the_minimum_is_ahead_of_the_demand_that_is_forecast(paced: World) -> None:
    of = scaled(paced, policies=[FORECAST])
    with_history(paced, of, expected=None)
    done = register_capacity(paced.deployment, of)
    assert (done.bounds, done.endpoint.instances) == (Bounds(3, 3), 3)
    assert "followed: 1 to 3 instances" in "\n".join(capacity_in_words(paced.deployment, of, done))
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    actions = {
        action["Schedule"]: action["ScalableTargetAction"]["MinCapacity"]
        for action in registered(paced.deployment, of).actions.values()
    }
    tomorrow = now + timedelta(days=1)
    assert actions[f"at({now + timedelta(hours=1, minutes=1):%Y-%m-%dT%H:%M:%S})"] == 1
    assert actions[f"at({tomorrow - timedelta(minutes=10):%Y-%m-%dT%H:%M:%S})"] == 3
    assert register_capacity(paced.deployment, of).differed == ()
    kept = demand_of(paced.deployment, of, datetime.now(UTC), 5)
    assert len(kept) >= 5 * 24


def test_a_forecast_that_missed_all_day_is_not_followed_and_says_so(paced: World) -> None:
    of = scaled(paced, policies=[FORECAST])
    with_history(paced, of, expected=10.0)
    done = register_capacity(paced.deployment, of)
    assert done.bounds == Bounds(1, 3)
    shown = capacity_metadata(paced.deployment, of, done)
    assert shown["forecast"].startswith("not followed: demand was above the forecast's quantile in")
    assert not [name for name in registered(paced.deployment, of).actions if "forecast" in name]


def test_without_three_days_of_requests_there_is_no_forecast(paced: World) -> None:
    of = scaled(paced, policies=[FORECAST])
    for day in range(8):
        key = s3_keys.demand_file(
            of.workload, of.name, (datetime.now(UTC) - timedelta(days=day)).date()
        )
        paced.deployment.s3.delete_object(Bucket=paced.deployment.data_bucket, Key=key)
    done = register_capacity(paced.deployment, of)
    assert done.bounds == Bounds(1, 3)
    assert done.ahead.doubt is not None
    assert "three are needed" in done.ahead.doubt


@dataclass
class Load:
    """Requests at a rate, whether earlier ones are answered or not."""

    world: World
    per_second: float
    failures: list[Exception] = field(default_factory=list)
    sent: int = 0
    _ended: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        tenant = self.world.tenant()
        self._client = self.world.client(tenant).__enter__()
        self._pool = ThreadPoolExecutor(32)
        self._sender = threading.Thread(target=self._send)
        self._sender.start()
        return self

    def _send(self) -> None:
        due = time.monotonic()
        while not self._ended.is_set():
            self.sent += 1
            self._pool.submit(self._ask, self.sent)
            due += 1 / self.per_second
            time.sleep(max(0.0, due - time.monotonic()))

    def _ask(self, number: int) -> None:
        try:
            self._client.predict({"add": number})
        except Exception as error:  # noqa: BLE001 - the test counts them
            self.failures.append(error)
        # As the client counts it, which sends whole minutes of this machine's clock.
        self.world.deployment.cloudwatch.put_metric_data(
            Namespace=NAMESPACE,
            MetricData=[
                {
                    "MetricName": MISSES,
                    "Value": 1.0,
                    "Dimensions": [
                        {"Name": "Workload", "Value": "energy"},
                        {"Name": "Environment", "Value": "tenantry"},
                    ],
                }
            ],
        )

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._sender.join()
        self._pool.shutdown()
        self._client.__exit__(None, None, None)


FOLLOWING = [
    {"kind": "target_tracking", "metric": "invocations_per_instance", "target": 4},
    {"kind": "usage_rate", "seconds_per_answer": 10, "units_per_instance": 1, "target": 0.75},
]


@pytest.mark.parametrize("policy", FOLLOWING, ids=lambda policy: str(policy["kind"]))
def test_instances_follow_the_load_and_no_request_is_lost(
    paced: World, policy: dict[str, Any]
) -> None:
    """Ten requests in each minute of the metrics: three instances by either policy, as four
    requests an instance are wanted, or three quarters of six."""
    of = scaled(paced, maximum=3, policies=[policy | {"in_cooldown_seconds": 60}])
    register_capacity(paced.deployment, of)
    with Load(paced, 10.0) as load:
        until(lambda: instances(paced, of) == 3)
        load.per_second = 2.0
        until(lambda: instances(paced, of) == 1)
    assert load.failures == []
    assert load.sent > 30
    name = f"tenantry-{policy['kind']}"
    causes = [str(one["Cause"]) for one in activities(paced.deployment, of, 50)]
    assert sum(f"triggered policy {name}" in cause for cause in causes) >= 2


@pytest.mark.slow
def test_the_timetable_changes_the_instances_at_its_minute(paced: World) -> None:
    """The bounds at once are tested above; this waits for a cron expression's next minute."""
    due = datetime.now(UTC) + timedelta(minutes=1, seconds=5)
    before = due - timedelta(minutes=5)
    of = scaled(
        paced,
        timetable=[
            {"name": "before", "cron": f"{before.minute} {before.hour} * * *", "minimum": 1},
            {"name": "soon", "cron": f"{due.minute} {due.hour} * * *", "minimum": 2},
        ],
    )
    assert register_capacity(paced.deployment, of).endpoint.instances == 1
    until(lambda: instances(paced, of) == 2, seconds=90)
    assert datetime.now(UTC) >= due.replace(second=0, microsecond=0)
    assert register_capacity(paced.deployment, of).differed == ()
