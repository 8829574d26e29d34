"""Registration with a real endpoint: versions are placed, asked, compared and crowned."""

from __future__ import annotations

import gzip
import json
import uuid
from dataclasses import replace

import pytest

from tenantry.aws import objects
from tenantry.aws.deployment import Deployment
from tenantry.hosting import endpoints
from tenantry.hosting.endpoints import Endpoint
from tenantry.models.registry import ModelRegistry, ModelStatus
from tenantry.names import ids, s3_keys
from tenantry.onboarding.registration import ArtifactUnusableError, NotGoodEnoughError, register
from tenantry.shown.comparison import comparison
from tenantry.workloads.schema import Workload
from tests.conftest import TrainedForecast
from tests.tenantry.onboarding.registration import NAME, route_to, trained_version

Serving = tuple[Deployment, Workload, Endpoint]
GOOD, BETTER, A_LITTLE_WORSE, WORSE = (
    {"mase": share, "baseline_mase": 1.0} for share in (0.80, 0.70, 0.83, 0.95)
)  # tolerance is 15 %


@pytest.fixture
def tenant() -> ids.TenantId:
    return ids.tenant_id(f"t-{uuid.uuid4().hex[:8]}")


def statuses(deployment: Deployment, tenant: ids.TenantId) -> list[ModelStatus]:
    return [version.status for version in ModelRegistry(deployment).versions(tenant, NAME)]


def test_a_tenants_first_model_is_placed_asked_and_crowned(
    serving: Serving, trained_forecasts: list[TrainedForecast], tenant: ids.TenantId
) -> None:
    deployment, energy, endpoint = serving
    model = trained_version(deployment, tenant, 1, trained_forecasts[0].archive, GOOD)
    done = register(deployment, energy, model, route_to(endpoint.name, model))
    assert done.crowned
    assert (done.decision, done.skill, done.champion_skill) == (
        "the tenant's first model",
        0.8,
        None,
    )
    assert done.answer is not None
    assert len(json.loads(done.answer.content)["mean"]) == 24
    assert done.champion == ModelRegistry(deployment).champion(tenant, NAME)
    placed = s3_keys.endpoint_model(endpoint.name, tenant, model.version)
    assert objects.size(deployment.s3, deployment.data_bucket, placed) == model.size

    again = register(deployment, energy, model, route_to(endpoint.name, model))
    assert again.champion == done.champion
    assert again.crowned
    assert statuses(deployment, tenant) == ["champion"]


@pytest.mark.parametrize(
    ("challenger", "crowned", "said"),
    [
        (BETTER, True, "better"),
        (A_LITTLE_WORSE, True, "a little worse"),
        (WORSE, False, "worse"),
        ({}, True, "nothing"),
    ],
    ids=["better", "a little worse but newer", "worse", "not comparable"],
)
def test_a_challenger_takes_over_unless_it_is_worse(
    serving: Serving,
    trained_forecasts: list[TrainedForecast],
    tenant: ids.TenantId,
    challenger: dict[str, float],
    crowned: bool,
    said: str,
) -> None:
    deployment, energy, endpoint = serving
    first = trained_version(deployment, tenant, 1, trained_forecasts[0].archive, GOOD)
    second = trained_version(deployment, tenant, 2, trained_forecasts[1].archive, challenger)
    register(deployment, energy, first, route_to(endpoint.name, first))
    done = register(deployment, energy, second, route_to(endpoint.name, second))
    assert done.crowned == crowned
    champion = ModelRegistry(deployment).champion(tenant, NAME)
    assert champion is not None
    assert champion.version == (second if crowned else first).version
    assert champion.previous == (first.version if crowned else None)
    assert statuses(deployment, tenant) == (
        ["former_champion", "champion"] if crowned else ["champion", "rejected"]
    )
    scores = {
        "better": f"not worse than {first.version}: its share_of_baseline is 0.700, "
        f"the champion's 0.800 (lower is better)",
        "a little worse": f"takes over from {first.version}, within the tolerance of 15%: "
        f"its share_of_baseline is 0.830, the champion's 0.800 (lower is better)",
        "worse": "worse by more than the tolerance of 15%: its share_of_baseline is 0.950, "
        "the champion's 0.800 (lower is better)",
        "nothing": f"it follows {first.version} without a comparison: {second.version} has no "
        f"share_of_baseline",
    }
    assert done.decision == scores[said]
    assert ModelRegistry(deployment).versions(tenant, NAME)[1].note == done.decision
    assert done.reigning is not None
    table = comparison(energy, second, done.reigning)
    assert f"| lower is better | challenger {second.version} | champion {first.version} |" in table
    assert f"| **share_of_baseline** | {challenger.get('mase', '–')} | 0.8 |" in table.replace(
        "0.70", "0.7"
    )


