"""Models that were asked at this time of earlier days are loaded before they are asked today."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from pydantic import ValidationError

from tenantry.aws import objects
from tenantry.aws.deployment import Deployment
from tenantry.capacity.asked import AskedHours, asked_hours
from tenantry.capacity.prewarming import most_wanted, prewarm
from tenantry.models.registry import ModelRegistry
from tenantry.names import ids, s3_keys, sagemaker_names
from tenantry.names.tiers import Shared
from tenantry.workloads.capacity import Prewarming
from tests.tenantry.onboarding.registration import NAME
from tests.tenantry.serving.tiny_family import World

MORNING = datetime(2026, 3, 11, 6, 45, tzinfo=UTC)  # a Wednesday
SECTION = Prewarming(cron="45 6 * * *", timezone="Europe/London", days=8)
DAY, WEEK = timedelta(days=1), timedelta(days=7)
_TESTS = count()
EARLY, LATE = timedelta(minutes=30), timedelta(hours=8)


@pytest.fixture
def world(paced: World) -> World:
    """Its models are asked for a number."""
    serving = paced.tiny.serving.model_copy(update={"smoke_request": {"number": 1}})
    tiny = paced.tiny.model_copy(update={"serving": serving})
    endpoint = sagemaker_names.endpoint_name(paced.deployment.prefix, NAME, Shared("bridge"))
    return World(paced.deployment, tiny, endpoint, paced.folder)


@pytest.fixture
def morning() -> datetime:
    """A Wednesday's morning that no other test looks back from."""
    return MORNING + next(_TESTS) * timedelta(weeks=4)


def test_the_models_of_the_morning_are_loaded_before_they_are_asked(
    world: World, morning: datetime
) -> None:
    daily, weekly, evening, never = (world.tenant() for _ in range(4))
    archive(world.deployment, daily, *(morning - ago * DAY + EARLY for ago in (1, 2, 3)))
    archive(world.deployment, weekly, morning - WEEK + EARLY, morning - DAY + LATE)
    archive(world.deployment, evening, *(morning - ago * DAY + LATE for ago in (1, 2, 3)))
    done = prewarm(world.deployment, world.tiny, SECTION, morning)
    assert (done.asked, done.chosen, done.loaded, done.failed) == (2, 2, 2, {})

    loads = model_loads(world)
    for tenant in (daily, weekly):
        ask(world, tenant)
    assert model_loads(world) == loads, "both were loaded before"
    for tenant in (evening, never):
        ask(world, tenant)
    assert model_loads(world) == loads + 2


def test_a_day_is_counted_once(world: World, morning: datetime) -> None:
    tenant = world.tenant()
    archive(world.deployment, tenant, morning - DAY + EARLY)
    first = asked_hours(world.deployment, NAME, [tenant], morning, 2)
    assert first == {tenant: {(morning - DAY).replace(hour=7, minute=0): 1}}
    listed = world.deployment.aws_calls["s3:ListObjectsV2"]
    assert asked_hours(world.deployment, NAME, [tenant], morning, 2) == first
    assert world.deployment.aws_calls["s3:ListObjectsV2"] == listed


def test_an_hour_with_thousands_of_requests_hides_no_later_one(
    world: World, morning: datetime
) -> None:
    tenant, busy = world.tenant(), morning - DAY
    many = [busy.replace(minute=0) + timedelta(seconds=3 * place) for place in range(1002)]
    archive(world.deployment, tenant, *many, busy + LATE)
    (hours,) = asked_hours(world.deployment, NAME, [tenant], morning, 1).values()
    assert hours == {busy.replace(minute=0): 1000, (busy + LATE).replace(minute=0): 1}


