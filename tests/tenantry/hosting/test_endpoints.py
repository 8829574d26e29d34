"""Endpoints, invocations and the tenant's client, with a really serving forecast container."""

from __future__ import annotations

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest

from tenantry.aws import objects
from tenantry.aws.deployment import Deployment
from tenantry.hosting import endpoints
from tenantry.hosting.endpoints import Endpoint, EndpointFailedError, ensure_endpoint
from tenantry.hosting.invocation import InvocationRefusedError, invoke
from tenantry.hosting.route import Route
from tenantry.hosting.shapes.multi_model import MULTI_MODEL
from tenantry.names import ids, s3_keys, sagemaker_names
from tenantry.names.tiers import Own, Shared
from tenantry.onboarding import checks
from tenantry.onboarding.registration import register
from tenantry.requests.queue import RequestQueue
from tenantry.serving.client import NoModelYetError, TenantClient
from tenantry.shown.report import Finding
from tenantry.workloads.schema import Workload
from tests.conftest import TrainedForecast
from tests.tenantry.hosting.instances import set_instances
from tests.tenantry.onboarding.registration import NAME, route_to, trained_version

Serving = tuple[Deployment, Workload, Endpoint]


ACME = ids.tenant_id("acme"), ids.version_name("v1")


@pytest.fixture
def tenant(serving: Serving, trained_forecasts: list[TrainedForecast]) -> ids.TenantId:
    """A tenant with a champion."""
    deployment, energy, endpoint = serving
    name = ids.tenant_id(f"t-{uuid.uuid4().hex[:8]}")
    made = trained_forecasts[0]
    model = trained_version(deployment, name, 1, made.archive, made.outcome["metrics"])
    register(deployment, energy, model, route_to(endpoint.name, model))
    return name


def with_serving(energy: Workload, **changed: Any) -> Workload:
    return energy.model_copy(update={"serving": energy.serving.model_copy(update=changed)})


def test_an_endpoint_that_is_as_the_workload_says_is_left_alone(serving: Serving) -> None:
    deployment, energy, endpoint = serving
    assert endpoint.change == "created"
    again = ensure_endpoint(deployment, energy, Shared("bridge"), MULTI_MODEL)
    assert (again.name, again.config, again.change) == (endpoint.name, endpoint.config, "unchanged")


def test_an_endpoint_is_updated_when_the_workload_changes_and_goes_on_answering(
    serving: Serving, tenant: ids.TenantId
) -> None:
    deployment, energy, endpoint = serving
    changed = with_serving(energy, environment={"TENANTRY_PREDICT_THREADS": "1"})
    updated = ensure_endpoint(deployment, changed, Shared("bridge"), MULTI_MODEL)
    assert updated.change == "updated"
    assert updated.config != endpoint.config
    with TenantClient(deployment, energy, tenant) as client:
        assert client.predict({"period": 1, "start": "data_end"})["model"]


def test_two_runs_that_want_the_same_update_at_once_both_get_it(
    serving: Serving, tenant: ids.TenantId
) -> None:
    deployment, energy, _ = serving
    changed = with_serving(energy, environment={"TENANTRY_PREDICT_THREADS": "3"})
    with ThreadPoolExecutor(2) as pool:
        both = list(
            pool.map(
                lambda _: ensure_endpoint(deployment, changed, Shared("bridge"), MULTI_MODEL),
                range(2),
            )
        )
    assert len({endpoint.config for endpoint in both}) == 1
    assert "updated" in {endpoint.change for endpoint in both}


def test_serving_may_have_a_container_and_a_machine_image_of_its_own(
    serving: Serving, tenant: ids.TenantId
) -> None:
    deployment, energy, _ = serving
    # The workload's own image has no folder, so that its endpoint could not start.
    training_elsewhere = energy.model_copy(update={"container": "forecast-trainer"})
    image = "al2-ami-sagemaker-inference-gpu-2-1"
    changed = with_serving(training_elsewhere, container="forecast", ami_version=image)
    updated = ensure_endpoint(deployment, changed, Shared("bridge"), MULTI_MODEL)
    assert (updated.change, updated.status) == ("updated", "InService")
    (variant,) = deployment.sagemaker.describe_endpoint_config(EndpointConfigName=updated.config)[
        "ProductionVariants"
    ]
    assert variant["InferenceAmiVersion"] == image
    model = deployment.sagemaker.describe_model(ModelName=variant["ModelName"])
    assert model["PrimaryContainer"]["Image"] == deployment.image("forecast", energy.image_tag)
    with TenantClient(deployment, energy, tenant) as client:
        assert client.predict({"period": 1, "start": "data_end"})["model"]


