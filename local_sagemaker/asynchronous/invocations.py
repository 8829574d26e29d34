"""InvokeEndpointAsync: checks and queues a request, and answers with the future locations of its
result.

Source: docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_InvokeEndpointAsync.html.
"""

import uuid
from typing import Any

from local_sagemaker.account.cloud import Cloud
from local_sagemaker.account.storage import DataError, S3Location
from local_sagemaker.asynchronous.queue import AsyncRequest
from local_sagemaker.endpoints.endpoints import Endpoints
from local_sagemaker.errors import ServiceError

INLINE_BODY_LIMIT_BYTES = 128_000
DEFAULT_TTL_SECONDS = 21_600
DEFAULT_TIMEOUT_SECONDS = 900


class AsyncInvocations:
    """Answers InvokeEndpointAsync."""

    def __init__(self, cloud: Cloud, endpoints: Endpoints) -> None:
        self._cloud = cloud
        self._endpoints = endpoints

    async def invoke(self, params: dict[str, Any]) -> dict[str, Any]:
        """InvokeEndpointAsync. Raises ServiceError: ValidationError."""
        endpoint = params["EndpointName"]
        queue = self._endpoints.queue(endpoint)
        output = self._output_config(endpoint)
        if queue is None or output is None:
            raise _refused(
                f"Endpoint {self._named(endpoint)} has no AsyncInferenceConfig. Use InvokeEndpoint."
            )
        body, location = params.get("Body") or None, params.get("InputLocation")
        if (body is None) == (location is None):
            raise _refused("Exactly one of InputLocation and Body must be given")
        _check_input(location)
        request_id = str(uuid.uuid4())
        request = AsyncRequest(
            id=request_id,
            endpoint=endpoint,
            inference_id=params.get("InferenceId") or str(uuid.uuid4()),
            received=self._cloud.clock.now(),
            ttl_seconds=params.get("RequestTTLSeconds", DEFAULT_TTL_SECONDS),
            timeout_seconds=params.get("InvocationTimeoutSeconds", DEFAULT_TIMEOUT_SECONDS),
            input_location=location,
            body=body,
            content_type=params.get("ContentType"),
            accept=params.get("Accept"),
            custom_attributes=params.get("CustomAttributes"),
            output_location=_output_location(output, params, request_id),
            failure_location=_below(output.get("S3FailurePath"), f"{request_id}-error.out"),
        )
        queue.accept(request)
        answer = {
            "InferenceId": request.inference_id,
            "OutputLocation": request.output_location,
            "FailureLocation": request.failure_location,
        }
        return {name: value for name, value in answer.items() if value is not None}

    def _output_config(self, endpoint: str) -> dict[str, Any] | None:
        """The OutputConfig of an endpoint that accepts requests, or None if the endpoint is not
        asynchronous. Raises ValidationError."""
        described = self._endpoints.get(endpoint)
        if described is None:
            raise _refused(f"Endpoint {self._named(endpoint)} not found.")
        if described["EndpointStatus"] not in ("InService", "Updating", "SystemUpdating"):
            raise _refused(f"Endpoint {self._named(endpoint)} is not in service.")
        config: dict[str, Any] | None = described.get("AsyncInferenceConfig")
        return config["OutputConfig"] if config else None

    def _named(self, endpoint: str) -> str:
        return f"{endpoint} of account {self._cloud.settings.account_id}"


def _output_location(output: dict[str, Any], params: dict[str, Any], request_id: str) -> str | None:
    """The future location of the response.

    Each request gets a unique name, also where the client gives the same InferenceId twice. AWS's
    name differs from the request's id as well.
    """
    folder = _below(output.get("S3OutputPath"), params.get("S3OutputPathExtension", "").strip("/"))
    return _below(folder, params.get("Filename") or f"{request_id}.out")


def _below(path: str | None, name: str) -> str | None:
    if path is None or not name:
        return path
    return S3Location.parse(path).child(name).uri


def _check_input(location: str | None) -> None:
    if location is None:
        return
    try:
        parsed = S3Location.parse(location)
    except DataError as error:
        raise _refused(f"InputLocation: {error}") from error
    if not parsed.key:
        raise _refused(f"InputLocation {location} names no object")


def _refused(message: str) -> ServiceError:
    return ServiceError("ValidationError", message)
