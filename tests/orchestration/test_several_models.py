"""A tenant with several models of one workload: each is made, served, predicted with and told of by
its name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from dagster import AssetPartitionStatus, DagsterInstance

from tenantry.aws.deployment import Deployment
from tenantry.models.registry import ModelRegistry
from tenantry.names import ids
from tenantry.requests.queue import RequestQueue
from tenantry.serving.client import NoModelYetError, TenantClient
from tenantry.uploads.intake import TOO_MANY_MODELS, drain_queue
from tenantry.workloads.schema import Workload
from tests.orchestration.running import at_once, onboard, run, statuses, take_in

ENERGY, ACME = ids.workload_name("energy"), ids.tenant_id("acme")
WINTER = ids.model_name("winter")
PARAMETERS = {"timezone": "Europe/London", "country": "GB"}


def test_a_named_model_goes_the_whole_way_beside_the_default_one(
    deployment: Deployment,
    dagster_instance: DagsterInstance,
    energy: Workload,
    consumption: dict[str, bytes],
) -> None:
    workload, winter = at_once(energy), ids.model_of(ACME, WINTER)
    default = TenantClient(deployment, workload, ACME)
    named = TenantClient(deployment, workload, ACME, model=WINTER)
    with default, named:
        default.upload({"consumption.csv": consumption["tenant-0"]}, PARAMETERS)
        # The same content for another model is another request.
        named.upload({"consumption.csv": consumption["tenant-0"]}, PARAMETERS)
        assert take_in(deployment, dagster_instance).accepted == 2
        for _ in range(2):  # a tenant has one request on its way at a time
            for result in onboard(deployment, dagster_instance, workload):
                assert result.success
        made = AssetPartitionStatus.MATERIALIZED.value
        both: Sequence[ids.ModelId] = [ACME, winter]
        assert statuses(dagster_instance, "energy", "endpoint_registration", both) == {
            "acme": made,
            "acme.winter": made,
        }
        assert default.models() == ["default", "winter"]
        assert default.champion().version != named.champion().version
        assert len(named.requests()) == len(default.requests()) == 1

        # A newer upload of one changes the other in nothing.
        before = default.champion()
        named.upload({"consumption.csv": consumption["tenant-1"]}, PARAMETERS)
        take_in(deployment, dagster_instance)
        (result,) = onboard(deployment, dagster_instance, workload)
        assert result.success
        assert default.champion() == before
        assert [one.status for one in named.requests()] == ["registered", "registered"]
        assert default.predict({"period": 1})["mean"] != named.predict({"period": 1})["mean"]

        assert run(dagster_instance, "energy_batch_predictions", None).success
        day = datetime.now(UTC).date()
        (of_default,), (of_named,) = default.predictions(day), named.predictions(day)
        assert of_default["mean"] != of_named["mean"]

    told = []
    while messages := deployment.sqs.receive_message(
        QueueUrl=deployment.notices_queue_url, MaxNumberOfMessages=10, VisibilityTimeout=60
    ).get("Messages"):
        told += [json.loads(message["Body"]) for message in messages]
    assert {(one["tenant"], one["model"]) for one in told if one["kind"] == "model_ready"} == {
        ("acme", "default"),
        ("acme", "winter"),
    }


def test_an_unusable_name_and_one_name_too_many_are_refused(
    deployment: Deployment, dagster_instance: DagsterInstance, energy: Workload
) -> None:
    upload = energy.upload.model_copy(update={"max_models": 2})
    offered = {"energy": energy.model_copy(update={"upload": upload})}
    with pytest.raises(ids.InvalidIdError, match="model name"):
        TenantClient(deployment, energy, ACME, model=ids.ModelName("a.b"))
    with pytest.raises(ids.InvalidIdError, match="tenant id"):
        TenantClient(deployment, energy, ids.TenantId(ids.ModelId("acme.winter")))
    for name in ("winter", "summer"):
        with TenantClient(deployment, energy, ACME, model=ids.model_name(name)) as client:
            client.upload({"consumption.csv": b"any"}, PARAMETERS)
            taken = drain_queue(deployment, offered, lambda *_: None, max_seconds=20)
            assert (taken.accepted, len(taken.refused)) == ((1, 0) if name == "winter" else (0, 1))
            with pytest.raises(NoModelYetError):
                client.predict({"period": 1})
    (refused,) = RequestQueue(deployment).of_tenant(ENERGY, ACME)
    assert (refused.status, refused.reason_code) == ("refused", TOO_MANY_MODELS)
    names = ModelRegistry(deployment).named_models(ACME, ENERGY)
    assert names == [ids.model_of(ACME, WINTER)], "the refused name is not kept"
    assert dagster_instance.get_dynamic_partitions("energy_tenants") == []
