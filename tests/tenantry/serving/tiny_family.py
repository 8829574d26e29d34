"""A deployment whose tenants have models of the tiny family."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenantry.aws import objects
from tenantry.aws.deployment import Deployment
from tenantry.models.registry import ModelRegistry
from tenantry.names import ids, s3_keys, sagemaker_names, tiers
from tenantry.names.tiers import machines_of
from tenantry.serving.client import TenantClient
from tenantry.workloads.hosting import Hosting
from tenantry.workloads.schema import Workload, read_workloads
from tenantry.workloads.sections import Asynchronous, Cache
from tests.containers.runtime.serving import archive_model
from tests.tenantry.onboarding.registration import NAME, route_to, trained_version

ROOT = Path(__file__).resolve().parents[3]
MEANS: dict[str, float] = {}


@dataclass(frozen=True)
class World:
    """A deployment whose SageMaker knows the tiny family, and a workload of it."""

    deployment: Deployment
    tiny: Workload
    endpoint: str
    folder: Path

    def tenant(
        self,
        *,
        tier: tiers.Tier = "bridge",
        traceparent: str = "",
        card: Mapping[str, Any] | None = None,
    ) -> ids.TenantId:
        """A new tenant with a champion that has a unique mean."""
        tenant = ids.tenant_id(f"t-{uuid.uuid4().hex[:8]}")
        self.crown(tenant, 1, tier=tier, traceparent=traceparent, card=card)
        return tenant

    def crown(
        self,
        tenant: ids.ModelId,
        number: int,
        *,
        tier: tiers.Tier = "bridge",
        traceparent: str = "",
        card: Mapping[str, Any] | None = None,
    ) -> None:
        """Give the tenant another champion."""
        MEANS[tenant] = 1000.0 * (len(MEANS) + 1) + number
        archive = archive_model(
            self.folder / tenant / f"{number}.tar.gz", MEANS[tenant]
        ).read_bytes()
        model = trained_version(
            self.deployment,
            tenant,
            number,
            archive,
            {},
            tier=tier,
            card=card,
            traceparent=traceparent,
        )
        endpoint = sagemaker_names.endpoint_name(
            self.deployment.prefix, NAME, machines_of(tier, tenant)
        )
        key = s3_keys.endpoint_model(endpoint, tenant, model.version)
        objects.write_bytes(self.deployment.s3, self.deployment.data_bucket, key, archive)
        registry = ModelRegistry(self.deployment)
        registry.crown(model, route_to(endpoint, model), registry.champion(tenant, NAME))

    def client(self, tenant: ids.ModelId) -> TenantClient:
        return TenantClient.of_model(self.deployment, self.tiny, tenant)

    def invocations(self) -> int:
        """The number of asynchronous invocations from this process."""
        return self.deployment.aws_calls["sagemaker-runtime:InvokeEndpointAsync"]

    def keys_of(self, tenant: ids.TenantId) -> set[str]:
        """The keys under the tenant's asynchronous prefix, without the prefix."""
        prefix = f"async/{tenant}/energy/"
        listed = self.deployment.s3.list_objects_v2(
            Bucket=self.deployment.data_bucket, Prefix=prefix
        )
        return {entry["Key"].removeprefix(prefix) for entry in listed.get("Contents", [])}


def parking(workload: Workload) -> Workload:
    """The workload, with requests parked that find no instance."""
    serving = workload.serving.model_copy(update={"park_when_unavailable": True})
    return workload.model_copy(update={"serving": serving})


def tiny_workload(**cache: Any) -> Workload:
    """The energy workload with another container, which adds a request's number to the mean of the
    tenant's numbers."""
    energy = read_workloads()["energy"]
    settings = Asynchronous(
        instance_type="ml.m5.large", usd_per_hour=0.1, instances=1, max_seconds=30
    )
    serving = energy.serving.model_copy(
        update={
            "asynchronous": settings,
            "cache": Cache(**{"enabled": True, **cache}),
            "environment": {},
        }
    )
    changes = {"container": "tiny", "serving": serving, "moment": None, "hosting": Hosting()}
    return energy.model_copy(update=changes)
