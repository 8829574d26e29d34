"""Rollback with a real endpoint: to a version that answers, further back, and never automatically
to a rejected one."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from tenantry.aws import objects
from tenantry.aws.deployment import Deployment
from tenantry.hosting import endpoints
from tenantry.hosting.endpoints import Endpoint
from tenantry.hosting.invocation import invoke
from tenantry.hosting.shapes.multi_model import MULTI_MODEL
from tenantry.models.registry import Champion, ChampionChangedError, ModelRegistry, ModelVersion
from tenantry.names import ids, s3_keys
from tenantry.names.tiers import Shared
from tenantry.onboarding.registration import ArtifactUnusableError, register, roll_back
from tenantry.workloads.schema import Workload
from tests.conftest import TrainedForecast
from tests.tenantry.onboarding.registration import NAME, route_to, trained_version

Serving = tuple[Deployment, Workload, Endpoint]
Champions = Callable[[int], list[ModelVersion]]
SCORES = {"mase": 0.8, "baseline_mase": 1.0}


@pytest.fixture
def tenant() -> ids.TenantId:
    return ids.tenant_id(f"t-{uuid.uuid4().hex[:8]}")


@pytest.fixture
def champions(
    serving: Serving, trained_forecasts: list[TrainedForecast], tenant: ids.TenantId
) -> Champions:
    """Creates this many versions that became champion one after another."""
    deployment, energy, endpoint = serving

    def make(count: int) -> list[ModelVersion]:
        archive = trained_forecasts[0].archive
        made = [
            trained_version(deployment, tenant, number, archive, SCORES)
            for number in range(1, count + 1)
        ]
        for model in made:
            assert register(deployment, energy, model, route_to(endpoint.name, model)).crowned
        return made

    return make


def story(deployment: Deployment, tenant: ids.TenantId) -> list[tuple[str, str]]:
    return [
        (version.status, version.note)
        for version in ModelRegistry(deployment).versions(tenant, NAME)
    ]


def notices(deployment: Deployment, tenant: ids.TenantId) -> list[tuple[str, str]]:
    """The kinds and versions in the notices to a tenant's owner."""
    found = []
    while messages := deployment.sqs.receive_message(
        QueueUrl=deployment.notices_queue_url, MaxNumberOfMessages=10, VisibilityTimeout=60
    ).get("Messages"):
        bodies = [json.loads(message["Body"]) for message in messages]
        found += [(body["kind"], body["version"]) for body in bodies if body["tenant"] == tenant]
    return found


def test_rolling_back_returns_to_the_previous_champion_which_still_answers_and_tells_why(
    serving: Serving, champions: Champions, tenant: ids.TenantId
) -> None:
    deployment, energy, _ = serving
    first, second = champions(2)
    champion = roll_back(deployment, energy, tenant, why="nights are too high", by="operator ann")

    assert champion == ModelRegistry(deployment).champion(tenant, NAME)
    assert (champion.version, champion.previous, champion.turn) == (first.version, None, 3)
    assert champion.rolled_back_from == second.version
    assert story(deployment, tenant) == [
        ("champion", f"rolled back to from {second.version} by operator ann: nights are too high"),
        ("rolled_back", f"rolled back to {first.version} by operator ann: nights are too high"),
    ]
    answer = invoke(deployment, champion.route, {"period": 1, "start": "data_end"})
    assert len(json.loads(answer.content)["mean"]) == 24
    assert notices(deployment, tenant) == [("model_rolled_back", first.version)]


def test_there_is_nothing_to_return_to_without_a_predecessor(
    serving: Serving, champions: Champions, tenant: ids.TenantId
) -> None:
    deployment, energy, _ = serving
    with pytest.raises(LookupError, match="has no energy model yet"):
        roll_back(deployment, energy, tenant)
    (only,) = champions(1)
    with pytest.raises(LookupError, match=f"no energy model before {only.version}"):
        roll_back(deployment, energy, tenant)
    with pytest.raises(LookupError, match="20990101t000000-aaaaaaaa"):
        roll_back(deployment, energy, tenant, to=ids.version_name("20990101t000000-aaaaaaaa"))
    assert notices(deployment, tenant) == []


def test_rolling_back_again_goes_further_back_and_never_forward_to_what_was_turned_away(
    serving: Serving, champions: Champions, tenant: ids.TenantId
) -> None:
    deployment, energy, _ = serving
    first, second, third = champions(3)
    assert roll_back(deployment, energy, tenant).version == second.version
    assert roll_back(deployment, energy, tenant).version == first.version
    with pytest.raises(LookupError, match=f"`to` can name: {second.version}, {third.version}"):
        roll_back(deployment, energy, tenant)

    named = roll_back(deployment, energy, tenant, to=third.version)
    assert (named.version, named.previous, named.rolled_back_from) == (
        third.version,
        None,
        first.version,
    )
    assert roll_back(deployment, energy, tenant, to=third.version) == named, (
        "it is the champion already"
    )


def test_a_version_that_was_turned_away_does_not_win_again_by_itself_but_a_newer_one_does(
    serving: Serving,
    champions: Champions,
    trained_forecasts: list[TrainedForecast],
    tenant: ids.TenantId,
) -> None:
    deployment, energy, endpoint = serving
    first, second = champions(2)
    champion = roll_back(deployment, energy, tenant)
    for known in (
        second,
        replace(second, status="champion"),
    ):  # as a run from before the rollback holds it
        done = register(deployment, energy, known, route_to(endpoint.name, known))
        assert not done.crowned
        assert done.decision == f"it was rolled back from; {first.version} is the champion"
    assert ModelRegistry(deployment).champion(tenant, NAME) == champion
    assert story(deployment, tenant)[1][0] == "rolled_back"

    newer = trained_version(deployment, tenant, 3, trained_forecasts[1].archive, SCORES)
    assert register(deployment, energy, newer, route_to(endpoint.name, newer)).crowned
    assert not register(deployment, energy, second, route_to(endpoint.name, second)).crowned, (
        "nor after another has followed"
    )
    assert roll_back(deployment, energy, tenant).version == first.version