def test_a_model_that_cannot_answer_holds_up_no_other(world: World, morning: datetime) -> None:
    broken, sound = world.tenant(), world.tenant()
    for tenant in (broken, sound):
        archive(world.deployment, tenant, morning - DAY + EARLY)
    champion = ModelRegistry(world.deployment).champion(broken, NAME)
    assert champion is not None
    key = s3_keys.endpoint_model(champion.route.endpoint, broken, champion.version)
    world.deployment.s3.delete_object(Bucket=world.deployment.data_bucket, Key=key)
    done = prewarm(world.deployment, world.tiny, SECTION, morning)
    assert (done.chosen, done.loaded, list(done.failed)) == (2, 1, [broken])
    assert "1 failed" in str(done)


def test_an_endpoint_that_is_gone_is_not_asked_for_every_model(
    world: World, morning: datetime
) -> None:
    silos = [world.tenant(tier="silo") for _ in range(12)]  # whose endpoints nobody made
    for tenant in silos:
        archive(world.deployment, tenant, morning - DAY + EARLY)
    done = prewarm(world.deployment, world.tiny, SECTION, morning)
    assert done.loaded == 0
    assert (len(done.failed), done.untried) == (8, 4), "four are asked at a time"
    assert "were not tried" in str(done)


def test_what_is_asked_on_most_days_comes_first() -> None:
    def asked(*ago: int, requests: int = 1) -> dict[datetime, int]:
        return {MORNING.replace(minute=0) + timedelta(hours=1) - day * DAY: requests for day in ago}

    hours: AskedHours = {
        ids.tenant_id("twice"): asked(1, 2),
        ids.tenant_id("thrice"): asked(1, 2, 3),
        ids.tenant_id("same-weekday"): asked(7, requests=2),
        ids.tenant_id("once"): asked(1, requests=100),
        ids.tenant_id("long-ago"): asked(9),
    }
    assert most_wanted(hours, SECTION, MORNING) == ["thrice", "same-weekday", "twice", "once"]


def test_the_hours_are_those_of_the_zones_clocks() -> None:
    """On 29 March 2026 London's clocks go forward, so that eight o'clock is an hour earlier."""
    monday = datetime(2026, 3, 30, 5, 45, tzinfo=UTC)  # 6:45 in London
    hours: AskedHours = {
        ids.tenant_id("at-eight"): {datetime(2026, 3, 27, 8, tzinfo=UTC): 1},
        ids.tenant_id("at-ten"): {datetime(2026, 3, 27, 10, tzinfo=UTC): 1},
        ids.tenant_id("at-five"): {datetime(2026, 3, 27, 5, tzinfo=UTC): 1},
    }
    assert most_wanted(hours, SECTION, monday) == ["at-eight"]


@pytest.mark.parametrize(
    ("changed", "field"),
    [({"hours": 0}, "hours"), ({"most": 0}, "most"), ({"cron": "99 99 * * *"}, "cron")],
)
def test_a_section_that_could_never_act_is_refused(changed: dict[str, object], field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        Prewarming.model_validate({"cron": "45 6 * * *", **changed})


def archive(deployment: Deployment, tenant: ids.TenantId, *moments: datetime) -> None:
    """Archive a request at each moment, under the keys that the client gives them."""

    def put(numbered: tuple[int, datetime]) -> None:
        number, at = numbered
        key = s3_keys.archived_request(NAME, tenant, at, f"{at:%H%M%S}-{number:012x}")
        objects.write_json(deployment.s3, deployment.data_bucket, key, {})

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(put, enumerate(moments)))


def ask(world: World, tenant: ids.TenantId) -> None:
    with world.client(tenant) as client:
        client.predict({"number": 2})


def model_loads(world: World) -> float:
    """How many models the shared endpoint has loaded so far."""
    now = datetime.now(UTC)
    found = world.deployment.cloudwatch.get_metric_statistics(
        Namespace="AWS/SageMaker",
        MetricName="ModelLoadingTime",
        Dimensions=[
            {"Name": "EndpointName", "Value": world.endpoint},
            {"Name": "VariantName", "Value": "AllTraffic"},
        ],
        StartTime=now - timedelta(hours=1),
        EndTime=now + timedelta(minutes=1),
        Period=60,
        Statistics=["SampleCount"],
    )
    return sum(point["SampleCount"] for point in found["Datapoints"])
