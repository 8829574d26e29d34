"""Versions to register in the state after training: the archive in S3, the version in the
registry."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from tenantry.aws import objects
from tenantry.aws.deployment import Deployment
from tenantry.hosting.route import Route
from tenantry.hosting.shapes.multi_model import MULTI_MODEL
from tenantry.models.registry import ModelRegistry, ModelVersion
from tenantry.names import ids, s3_keys, tiers

NAME = ids.workload_name("energy")


def trained_version(
    deployment: Deployment,
    tenant: ids.ModelId,
    number: int,
    archive: bytes,
    metrics: Mapping[str, float],
    *,
    size: int | None = None,
    tier: tiers.Tier = "bridge",
    card: Mapping[str, Any] | None = None,
    traceparent: str = "",
) -> ModelVersion:
    """Store a kept archive, and the version in the registry; ``size`` is the promised size. Without
    ``traceparent``, the version is that of a release before traces."""
    version = ids.version_name(f"2026010{number}t000000-aaaaaaaa")
    key = s3_keys.artifact(NAME, tenant, version)
    objects.write_bytes(deployment.s3, deployment.data_bucket, key, archive)
    model = ModelVersion(
        tenant,
        NAME,
        version,
        tier,
        key,
        len(archive) if size is None else size,
        hashlib.sha256(archive).hexdigest(),
        ids.request_id(f"{number:032x}"),
        "job",
        metrics=metrics,
        card=card or {},
        traceparent=traceparent,
    )
    ModelRegistry(deployment).add(model)
    return model


def route_to(endpoint: str, model: ModelVersion) -> Route:
    """A version's route on a multi-model endpoint."""
    return MULTI_MODEL.route(endpoint, model.tenant, model.version)