def test_an_older_version_that_comes_late_does_not_follow_a_newer_one(
    serving: Serving, trained_forecasts: list[TrainedForecast], tenant: ids.TenantId
) -> None:
    deployment, energy, endpoint = serving
    older = trained_version(deployment, tenant, 1, trained_forecasts[0].archive, BETTER)
    newer = trained_version(deployment, tenant, 2, trained_forecasts[0].archive, GOOD)
    register(deployment, energy, newer, route_to(endpoint.name, newer))
    done = register(deployment, energy, older, route_to(endpoint.name, older))
    assert not done.crowned
    assert "a newer version" in done.decision


def test_a_run_that_dies_between_crowning_and_noting_it_leaves_nothing_unsaid(
    serving: Serving, tenant: ids.TenantId, trained_forecasts: list[TrainedForecast]
) -> None:
    deployment, energy, endpoint = serving
    registry, archive = ModelRegistry(deployment), trained_forecasts[0].archive
    first, second, third = (
        trained_version(deployment, tenant, n, archive, GOOD) for n in (1, 2, 3)
    )
    register(deployment, energy, first, route_to(endpoint.name, first))
    # and the process is gone
    registry.crown(second, route_to(endpoint.name, second), registry.champion(tenant, NAME))
    assert register(deployment, energy, second, route_to(endpoint.name, second)).crowned
    assert statuses(deployment, tenant) == ["former_champion", "champion", "trained"]
    # gone again, and a newer one comes first
    registry.crown(third, route_to(endpoint.name, third), registry.champion(tenant, NAME))
    fourth = trained_version(deployment, tenant, 4, archive, GOOD)
    assert register(deployment, energy, fourth, route_to(endpoint.name, fourth)).crowned
    assert not register(deployment, energy, third, route_to(endpoint.name, third)).crowned
    assert statuses(deployment, tenant) == [
        "former_champion",
        "former_champion",
        "former_champion",
        "champion",
    ]


@pytest.mark.parametrize(
    ("spoil", "promised", "reason"),
    [
        (lambda archive: archive[:-200], None, "refused the model"),
        (lambda archive: archive[:-200], 3000, "may be truncated"),
        (lambda _: gzip.compress(b"no tar"), None, "refused the model"),
        (lambda _: b"", None, "refused the model"),
    ],
    ids=["truncated", "not the promised size", "no archive", "empty"],
)
def test_an_archive_its_container_cannot_load_is_rejected_and_the_champion_stays(
    serving: Serving,
    trained_forecasts: list[TrainedForecast],
    tenant: ids.TenantId,
    spoil: object,
    promised: int | None,
    reason: str,
) -> None:
    assert callable(spoil)
    deployment, energy, endpoint = serving
    first = trained_version(deployment, tenant, 1, trained_forecasts[0].archive, GOOD)
    register(deployment, energy, first, route_to(endpoint.name, first))
    broken = trained_version(
        deployment, tenant, 2, spoil(trained_forecasts[0].archive), BETTER, size=promised
    )
    with pytest.raises(ArtifactUnusableError, match=reason) as refused:
        register(deployment, energy, broken, route_to(endpoint.name, broken))
    assert refused.value.code == (
        "model_not_answering" if promised is None else "archive_size_differs"
    )
    assert statuses(deployment, tenant) == ["champion", "rejected"]
    champion = ModelRegistry(deployment).champion(tenant, NAME)
    assert champion is not None
    assert champion.version == first.version


def test_an_artifact_that_has_not_arrived_is_waited_for_and_not_rejected(
    serving: Serving, trained_forecasts: list[TrainedForecast], tenant: ids.TenantId
) -> None:
    deployment, energy, endpoint = serving
    model = trained_version(deployment, tenant, 1, trained_forecasts[0].archive, GOOD)
    deployment.s3.delete_object(Bucket=deployment.data_bucket, Key=model.archive)
    with pytest.raises(objects.ObjectMissingError):
        register(deployment, energy, model, route_to(endpoint.name, model))
    assert statuses(deployment, tenant) == ["trained"]


def test_registering_again_puts_back_what_an_endpoint_lost(
    serving: Serving, trained_forecasts: list[TrainedForecast], tenant: ids.TenantId
) -> None:
    deployment, energy, endpoint = serving
    champion, worse = (
        trained_version(deployment, tenant, number, trained_forecasts[0].archive, metrics)
        for number, metrics in ((1, GOOD), (2, WORSE))
    )
    register(deployment, energy, champion, route_to(endpoint.name, champion))
    for registered in (champion, worse):  # the champion itself, and a challenger that loses to it
        placed = s3_keys.endpoint_model(endpoint.name, tenant, champion.version)
        deployment.s3.delete_object(Bucket=deployment.data_bucket, Key=placed)
        assert (
            register(
                deployment, energy, registered, route_to(endpoint.name, registered)
            ).champion.version
            == champion.version
        )
        assert (
            objects.digest(deployment.s3, deployment.data_bucket, placed).sha256 == champion.sha256
        )


