"""Portraits in Dagster, from pictures to champions and tonight's pictures. Dagster's code knows the
workload only from its YAML."""

from __future__ import annotations

import base64
import io
import json
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from dagster import DagsterInstance
from dagster._core.storage.partition_status_cache import AssetPartitionStatus
from PIL import Image

from containers.diffusion.training.personalisation import nearest
from demo.portraits import PROMPTS, portraits_tenants
from demo.product import DemoTenant
from tenantry.aws import objects
from tenantry.aws.deployment import Deployment
from tenantry.names import ids, s3_keys
from tenantry.requests.queue import RequestQueue
from tenantry.serving.client import TenantClient
from tenantry.workloads.schema import Workload, read_workloads
from tests.orchestration.archives import made_elsewhere
from tests.orchestration.running import (
    at_once,
    metadata_of,
    onboard,
    run,
    statuses,
    take_in,
    unexplained,
)

DAY = datetime(2026, 3, 12, tzinfo=UTC).date()
PORTRAITS = ids.workload_name("portraits")
MADE, FAILED = AssetPartitionStatus.MATERIALIZED.value, AssetPartitionStatus.FAILED.value


@pytest.fixture
def portraits() -> Workload:
    return at_once(read_workloads()["portraits"])


def pictures(answer: dict[str, Any]) -> np.ndarray[Any, Any]:
    """The pictures of an answer, (n, 32, 32, 3)."""
    decoded = [
        Image.open(io.BytesIO(base64.b64decode(image["png"]))).convert("RGB")
        for image in answer["images"]
    ]
    return np.stack([np.asarray(picture) for picture in decoded])


def uploaded(tenant: DemoTenant) -> np.ndarray[Any, Any]:
    images = [
        Image.open(io.BytesIO(file)).convert("RGB").resize((32, 32))
        for file in tenant.files.values()
    ]
    return np.stack([np.asarray(image) for image in images])


def huge_png() -> bytes:
    """A picture of 10,000 × 10,000 pixels in a few kilobytes."""
    sink = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(sink, format="png")
    return sink.getvalue()


def imports_are_judged(
    deployment: Deployment, instance: DagsterInstance, portraits: Workload, archive: bytes
) -> None:
    """One trained adapter again, as if it had been trained elsewhere: for the endpoint's base, and
    for others."""
    archives = {
        "twin": made_elsewhere(archive),
        "other-base": made_elsewhere(archive, base="stable-diffusion-xl"),
        "other-weights": made_elsewhere(archive, base_digest="0" * 64),
        "unscored": made_elsewhere(archive, metrics={"loss": 0.1}),
        "not-good": made_elsewhere(archive, metrics={"personalisation": 0.1}),
    }
    for name, content in archives.items():
        TenantClient(deployment, portraits, ids.tenant_id(name)).import_model(content)
    assert take_in(deployment, instance).accepted == len(archives)
    (result,) = onboard(deployment, instance, portraits)
    assert result.success, "operators cannot mend an owner's model"
    queue = RequestQueue(deployment)
    rows = {name: queue.of_tenant(PORTRAITS, ids.tenant_id(name))[0] for name in archives}
    assert {name: (row.status, row.reason_code) for name, row in rows.items()} == {
        "twin": ("registered", None),
        "other-base": ("refused", "model_of_other_base"),
        "other-weights": ("refused", "artifact_unusable"),
        "unscored": ("refused", "metrics_missing"),
        "not-good": ("refused", "model_not_good_enough"),
    }
    assert "train it again on this base" in str(rows["other-weights"].reason)
    with TenantClient(deployment, portraits, ids.tenant_id("twin")) as client:
        answer = client.predict({"prompts": "own", "seed": 3})
    assert [image["prompt"] for image in answer["images"]] == list(PROMPTS)


