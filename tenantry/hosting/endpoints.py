"""Endpoints: a tier's multi-model endpoint and its asynchronous one, their capacity, and
invocations of a tenant's model."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal

from botocore.exceptions import ClientError

from tenantry.aws.objects import error_code
from tenantry.errors import TenantryError
from tenantry.names import ids, s3_keys, sagemaker_names
from tenantry.names.tiers import Machines
from tenantry.workloads.schema import Workload
from tenantry.workloads.sections import Asynchronous

if TYPE_CHECKING:
    from mypy_boto3_sagemaker.type_defs import DescribeEndpointOutputTypeDef

    from tenantry.aws.deployment import Deployment

VARIANT: Final = "AllTraffic"
# ModelNotReadyException: loading may go on for 360 s; botocore does not retry it.
# https://docs.aws.amazon.com/sagemaker/latest/dg/invoke-multi-model-endpoint.html
MODEL_LOADING_SECONDS: Final = 360.0
# A container that has too much to do says 429, and 504 when the time a request gave has passed
# (docs/contracts.md).
BUSY_SECONDS: Final = 20.0
_TRIES_TO_UPDATE: Final = 5
MAX_PAYLOAD_BYTES: Final = 6_291_456  # the model of InvokeEndpoint's Body in the API
# where an asynchronous endpoint's container finds archives
MODELS_VARIABLE: Final = "TENANTRY_MODELS_URI"
JSON: Final = "application/json"


class EndpointFailedError(TenantryError, RuntimeError):
    """SageMaker could not bring the endpoint into service; the message holds its reason."""


class EndpointBusyError(EndpointFailedError):
    """The endpoint has more to do than it takes, or did not answer in the request's time; ask again
    later."""


class InvocationRefusedError(TenantryError, ValueError):
    """The model's container refused the request or the model itself; the message is its answer."""


class NotAsynchronousError(TenantryError, LookupError):
    """The workload has no asynchronous endpoint; the message says how it gets one."""


@dataclass(frozen=True)
class Answer:
    """What a model answered, as it came."""

    content: bytes
    content_type: str


@dataclass(frozen=True)
class Endpoint:
    """An endpoint as SageMaker describes it."""

    name: str
    arn: str
    status: str
    config: str
    instances: int
    made: Literal["created", "updated", "unchanged"]


def ensure_endpoint(
    deployment: Deployment,
    workload: Workload,
    machines: Machines,
    *,
    timeout: float = 1800.0,
    began: datetime | None = None,
) -> Endpoint:
    """Bring the endpoint on some machines into service, creating or updating it where it is not as
    the workload says.

    Model and endpoint configuration are named by what is in them, so that an existing one is the
    right one. An update keeps the instance count the capacity schedule chose.

    Who only needs an endpoint that serves says when it ``began``. An endpoint that was changed
    since is left as it is, as its configuration may be that of a later release; and one whose
    update was rolled back serves on, and will do.

    Args:
        deployment: names of buckets and roles.
        workload: container, instance type and count.
        machines: whose it is: a tenant's own, or a shared tier's.
        timeout: seconds to wait for it.
        began: when the caller began, and read the workload; None for who is to see to it that the
            endpoint follows it.

    Raises:
        EndpointFailedError: it ended in another state, or took too long.
    """
    name = sagemaker_names.endpoint_name(
        deployment.prefix, ids.workload_name(workload.name), machines
    )
    model, config = endpoint_requests(deployment, workload, machines)
    return _ensure(deployment, name, model, config, [], timeout, began)


def ensure_async_endpoint(
    deployment: Deployment,
    workload: Workload,
    machines: Machines,
    *,
    timeout: float = 1800.0,
    began: datetime | None = None,
) -> Endpoint:
    """Bring the endpoint there that answers asynchronously into service, as ``ensure_endpoint``
    does with the other.

    An asynchronous endpoint is not multi-model on AWS: its container fetches the archives it is
    asked for from the prefix of the tier's multi-model endpoint.

    Raises:
        NotAsynchronousError: the workload's file has no ``serving.asynchronous``.
        EndpointFailedError: it ended in another state, or took too long.
    """
    name = sagemaker_names.async_endpoint_name(
        deployment.prefix, ids.workload_name(workload.name), machines
    )
    model, config = async_endpoint_requests(deployment, workload, machines)
    # IAM holds a tenant's session to the endpoint that bears its tag.
    tags = [{"Key": "tenantry:tenant", "Value": machines.tenant}] if machines.tier == "silo" else []
    return _ensure(deployment, name, model, config, tags, timeout, began)