def test_an_archive_that_is_not_the_promised_one_is_not_registered(
    serving: Serving, trained_forecasts: list[TrainedForecast], tenant: ids.TenantId
) -> None:
    """Another tenant's model of the same size would load and answer."""
    deployment, energy, endpoint = serving
    model = trained_version(deployment, tenant, 1, trained_forecasts[0].archive, GOOD)
    content = bytearray(trained_forecasts[0].archive)
    content[9] ^= 1  # a byte of gzip's header that readers ignore
    objects.write_bytes(deployment.s3, deployment.data_bucket, model.archive, bytes(content))
    with pytest.raises(ArtifactUnusableError, match="another SHA-256") as refused:
        register(deployment, energy, model, route_to(endpoint.name, model))
    assert refused.value.code == "archive_digest_differs"
    assert statuses(deployment, tenant) == ["rejected"]
    placed = s3_keys.endpoint_model(endpoint.name, tenant, model.version)
    assert not objects.exists(deployment.s3, deployment.data_bucket, placed)


def test_a_version_from_before_archives_were_kept_is_registered_from_where_it_lies(
    serving: Serving, trained_forecasts: list[TrainedForecast], tenant: ids.TenantId
) -> None:
    deployment, energy, endpoint = serving
    made = trained_version(deployment, tenant, 1, trained_forecasts[0].archive, GOOD)
    checkpoint = s3_keys.checkpoint_archive(NAME, ids.pack_id("p-1"), tenant, made.version)
    objects.copy(deployment.s3, deployment.data_bucket, made.archive, checkpoint)
    deployment.s3.delete_object(Bucket=deployment.data_bucket, Key=made.archive)
    old = replace(made, archive=checkpoint)
    assert register(deployment, energy, old, route_to(endpoint.name, old)).crowned
    deployment.s3.delete_object(Bucket=deployment.data_bucket, Key=checkpoint)  # after 30 days
    assert register(deployment, energy, old, route_to(endpoint.name, old)).crowned
    placed = s3_keys.endpoint_model(endpoint.name, tenant, made.version)
    deployment.s3.delete_object(Bucket=deployment.data_bucket, Key=placed)
    with pytest.raises(objects.ObjectMissingError):
        register(deployment, energy, old, route_to(endpoint.name, old))


def test_an_endpoint_that_is_gone_is_not_the_models_fault(
    serving: Serving, trained_forecasts: list[TrainedForecast], tenant: ids.TenantId
) -> None:
    deployment, energy, _ = serving
    model = trained_version(deployment, tenant, 1, trained_forecasts[0].archive, GOOD)
    with pytest.raises(endpoints.EndpointFailedError, match="tenantry-energy-gone"):
        register(deployment, energy, model, route_to("tenantry-energy-gone", model))
    assert statuses(deployment, tenant) == ["trained"]


def test_a_champion_that_fails_to_answer_once_more_is_still_the_champion(
    serving: Serving, trained_forecasts: list[TrainedForecast], tenant: ids.TenantId
) -> None:
    deployment, energy, endpoint = serving
    model = trained_version(deployment, tenant, 1, trained_forecasts[0].archive, GOOD)
    register(deployment, energy, model, route_to(endpoint.name, model))
    refused = energy.serving.model_copy(update={"smoke_request": {"period": -1}})
    with pytest.raises(ArtifactUnusableError):
        register(
            deployment,
            energy.model_copy(update={"serving": refused}),
            model,
            route_to(endpoint.name, model),
        )
    assert statuses(deployment, tenant) == ["champion"]


def test_a_model_worse_than_required_serves_nobody(
    serving: Serving, trained_forecasts: list[TrainedForecast], tenant: ids.TenantId
) -> None:
    deployment, energy, endpoint = serving
    strict = energy.model_copy(
        update={"quality": energy.quality.model_copy(update={"required": 0.75})}
    )
    first = trained_version(deployment, tenant, 1, trained_forecasts[0].archive, GOOD)
    with pytest.raises(NotGoodEnoughError, match=r"mase is 0\.8; 0\.75 is required") as refused:
        register(deployment, strict, first, route_to(endpoint.name, first))
    assert refused.value.code == "model_not_good_enough"
    assert ModelRegistry(deployment).champion(tenant, NAME) is None

    second = trained_version(deployment, tenant, 2, trained_forecasts[1].archive, BETTER)
    assert register(deployment, strict, second, route_to(endpoint.name, second)).crowned
    third = trained_version(deployment, tenant, 3, trained_forecasts[0].archive, GOOD)
    kept = register(deployment, strict, third, route_to(endpoint.name, third))
    assert (kept.crowned, kept.champion.version) == (False, second.version)
    assert statuses(deployment, tenant) == ["rejected", "champion", "rejected"]
