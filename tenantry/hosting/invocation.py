"""Asking a tenant's model for an answer at once, along its route."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError, HTTPClientError

from contracts import variables
from tenantry.aws.objects import error_code
from tenantry.errors import TenantryError
from tenantry.hosting.endpoints import EndpointFailedError
from tenantry.hosting.route import Route
from tenantry.hosting.shapes.catalogue import shape_named
from tenantry.hosting.shapes.shape import RealTimeShape
from tenantry.names import ids

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

# ModelNotReadyException: loading may go on for 360 s; botocore does not retry it.
# https://docs.aws.amazon.com/sagemaker/latest/dg/invoke-multi-model-endpoint.html
MODEL_LOADING_SECONDS: Final = 360.0
# An overloaded container answers 429, and 504 once the time that a request allowed has passed
# (docs/contracts.md).
BUSY_SECONDS: Final = 20.0
JSON: Final = "application/json"
# By these botocore tells that it would have asked again, if it were not for a limit.
_GAVE_UP: Final = frozenset({"MaxAttemptsReached", "RetryQuotaReached"})


class EndpointUnavailableError(EndpointFailedError):
    """The endpoint has no instance for a request: it is missing, it is not in service, or all its
    instances are being replaced."""


class EndpointBusyError(EndpointFailedError):
    """The endpoint has more to do than it takes, or did not answer in the request's time; ask again
    later."""


class InvocationRefusedError(TenantryError, ValueError):
    """The model's container refused the request or the model itself; the message is its answer.

    ``status`` is the container's own, where it answered.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Answer:
    """A model's answer, unchanged.

    ``version`` is the version that answered, where its container says so: one endpoint may serve
    two while it is updated. Else it is None, and the route's version answered.
    """

    content: bytes
    content_type: str
    version: ids.Version | None = None


def invoke(
    deployment: Deployment,
    route: Route,
    request: Mapping[str, Any] | bytes,
    accept: str = JSON,
    *,
    hasty: bool = False,
    patience_seconds: float = MODEL_LOADING_SECONDS,
) -> Answer:
    """Ask a tenant's model, as the route's shape does.

    Args:
        deployment: the runtime client.
        route: whose model, and where.
        request: a JSON document, or bytes sent as they are.
        accept: content type of the answer that is asked for.
        hasty: whether the caller turns elsewhere when the endpoint has no instance. It then learns
            so within seconds, by ``EndpointUnavailableError``.
        patience_seconds: how long a busy endpoint, or one that loads the model, is asked again at
            most.

    Raises:
        InvocationRefusedError: the container refused the request or the archive, with its own words
            in the message; or the route's endpoint does not answer at once.
        EndpointUnavailableError: there is no such endpoint, or it is not in service; with ``hasty``
            also when it has no healthy instance.
        EndpointBusyError: it is overloaded or has not loaded the model, even after repeated
            attempts.
        UnknownShapeError: this release does not know the route's shape.
        botocore.exceptions.ClientError: anything else, as an endpoint without a healthy instance.
    """
    shape = shape_named(route.shape)
    if not isinstance(shape, RealTimeShape):
        raise InvocationRefusedError(
            f"endpoint {route.endpoint} does not answer at once; ask it with TenantClient.submit"
        )
    asked, most = shape.address(route, request), shape.limits.max_payload_bytes
    if len(asked.body) > most:
        raise InvocationRefusedError(
            f"the request has {len(asked.body)} bytes; an endpoint takes at most {most}"
        )
    arguments = {
        "EndpointName": route.endpoint,
        "ContentType": JSON,
        "Accept": accept,
        "Body": asked.body,
        **asked.arguments,
    }
    began, pause = time.monotonic(), 0.2
    while True:
        try:
            answer = _send(deployment, arguments, hasty=hasty)
        except ClientError as error:
            code, status = error_code(error), error.response.get("OriginalStatusCode")
            busy = code == "ModelError" and status == 429
            patience = (
                min(BUSY_SECONDS, patience_seconds)
                if busy
                else min(MODEL_LOADING_SECONDS, patience_seconds)
                if code == "ModelNotReadyException"
                else 0.0
            )
            if time.monotonic() - began < patience:
                time.sleep(pause)
                pause = min(pause * 2, 10.0)
                continue
            if code == "ModelNotReadyException":
                raise EndpointBusyError(
                    f"{route.target_model} was not loaded within {patience:.0f} s: {error}"
                ) from error
            if code == "ModelError":
                message = str(error.response.get("OriginalMessage") or error)
                if busy or status == 504:
                    raise EndpointBusyError(message) from error
                raise InvocationRefusedError(
                    message, status if isinstance(status, int) else None
                ) from error
            if code == "ValidationError":
                raise not_taken(error, route.endpoint) from error
            if hasty and _is_unavailable(error):
                raise EndpointUnavailableError(
                    f"endpoint {route.endpoint} has no instance for the request: {error}"
                ) from error
            raise
        with answer["Body"] as stream:
            content: bytes = stream.read()
        said = answer.get("CustomAttributes", "")
        return Answer(content, answer.get("ContentType", ""), _version_in(said))


def _version_in(attributes: str) -> ids.Version | None:
    """The version that a container of one model says it serves."""
    name, _, version = attributes.partition("=")
    if name != variables.VERSION_ATTRIBUTE:
        return None
    try:
        return ids.version_name(version)
    except ids.InvalidIdError:
        return None


def _send(deployment: Deployment, arguments: dict[str, Any], *, hasty: bool) -> Any:
    """SageMaker's answer. Only an unavailable endpoint ends it early: for throttling and lost
    connections there is all the time that others have."""
    if hasty:
        try:
            return deployment.hasty_runtime.invoke_endpoint(**arguments)
        except HTTPClientError:
            pass
        except ClientError as error:
            would_be_retried = _GAVE_UP & error.response["ResponseMetadata"].keys()
            if _is_unavailable(error) or not would_be_retried:
                raise
    return deployment.runtime.invoke_endpoint(**arguments)


def _is_unavailable(error: ClientError) -> bool:
    """Whether it is a ServiceUnavailable, which is how an endpoint without a healthy instance
    answers."""
    return error.response["ResponseMetadata"]["HTTPStatusCode"] == HTTPStatus.SERVICE_UNAVAILABLE


def not_taken(
    error: ClientError, endpoint: str
) -> EndpointUnavailableError | InvocationRefusedError:
    """The meaning of a ``ValidationError`` of SageMaker's runtime. One that begins with the
    endpoint's name says that the endpoint is missing or not in service. Any other is about the
    request."""
    message = str(error.response.get("Error", {}).get("Message", error))
    if message.startswith(f"Endpoint {endpoint} "):
        return EndpointUnavailableError(message)
    return InvocationRefusedError(message)