def test_pictures_become_models_in_their_tenants_style_and_a_hostile_upload_costs_only_itself(
    deployment: Deployment, dagster_instance: DagsterInstance, portraits: Workload
) -> None:
    good = portraits_tenants()[:2]
    for tenant in good:
        with TenantClient(deployment, portraits, tenant.tenant) as client:
            client.upload(tenant.files, tenant.parameters)
    mallory = ids.tenant_id("mallory")
    with TenantClient(deployment, portraits, mallory) as client:
        client.upload({**good[0].files, "large.png": huge_png()})
    taken = take_in(deployment, dagster_instance)
    assert (taken.accepted, taken.refused) == (3, [])

    (result,) = onboard(deployment, dagster_instance, portraits)

    assert result.success, "operators cannot mend an owner's upload"
    everyone = [*(tenant.tenant for tenant in good), mallory]
    for asset in ("training_data", "fine_tuned_artifact", "endpoint_registration"):
        found = statuses(dagster_instance, "portraits", asset, everyone)
        assert found == {good[0].tenant: MADE, good[1].tenant: MADE, mallory: FAILED}, asset
    told = deployment.sqs.receive_message(
        QueueUrl=deployment.notices_queue_url, MaxNumberOfMessages=10
    )["Messages"]
    notices = {
        (notice["tenant"], notice["kind"]): notice
        for notice in (json.loads(message["Body"]) for message in told)
    }
    assert "large.png" in notices[mallory, "upload_refused"]["message"]
    for tenant in good:
        first = notices[tenant.tenant, "first_results"]
        assert notices[tenant.tenant, "model_ready"]["version"] == first["version"]
        with TenantClient(deployment, portraits, tenant.tenant) as client:
            names = [one.name for one in client.first_results(first["version"])]
            drawn = [client.first_result(first["version"], name) for name in names]
        assert names == [f"{number:02}.png" for number in range(len(names))] != []
        assert all(one.startswith(b"\x89PNG") for one in drawn)

    styles = {str(tenant.tenant): uploaded(tenant) for tenant in good}
    artifacts = metadata_of(dagster_instance, "portraits", "fine_tuned_artifact")
    registrations = metadata_of(dagster_instance, "portraits", "endpoint_registration")
    for tenant in good:
        artifact = artifacts[tenant.tenant]
        assert artifact["contact_sheet"].startswith("![contact_sheet](data:image/png;base64,")
        assert artifact["loss_curve"].startswith("![loss_curve](data:image/png;base64,")
        assert artifact["personalisation"] >= portraits.quality.required
        assert registrations[tenant.tenant]["first_pictures"].startswith(
            "![first_pictures](data:image/png;base64,"
        )
        with TenantClient(deployment, portraits, tenant.tenant) as client:
            answer = client.predict({"prompts": list(PROMPTS), "seed": 3})
        assert [image["prompt"] for image in answer["images"]] == list(PROMPTS)
        assert nearest(styles, pictures(answer)) == tenant.tenant

    config = {"ops": {"portraits_predict_everyone": {"config": {"day": DAY.isoformat()}}}}
    assert run(dagster_instance, "portraits_batch_predictions", config).success
    assert unexplained(dagster_instance, portraits) == set()
    shown = metadata_of(dagster_instance, "portraits", "batch_predictions")
    for tenant in good:
        with TenantClient(deployment, portraits, tenant.tenant) as client:
            (prediction,) = client.predictions(DAY)
        assert [image["prompt"] for image in prediction["images"]] == list(PROMPTS), (
            "its own list, from its upload"
        )
        assert nearest(styles, pictures(prediction)) == tenant.tenant
        assert shown[tenant.tenant]["pictures"].startswith("![pictures](data:image/png;base64,")

    with TenantClient(deployment, portraits, good[0].tenant) as client:
        kept = s3_keys.artifact(PORTRAITS, client.tenant, client.champion().version)
    archive = objects.read_bytes(deployment.s3, deployment.data_bucket, kept, 64 << 20)
    imports_are_judged(deployment, dagster_instance, portraits, archive)