def test_capacity_really_changes_and_is_kept_by_an_update(
    serving: Serving, tenant: ids.TenantId
) -> None:
    deployment, energy, endpoint = serving
    assert set_instances(deployment, endpoint.name, 2).instances == 2
    with TenantClient(deployment, energy, tenant) as client:
        assert [
            len(client.predict({"hours": hours, "start": "data_end"})["mean"])
            for hours in (1, 2, 3, 4)
        ] == [1, 2, 3, 4]
    updated = ensure_endpoint(
        deployment,
        with_serving(energy, environment={"TENANTRY_PREDICT_THREADS": "2"}),
        Shared("bridge"),
        MULTI_MODEL,
    )
    assert (updated.change, updated.instances) == ("updated", 2)
    assert set_instances(deployment, endpoint.name, 1).instances == 1


def test_a_run_that_began_before_a_release_does_not_undo_it(
    serving: Serving, tenant: ids.TenantId
) -> None:
    deployment, energy, endpoint = serving
    began = datetime.now(UTC)
    released = with_serving(energy, environment={"TENANTRY_PREDICT_THREADS": "5"})
    new = ensure_endpoint(deployment, released, Shared("bridge"), MULTI_MODEL)
    old_run = ensure_endpoint(deployment, energy, Shared("bridge"), MULTI_MODEL, began=began)
    assert old_run.change == "unchanged"
    assert (old_run.config, old_run.status) == (new.config, "InService")
    later_run = ensure_endpoint(
        deployment, energy, Shared("bridge"), MULTI_MODEL, began=datetime.now(UTC)
    )
    assert (later_run.config, later_run.change) == (endpoint.config, "updated")


def test_a_release_that_cannot_be_served_stops_its_own_update_and_no_registration(
    serving: Serving, tenant: ids.TenantId
) -> None:
    deployment, energy, _ = serving
    serves = ensure_endpoint(deployment, energy, Shared("bridge"), MULTI_MODEL)
    broken = with_serving(energy, container="nowhere")
    with pytest.raises(EndpointFailedError, match="the update was rolled back"):
        ensure_endpoint(deployment, broken, Shared("bridge"), MULTI_MODEL)
    for_a_run = ensure_endpoint(
        deployment, broken, Shared("bridge"), MULTI_MODEL, began=datetime.now(UTC)
    )
    assert (for_a_run.config, for_a_run.status) == (serves.config, "InService")
    with TenantClient(deployment, energy, tenant) as client:
        assert client.predict({"period": 1, "start": "data_end"})["model"]
    assert ensure_endpoint(deployment, energy, Shared("bridge"), MULTI_MODEL).status == "InService"


def test_an_endpoint_that_is_not_there_answers_nothing(serving: Serving) -> None:
    deployment, *_ = serving
    with pytest.raises(EndpointFailedError, match="not found"):
        invoke(
            deployment,
            Route(
                "multi_model", "tenantry-energy-none", ids.tenant_id("acme"), ids.version_name("v1")
            ),
            {},
        )
    assert endpoints.describe_endpoint(deployment, "tenantry-energy-none") is None


def test_a_silo_tenants_endpoint_is_its_own_with_one_instance(serving: Serving) -> None:
    deployment, energy, bridge = serving
    acme = ids.tenant_id("acme")
    silo = ensure_endpoint(deployment, with_serving(energy, instances=3), Own(acme), MULTI_MODEL)
    assert silo.name not in {
        bridge.name,
        sagemaker_names.endpoint_name("tenantry", NAME, Own(ids.tenant_id("bolt"))),
    }
    assert (silo.change, silo.instances) == ("created", 1)
    deployment.sagemaker.delete_endpoint(EndpointName=silo.name)


def test_an_endpoint_that_failed_is_made_anew(serving: Serving) -> None:
    deployment, energy, _ = serving
    unlucky = ids.tenant_id("unlucky")
    with pytest.raises(EndpointFailedError, match="is Failed: "):  # that image has no folder
        ensure_endpoint(
            deployment,
            with_serving(energy, container="nowhere"),
            Own(unlucky),
            MULTI_MODEL,
            timeout=60,
        )
    made = ensure_endpoint(deployment, energy, Own(unlucky), MULTI_MODEL, timeout=60)
    assert (made.change, made.status, made.instances) == ("created", "InService", 1)
    deployment.sagemaker.delete_endpoint(EndpointName=made.name)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"period": 0}, "period"),
        ({"period": 7, "colour": "red"}, "colour"),
        (b"no JSON", "JSON"),
        (b" " * (MULTI_MODEL.limits.max_payload_bytes + 1), "takes at most 6291456"),
    ],
    ids=["field", "unknown field", "not JSON", "too large"],
)
def test_a_request_the_container_refuses_comes_back_with_its_reason(
    serving: Serving, tenant: ids.TenantId, request_: Any, reason: str
) -> None:
    deployment, energy, _ = serving
    with TenantClient(deployment, energy, tenant) as client:
        route = client.champion().route
    with pytest.raises(InvocationRefusedError, match=reason):
        invoke(deployment, route, request_)