def endpoint_requests(
    deployment: Deployment, workload: Workload, machines: Machines
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The requests for the model and the configuration of the endpoint on some machines, as
    SageMaker takes them."""
    name = sagemaker_names.endpoint_name(
        deployment.prefix, ids.workload_name(workload.name), machines
    )
    model = _model_request(deployment, workload, name)
    return model, _config_request(workload, machines, name, model["ModelName"])


def async_endpoint_requests(
    deployment: Deployment, workload: Workload, machines: Machines
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Those of the endpoint there that answers asynchronously. Raises ``NotAsynchronousError``."""
    workload_name = ids.workload_name(workload.name)
    name = sagemaker_names.async_endpoint_name(deployment.prefix, workload_name, machines)
    models = s3_keys.endpoint_models_prefix(
        sagemaker_names.endpoint_name(deployment.prefix, workload_name, machines)
    )
    model = _async_model_request(deployment, workload, name, models)
    return model, _async_config_request(deployment, workload, machines, name, model["ModelName"])


def _ensure(
    deployment: Deployment,
    name: str,
    model: Mapping[str, Any],
    config: Mapping[str, Any],
    tags: list[Any],
    timeout: float,
    began: datetime | None,
) -> Endpoint:
    client = deployment.sagemaker
    described = describe_endpoint(deployment, name)
    if described is not None and described["EndpointStatus"] in {"Failed", "Deleting"}:
        _remove(deployment, name, described, timeout)
        described = None
    made: Literal["created", "updated", "unchanged"] = "unchanged"
    if began is not None and described is not None and described["LastModifiedTime"] > began:
        return _endpoint(wait_in_service(deployment, name, timeout=timeout), "unchanged")
    if described is None or described["EndpointConfigName"] != config["EndpointConfigName"]:
        create_once(client.create_model, model)
        create_once(client.create_endpoint_config, config)
        if described is None:
            endpoint = {"EndpointName": name, "EndpointConfigName": config["EndpointConfigName"]}
            create_once(client.create_endpoint, endpoint | ({"Tags": tags} if tags else {}))
            made = "created"
        else:
            made = _update(deployment, name, config["EndpointConfigName"], timeout)
    ready = wait_in_service(deployment, name, timeout=timeout)
    if ready["EndpointConfigName"] != config["EndpointConfigName"]:
        if began is not None:
            return _endpoint(ready, "unchanged")
        raise EndpointFailedError(
            f"{name} still serves {ready['EndpointConfigName']}; the update was rolled back: "
            f"{ready.get('FailureReason', 'no reason given')}"
        )
    return _endpoint(ready, made)


def _update(
    deployment: Deployment, name: str, config_name: str, timeout: float
) -> Literal["created", "updated", "unchanged"]:
    """Give an endpoint another configuration, unless somebody else just has.

    Raises:
        EndpointFailedError: it does not come into service, or others keep changing it.
    """
    for _ in range(_TRIES_TO_UPDATE):
        current = wait_in_service(deployment, name, timeout=timeout)
        if current["EndpointConfigName"] == config_name:
            return "unchanged"
        try:
            deployment.sagemaker.update_endpoint(
                EndpointName=name, EndpointConfigName=config_name, RetainAllVariantProperties=True
            )
        except ClientError as error:
            # Another run, or the capacity's schedule, began a change since it was looked at.
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
    """Delete an endpoint that failed, which is all that can be done with one, and wait until it is
    gone or another is there.

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


def _model_request(deployment: Deployment, workload: Workload, endpoint: str) -> dict[str, Any]:
    container = {
        "Image": deployment.image(workload.serving_container, workload.image_tag),
        "Mode": "MultiModel",
        "ModelDataUrl": f"s3://{deployment.data_bucket}/{s3_keys.endpoint_models_prefix(endpoint)}",
        "Environment": dict(workload.serving.environment),
    }
    request = {
        "ExecutionRoleArn": deployment.serving_role,
        "PrimaryContainer": container,
        "EnableNetworkIsolation": False,
    }
    return {"ModelName": sagemaker_names.name_of_content(endpoint, request), **request}


def _config_request(
    workload: Workload, machines: Machines, endpoint: str, model: str
) -> dict[str, Any]:
    variant = {
        "VariantName": VARIANT,
        "ModelName": model,
        "InitialInstanceCount": 1 if machines.tier == "silo" else workload.serving.instances,
        "InstanceType": workload.serving.instance_type,
        **_machine_image(workload),
    }
    request = {
        "ProductionVariants": [variant],
        "Tags": [
            {"Key": "tenantry:workload", "Value": workload.name},
            {"Key": "tenantry:tier", "Value": machines.tier},
        ],
    }
    return {"EndpointConfigName": sagemaker_names.name_of_content(endpoint, request), **request}


def _async_model_request(
    deployment: Deployment, workload: Workload, endpoint: str, models: str
) -> dict[str, Any]:
    models_uri = f"s3://{deployment.data_bucket}/{models}"
    request = {
        "ExecutionRoleArn": deployment.async_role,
        "PrimaryContainer": {
            "Image": deployment.image(workload.serving_container, workload.image_tag),
            "Mode": "SingleModel",
            "Environment": {**workload.serving.environment, MODELS_VARIABLE: models_uri},
        },
        "EnableNetworkIsolation": False,
    }
    return {"ModelName": sagemaker_names.name_of_content(endpoint, request), **request}


def _async_config_request(
    deployment: Deployment, workload: Workload, machines: Machines, endpoint: str, model: str
) -> dict[str, Any]:
    settings, name = asynchronous(workload), ids.workload_name(workload.name)
    # What a silo tenant's endpoint writes cannot leave the tenant's prefix, whatever a request
    # says.
    if machines.tier == "silo":
        output = failures = s3_keys.async_tenant_prefix(name, machines.tenant)
    else:
        output, failures = s3_keys.ASYNC_ROOT, s3_keys.async_failures_prefix(name)
    variant = {
        "VariantName": VARIANT,
        "ModelName": model,
        "InitialInstanceCount": 1 if machines.tier == "silo" else settings.instances,
        "InstanceType": settings.instance_type,
        **_machine_image(workload),
    }
    request = {
        "ProductionVariants": [variant],
        "AsyncInferenceConfig": {
            "OutputConfig": {
                "S3OutputPath": f"s3://{deployment.data_bucket}/{output}",
                "S3FailurePath": f"s3://{deployment.data_bucket}/{failures}",
                "NotificationConfig": {
                    "SuccessTopic": deployment.async_success_topic,
                    "ErrorTopic": deployment.async_error_topic,
                    # The container's reason travels with the message.
                    "IncludeInferenceResponseIn": ["ERROR_NOTIFICATION_TOPIC"],
                },
            },
            "ClientConfig": {
                "MaxConcurrentInvocationsPerInstance": settings.concurrent_per_instance
            },
        },
        "Tags": [
            {"Key": "tenantry:workload", "Value": workload.name},
            {"Key": "tenantry:tier", "Value": machines.tier},
        ],
    }
    return {"EndpointConfigName": sagemaker_names.name_of_content(endpoint, request), **request}


def _machine_image(workload: Workload) -> dict[str, Any]:
    """A part of a production variant."""
    chosen = workload.serving.ami_version
    return {} if chosen is None else {"InferenceAmiVersion": chosen}


def asynchronous(workload: Workload) -> Asynchronous:
    """The workload's settings for asynchronous requests. Raises ``NotAsynchronousError``."""
    settings = workload.serving.asynchronous
    if settings is None:
        raise NotAsynchronousError(
            f"workload {workload.name} has no asynchronous endpoint; add serving.asynchronous to "
            f"{workload.name}.yaml"
        )
    return settings


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
    """Make something under a name that says what is in it, unless it is there."""
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
            raise EndpointFailedError(
                f"endpoint {name} is {status}: {described.get('FailureReason', 'no reason given')}"
            )
        if time.monotonic() > deadline:
            raise EndpointFailedError(f"endpoint {name} was still {status} after {timeout:.0f} s")
        time.sleep(pause)
        pause = min(pause * 1.5, 10.0)


def _endpoint(
    described: DescribeEndpointOutputTypeDef, made: Literal["created", "updated", "unchanged"]
) -> Endpoint:
    return Endpoint(
        name=described["EndpointName"],
        arn=described["EndpointArn"],
        status=described["EndpointStatus"],
        config=described["EndpointConfigName"],
        instances=described["ProductionVariants"][0].get("CurrentInstanceCount", 0),
        made=made,
    )


def set_capacity(
    deployment: Deployment, endpoint: str, instances: int, *, timeout: float = 1800.0
) -> Endpoint:
    """Give an endpoint a number of instances and wait until it has them.

    Raises:
        EndpointFailedError: it is not there, the account may not have so many, there were no
            machines, or it did not come back into service.
    """
    before = wait_in_service(deployment, endpoint, timeout=timeout)
    if before["ProductionVariants"][0].get("DesiredInstanceCount") == instances:
        return _endpoint(before, "unchanged")
    desired: Any = [{"VariantName": VARIANT, "DesiredInstanceCount": instances}]
    try:
        deployment.sagemaker.update_endpoint_weights_and_capacities(
            EndpointName=endpoint, DesiredWeightsAndCapacities=desired
        )
    except ClientError as error:
        if error_code(error) == "ResourceLimitExceeded":
            raise EndpointFailedError(
                f"endpoint {endpoint} cannot have {instances} instances: {error}"
            ) from error
        raise
    after = wait_in_service(deployment, endpoint, timeout=timeout)
    variant = after["ProductionVariants"][0]
    if variant.get("DesiredInstanceCount") != instances:
        raise EndpointFailedError(
            f"endpoint {endpoint} still has {variant.get('CurrentInstanceCount')} instances where "
            f"{instances} were wanted;"
            f" the change was rolled back: {after.get('FailureReason', 'no reason given')}"
        )
    return _endpoint(after, "updated")


def invoke(
    deployment: Deployment,
    endpoint: str,
    target_model: str,
    request: Mapping[str, Any] | bytes,
    accept: str = JSON,
) -> Answer:
    """Ask a tenant's model on its endpoint.

    Args:
        deployment: the runtime client.
        endpoint: its name.
        target_model: from ``sagemaker_names.target_model``.
        request: a JSON document, or bytes sent as they are.
        accept: content type of the answer that is asked for.

    Raises:
        InvocationRefusedError: the container refused the request or the archive; its own words are
            in the message.
        EndpointFailedError: there is no such endpoint, or it is not in service.
        EndpointBusyError: it has too much to do, or has not loaded the model, also after it was
            asked again for a while.
        botocore.exceptions.ClientError: anything else.
    """
    body = request if isinstance(request, bytes) else json.dumps(request).encode()
    if len(body) > MAX_PAYLOAD_BYTES:
        raise InvocationRefusedError(
            f"the request has {len(body)} bytes; an endpoint takes at most {MAX_PAYLOAD_BYTES}"
        )
    began, pause = time.monotonic(), 0.2
    while True:
        try:
            answer = deployment.runtime.invoke_endpoint(
                EndpointName=endpoint,
                TargetModel=target_model,
                ContentType=JSON,
                Accept=accept,
                Body=body,
            )
        except ClientError as error:
            code, status = error_code(error), error.response.get("OriginalStatusCode")
            busy = code == "ModelError" and status == 429
            patience = (
                BUSY_SECONDS
                if busy
                else MODEL_LOADING_SECONDS
                if code == "ModelNotReadyException"
                else 0.0
            )
            if time.monotonic() - began < patience:
                time.sleep(pause)
                pause = min(pause * 2, 10.0)
                continue
            if code == "ModelNotReadyException":
                raise EndpointBusyError(
                    f"{target_model} was not loaded within {patience:.0f} s: {error}"
                ) from error
            if code == "ModelError":
                message = str(error.response.get("OriginalMessage") or error)
                if busy or status == 504:
                    raise EndpointBusyError(message) from error
                raise InvocationRefusedError(message) from error
            if code == "ValidationError":
                message = str(error.response["Error"]["Message"])
                if message.startswith(f"Endpoint {endpoint} "):
                    raise EndpointFailedError(message) from error
                raise InvocationRefusedError(message) from error
            raise
        with answer["Body"] as stream:
            content: bytes = stream.read()
        return Answer(content, answer.get("ContentType", ""))
