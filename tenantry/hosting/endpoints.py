"""Endpoints of any hosting shape: made, updated, waited for, described."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

from botocore.exceptions import ClientError

from tenantry.aws.objects import error_code
from tenantry.aws.silo_roles import ensure_silo_role, usable
from tenantry.errors import TenantryError
from tenantry.hosting.route import Route
from tenantry.hosting.safe_updates import deployment_config, forget_guard
from tenantry.hosting.shapes.shape import Shape
from tenantry.names import ids
from tenantry.names.tiers import Machines
from tenantry.workloads.schema import Workload

if TYPE_CHECKING:
    from mypy_boto3_sagemaker.type_defs import DescribeEndpointOutputTypeDef, EndpointSummaryTypeDef

    from tenantry.aws.deployment import Deployment

_TRIES_TO_UPDATE: Final = 5
TO_BE_MADE_ANEW: Final = frozenset({"Failed", "Deleting"})
"""The statuses from which an endpoint does not come back."""


_FAULTS_OF_A_MODEL: Final = ("health check", "extract model data archive", "alarm")
"""SageMaker's words for a container that does not become healthy, for an archive that it cannot
read, and for an alarm that took an update back."""


class EndpointFailedError(TenantryError, RuntimeError):
    """SageMaker could not bring the endpoint into service; the message holds its reason.

    ``reason`` is SageMaker's own, where it gave one.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason

    @property
    def judges_the_model(self) -> bool:
        """Whether the reason is what the endpoint was to serve, and not a lack of machines."""
        return any(words in self.reason.lower() for words in _FAULTS_OF_A_MODEL)


@dataclass(frozen=True)
class Endpoint:
    """An endpoint as SageMaker describes it."""

    name: str
    arn: str
    status: str
    config: str
    instances: int
    change: Literal["created", "updated", "unchanged"]


def ensure_endpoint(
    deployment: Deployment,
    workload: Workload,
    machines: Machines,
    shape: Shape,
    *,
    timeout: float = 1800.0,
    began: datetime | None = None,
    serves: Sequence[Route] = (),
) -> Endpoint:
    """Bring the endpoint on some machines into service. Create it, or update it where it differs
    from the workload.

    The names of the model and the endpoint configuration depend on their content, so an existing
    one is the right one. An update keeps the instance count the capacity schedule chose.

    A caller that only needs an endpoint in service says when it ``began``:

    - An endpoint that was changed since then stays as it is: its configuration may be a later
      release's.
    - An endpoint whose update was rolled back serves on, which is enough.

    Args:
        deployment: names of buckets and roles.
        workload: container, instance type and count.
        machines: the endpoint's: a tenant's own, or a shared tier's.
        shape: the hosting shape of the endpoint.
        timeout: seconds to wait for it.
        began: when the caller began and read the workload; None for a caller that must make the
            endpoint follow the workload.
        serves: the routes of the versions that the endpoint is to serve, where the shape
            ``deploys``. Such an endpoint follows them, whenever the caller began.

    Raises:
        NotAsynchronousError: the workload has no endpoint of that shape.
        EndpointFailedError: it ended in another state, or took too long.
    """
    name = shape.endpoint_name(deployment.prefix, ids.workload_name(workload.name), machines)
    wanted = shape.requests(deployment, workload, machines, serves)
    if shape.deploys:
        began = None
    wanted_config = wanted.config["EndpointConfigName"]
    client = deployment.sagemaker
    described = describe_endpoint(deployment, name)
    if described is not None and described["EndpointStatus"] in TO_BE_MADE_ANEW:
        _remove(deployment, name, described, timeout)
        described = None
    change: Literal["created", "updated", "unchanged"] = "unchanged"
    if began is not None and described is not None and described["LastModifiedTime"] > began:
        return as_endpoint(wait_in_service(deployment, name, timeout=timeout), "unchanged")
    if described is None or described["EndpointConfigName"] != wanted_config:
        role = None
        if machines.tier == "silo":
            role = ensure_silo_role(deployment, ids.workload_name(workload.name), machines.tenant)
        for model in (wanted.model, wanted.shadow):
            if model is not None:
                usable(role, partial(create_once, client.create_model, model))
        create_once(client.create_endpoint_config, wanted.config)
        if described is None:
            endpoint = {"EndpointName": name, "EndpointConfigName": wanted_config}
            tagged = {"Tags": list(wanted.tags)} if wanted.tags else {}
            create_once(client.create_endpoint, {**endpoint, **tagged})
            change = "created"
        else:
            instances = sum(
                one.get("CurrentInstanceCount", 0) for one in described["ProductionVariants"]
            )
            # Serverless endpoints take no DeploymentConfig.
            guard = (
                deployment_config(
                    deployment, workload.hosting.updates, name, wanted_config, instances
                )
                if shape.has_instances
                else None
            )
            if wanted.tags:  # UpdateEndpoint takes none; the endpoint may be from before they were
                tags: Any = list(wanted.tags)
                client.add_tags(ResourceArn=described["EndpointArn"], Tags=tags)
            try:
                change = _update(deployment, name, wanted_config, timeout, guard)
                wait_in_service(deployment, name, timeout=timeout)
            finally:
                if guard is not None:
                    forget_guard(deployment, wanted_config)
    ready = wait_in_service(deployment, name, timeout=timeout)
    if ready["EndpointConfigName"] != wanted_config:
        if began is not None:
            return as_endpoint(ready, "unchanged")
        reason = ready.get("FailureReason", "no reason given")
        raise EndpointFailedError(
            f"{name} still serves {ready['EndpointConfigName']}; the update was rolled back: "
            f"{reason}",
            reason,
        )
    return as_endpoint(ready, change)