def test_a_model_that_is_not_there_is_refused(serving: Serving, tenant: ids.TenantId) -> None:
    deployment, _, endpoint = serving
    route = MULTI_MODEL.route(endpoint.name, tenant, ids.version_name("v9"))
    with pytest.raises(InvocationRefusedError):
        invoke(deployment, route, {"period": 1, "start": "data_end"})


def test_a_tenants_prediction_is_answered_and_archived_under_the_tenant(
    serving: Serving, tenant: ids.TenantId
) -> None:
    deployment, energy, _ = serving
    with TenantClient(deployment, energy, tenant) as client:
        answer = client.predict({"period": 2, "start": "data_end"})
        version = client.champion().version
    assert len(answer["timestamps"]) == len(answer["mean"]) == 48
    listed = deployment.s3.list_objects_v2(
        Bucket=deployment.data_bucket, Prefix=f"archive/{tenant}/energy/"
    )
    (only,) = listed["Contents"]
    record = json.loads(
        objects.read_bytes(deployment.s3, deployment.data_bucket, only["Key"], 1 << 20)
    )
    assert (record["request"], record["response"], record["version"]) == (
        {"period": 2, "start": "data_end"},
        answer,
        version,
    )
    assert record["milliseconds"] > 0


def test_a_refused_prediction_is_not_archived(serving: Serving, tenant: ids.TenantId) -> None:
    deployment, energy, _ = serving
    with (
        TenantClient(deployment, energy, tenant) as client,
        pytest.raises(InvocationRefusedError, match="period"),
    ):
        client.predict({"period": -3, "start": "data_end"})
    assert (
        deployment.s3.list_objects_v2(
            Bucket=deployment.data_bucket, Prefix=f"archive/{tenant}/energy/"
        )["KeyCount"]
        == 0
    )


def test_a_tenant_without_a_model_is_told_how_its_upload_stands(serving: Serving) -> None:
    deployment, energy, _ = serving
    name = ids.tenant_id(f"t-{uuid.uuid4().hex[:8]}")
    queue = RequestQueue(deployment)
    with TenantClient(deployment, energy, name) as client:
        with pytest.raises(NoModelYetError, match="none of its uploads has been taken in"):
            client.predict({"period": 1, "start": "data_end"})
        upload = client.upload({"a.csv": b"x"})
        with pytest.raises(NoModelYetError, match="none of its uploads has been taken in"):
            client.predict({"period": 1, "start": "data_end"})  # no tick of the intake was yet
        key = s3_keys.upload_manifest(NAME, name, upload)
        queue.accept(NAME, name, ids.request_id_of(NAME, name, "x"), key, "bridge", first=True)
        with pytest.raises(NoModelYetError, match="its last upload is pending"):
            client.predict({"period": 1, "start": "data_end"})
        queue.refuse_at_the_door(
            NAME,
            name,
            ids.request_id_of(NAME, name, "y"),
            key,
            "the meter was broken",
            "data_unusable",
        )
        with pytest.raises(
            NoModelYetError, match="its last upload is refused: the meter was broken"
        ):
            client.predict({"period": 1, "start": "data_end"})
        assert [request.status for request in client.requests()] == ["pending", "refused"]


def test_the_checks_tell_a_good_tenant_from_one_without_a_model(
    serving: Serving, tenant: ids.TenantId
) -> None:
    deployment, energy, _ = serving
    nobody = ids.tenant_id("nobody")
    assert checks.endpoint_answers(deployment, energy, tenant).passed
    assert checks.better_than_baseline(deployment, energy, tenant).passed
    for check in checks.CHECKS:
        found = check.ask(deployment, energy, nobody)
        assert found.passed == (check.name == "drift"), "what is not there cannot have drifted"
        assert found.facts["reason"]
    impossible = with_serving(energy, smoke_request={"period": -1})
    assert "period" in checks.endpoint_answers(deployment, impossible, tenant).facts["reason"]
    unmeasured = energy.model_copy(
        update={"quality": energy.quality.model_copy(update={"metric": "none"})}
    )
    assert (
        "no none or no baseline"
        in checks.better_than_baseline(deployment, unmeasured, tenant).facts["reason"]
    )


def test_the_check_of_data_tells_why_an_upload_was_refused(serving: Serving) -> None:
    deployment, energy, _ = serving
    name = ids.tenant_id(f"t-{uuid.uuid4().hex[:8]}")
    queue = RequestQueue(deployment)
    queue.accept(NAME, name, ids.request_id_of(NAME, name, "a"), "k", "bridge", first=True)
    assert checks.data_quality(deployment, energy, name) == Finding(
        passed=True, facts={"status": "pending"}
    )
    (row,) = queue.of_tenant(NAME, name)
    queue.fail(row, "a broken meter", attempts=1, retryable=False)
    assert checks.data_quality(deployment, energy, name).facts == {"reason": "a broken meter"}