def test_rolling_back_after_a_change_of_tier_goes_back_to_the_old_tiers_endpoint(
    serving: Serving,
    champions: Champions,
    trained_forecasts: list[TrainedForecast],
    tenant: ids.TenantId,
) -> None:
    deployment, energy, endpoint = serving
    champions(1)
    pool = endpoints.ensure_endpoint(deployment, energy, Shared("pool"), MULTI_MODEL)
    second = trained_version(
        deployment, tenant, 2, trained_forecasts[1].archive, SCORES, tier="pool"
    )
    register(deployment, energy, second, route_to(pool.name, second))

    champion = roll_back(deployment, energy, tenant)
    assert (champion.tier, champion.endpoint) == ("bridge", endpoint.name)
    invoke(deployment, champion.route, {"period": 1, "start": "data_end"})
    deployment.sagemaker.delete_endpoint(EndpointName=pool.name)
    back = roll_back(deployment, energy, tenant, to=second.version)
    assert (back.tier, back.endpoint) == ("pool", pool.name), "the endpoint is made again"
    invoke(deployment, back.route, {"period": 1, "start": "data_end"})


def test_a_version_whose_endpoint_lost_its_archive_is_rolled_back_to_all_the_same(
    serving: Serving, champions: Champions, tenant: ids.TenantId
) -> None:
    deployment, energy, endpoint = serving
    first, second = champions(2)
    placed = s3_keys.endpoint_model(endpoint.name, tenant, first.version)
    deployment.s3.delete_object(Bucket=deployment.data_bucket, Key=placed)
    assert roll_back(deployment, energy, tenant).version == first.version
    assert objects.size(deployment.s3, deployment.data_bucket, placed) == first.size
    assert objects.exists(deployment.s3, deployment.data_bucket, second.archive)


@pytest.mark.parametrize(
    ("archive", "error"),
    [(None, objects.ObjectMissingError), (b"no archive", ArtifactUnusableError)],
    ids=["deleted", "spoiled"],
)
def test_a_predecessor_that_cannot_serve_does_not_replace_a_champion_that_does(
    serving: Serving,
    trained_forecasts: list[TrainedForecast],
    tenant: ids.TenantId,
    archive: bytes | None,
    error: type[Exception],
) -> None:
    deployment, energy, endpoint = serving
    registry = ModelRegistry(deployment)
    first = trained_version(deployment, tenant, 1, trained_forecasts[0].archive, SCORES)
    before = registry.crown(first, route_to(endpoint.name, first), None)
    if archive is None:
        deployment.s3.delete_object(Bucket=deployment.data_bucket, Key=first.archive)
    else:
        objects.write_bytes(deployment.s3, deployment.data_bucket, first.archive, archive)
    second = trained_version(deployment, tenant, 2, trained_forecasts[0].archive, SCORES)
    champion = registry.crown(second, route_to(endpoint.name, second), before)
    with pytest.raises(error):
        roll_back(deployment, energy, tenant)
    assert registry.champion(tenant, NAME) == champion
    assert notices(deployment, tenant) == []


def test_of_many_who_roll_back_at_once_none_goes_further_than_one_step(
    serving: Serving, champions: Champions, tenant: ids.TenantId
) -> None:
    deployment, energy, _ = serving
    _, second, third = champions(3)
    with ThreadPoolExecutor(6) as pool:
        done = list(
            pool.map(lambda _: roll_back(deployment, energy, tenant, to=second.version), range(6))
        )
    assert {champion.version for champion in done} == {second.version}
    champion = ModelRegistry(deployment).champion(tenant, NAME)
    assert champion is not None
    assert (champion.version, champion.rolled_back_from, champion.turn) == (
        second.version,
        third.version,
        4,
    )
    assert notices(deployment, tenant) == [("model_rolled_back", second.version)]


def test_a_version_that_became_champion_meanwhile_is_not_rolled_back_unseen(
    serving: Serving,
    champions: Champions,
    trained_forecasts: list[TrainedForecast],
    tenant: ids.TenantId,
) -> None:
    deployment, energy, endpoint = serving
    champions(2)
    newer = trained_version(deployment, tenant, 3, trained_forecasts[0].archive, SCORES)
    registry = ModelRegistry(deployment)
    fresh: list[Champion] = []

    def crown_a_newer_one(**_: object) -> None:
        """Register another version while the rollback asks its predecessor."""
        if not fresh:
            fresh.append(
                registry.crown(
                    newer, route_to(endpoint.name, newer), registry.champion(tenant, NAME)
                )
            )

    events = deployment.runtime.meta.events
    events.register("before-send.sagemaker-runtime.InvokeEndpoint", crown_a_newer_one)
    try:
        with pytest.raises(
            ChampionChangedError, match=f"and {newer.version} became champion meanwhile"
        ):
            roll_back(deployment, energy, tenant)
    finally:
        events.unregister("before-send.sagemaker-runtime.InvokeEndpoint", crown_a_newer_one)
    assert registry.champion(tenant, NAME) == fresh[0]