def _update(
    deployment: Deployment,
    name: str,
    config_name: str,
    timeout: float,
    guard: Mapping[str, Any] | None,
) -> Literal["created", "updated", "unchanged"]:
    """Give an endpoint another configuration, unless another process just has. ``guard`` is
    UpdateEndpoint's ``DeploymentConfig``.

    Raises:
        EndpointFailedError: it does not come into service, or others keep changing it.
    """
    for _ in range(_TRIES_TO_UPDATE):
        current = wait_in_service(deployment, name, timeout=timeout)
        if current["EndpointConfigName"] == config_name:
            return "unchanged"
        try:
            update: Any = deployment.sagemaker.update_endpoint
            update(
                EndpointName=name,
                EndpointConfigName=config_name,
                RetainAllVariantProperties=True,
                **({} if guard is None else {"DeploymentConfig": guard}),
            )
        except ClientError as error:
            # Another run, or the capacity schedule, has begun a change since the last look.
            if "in-progress" not in str(error):
                raise
        else:
            return "updated"
    raise EndpointFailedError(
        f"endpoint {name} was being changed by others each time it was to be updated"
    )


def _remove(
    deployment: Deployment, name: str, described: DescribeEndpointOutputTypeDef, timeout: float
) -> None:
    """Delete a failed endpoint, as SageMaker allows nothing else, and wait until it is gone or
    replaced.

    https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_DescribeEndpoint.html,
    EndpointStatus

    Raises:
        EndpointFailedError: it is still there after ``timeout`` seconds.
    """
    deadline, pause = time.monotonic() + timeout, 0.1
    found: DescribeEndpointOutputTypeDef | None = described
    while found is not None and found["CreationTime"] == described["CreationTime"]:
        if found["EndpointStatus"] == "Failed":
            try:
                deployment.sagemaker.delete_endpoint(EndpointName=name)
            except ClientError as error:
                # Another run deleted it, or has made the new one already.
                if error_code(error) not in {
                    "ValidationException",
                    "ResourceNotFound",
                    "ResourceInUse",
                }:
                    raise
        if time.monotonic() > deadline:
            raise EndpointFailedError(
                f"endpoint {name} failed and could not be deleted within {timeout:.0f} s"
            )
        time.sleep(pause)
        pause = min(pause * 1.5, 10.0)
        found = describe_endpoint(deployment, name)


def already_exists(error: ClientError) -> bool:
    """Whether SageMaker refused a creation because the name is taken; it words that in several
    ways."""
    message = str(error.response.get("Error", {}).get("Message", "")).lower()
    taken = (
        "already exist",
        "cannot create already existing",
        "must be unique within an aws account",
    )
    return error_code(error) in {"ResourceInUse", "ValidationException"} and any(
        words in message for words in taken
    )


def is_missing(error: ClientError) -> bool:
    """Whether SageMaker knows nothing of the name."""
    message = str(error.response.get("Error", {}).get("Message", "")).lower()
    return (
        error_code(error) in {"ValidationException", "ResourceNotFound"}
        and "could not find" in message
    )


def create_once(create: Any, request: Mapping[str, Any]) -> None:
    """Create a resource whose name depends on its content, unless it exists."""
    try:
        create(**request)
    except ClientError as error:
        if not already_exists(error):
            raise


def describe_endpoint(deployment: Deployment, name: str) -> DescribeEndpointOutputTypeDef | None:
    """The endpoint as SageMaker describes it, or None."""
    try:
        return deployment.sagemaker.describe_endpoint(EndpointName=name)
    except ClientError as error:
        if is_missing(error):
            return None
        raise


def endpoints_beginning(deployment: Deployment, beginning: str) -> Iterator[EndpointSummaryTypeDef]:
    """The endpoints whose names begin so, those of other deployments included: one call for each
    hundred."""
    pages = deployment.sagemaker.get_paginator("list_endpoints").paginate(
        NameContains=beginning, PaginationConfig={"PageSize": 100}
    )
    for page in pages:
        yield from (one for one in page["Endpoints"] if one["EndpointName"].startswith(beginning))


def wait_in_service(
    deployment: Deployment, name: str, *, timeout: float = 1800.0
) -> DescribeEndpointOutputTypeDef:
    """Poll the endpoint until it is in service. Raises ``EndpointFailedError``."""
    deadline, pause = time.monotonic() + timeout, 0.1
    while True:
        described = describe_endpoint(deployment, name)
        if described is None:
            raise EndpointFailedError(f"endpoint {name} is not there any more")
        status = described["EndpointStatus"]
        if status == "InService":
            return described
        if status in {"Failed", "OutOfService", "Deleting", "UpdateRollbackFailed"}:
            reason = described.get("FailureReason", "no reason given")
            raise EndpointFailedError(f"endpoint {name} is {status}: {reason}", reason)
        if time.monotonic() > deadline:
            raise EndpointFailedError(f"endpoint {name} was still {status} after {timeout:.0f} s")
        time.sleep(pause)
        pause = min(pause * 1.5, 10.0)


def as_endpoint(
    described: DescribeEndpointOutputTypeDef, change: Literal["created", "updated", "unchanged"]
) -> Endpoint:
    """An endpoint as SageMaker describes it."""
    return Endpoint(
        name=described["EndpointName"],
        arn=described["EndpointArn"],
        status=described["EndpointStatus"],
        config=described["EndpointConfigName"],
        instances=described["ProductionVariants"][0].get("CurrentInstanceCount", 0),
        change=change,
    )
