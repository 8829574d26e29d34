"""InvokeEndpoint: passes a request to the container or the pipeline that answers it.

Sources: docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_InvokeEndpoint.html,
…/dg/your-algorithms-inference-code.html (60 seconds), …/dg/invoke-multi-model-endpoint.html,
…/dg/multi-container-direct.html (what is refused) and …/dg/inference-pipeline-troubleshoot.html
(an error names its container).
"""

from typing import Any

from local_sagemaker.account.billing import BYTES_PER_GB, DATA_IN, DATA_OUT, REQUESTS, Item
from local_sagemaker.account.cloud import Cloud
from local_sagemaker.endpoints.endpoints import Endpoints
from local_sagemaker.endpoints.fleet import LOG_GROUP, RESPONSE_TIMEOUT_SECONDS, Variant
from local_sagemaker.endpoints.multi_model import LoadRefusedError
from local_sagemaker.endpoints.pipeline import (
    BETWEEN_LIMIT_BYTES,
    TARGET_MODEL_HEADER,
    AnswerTooLargeError,
    Invocation,
)
from local_sagemaker.endpoints.shadows import Shadows
from local_sagemaker.endpoints.traffic import any_variant, named_variant
from local_sagemaker.errors import ServiceError
from local_sagemaker.http.client import Answer, ContainerUnreachableError

PAYLOAD_LIMIT_BYTES = 6_291_456
_CALLERS_FAULTS = ("ValidationError", "ModelNotReadyException", "ThrottlingException")
_FORWARDED = (
    ("ContentType", "content-type"),
    ("Accept", "accept"),
    ("CustomAttributes", "x-amzn-sagemaker-custom-attributes"),
    ("TargetModel", TARGET_MODEL_HEADER),
    ("InferenceId", "x-amzn-sagemaker-inference-id"),
)


class Invocations:
    """Answers InvokeEndpoint."""

    def __init__(self, cloud: Cloud, endpoints: Endpoints) -> None:
        self._cloud = cloud
        self._endpoints = endpoints
        self._shadows = Shadows(cloud.clock, self._ask)

    async def invoke(self, params: dict[str, Any]) -> dict[str, Any]:
        """InvokeEndpoint. Raises ServiceError: ValidationError, ModelError, ModelNotReadyException,
        ServiceUnavailable."""
        variant = self._variant(params["EndpointName"], params.get("TargetVariant"))
        fleet = self._endpoints.fleet_of(params["EndpointName"], variant)
        answer = await self._shadows.asked(variant, fleet, params)
        result = {
            "Body": answer.body,
            "ContentType": answer.headers.get("content-type", "application/octet-stream"),
            "InvokedProductionVariant": variant.name,
        }
        if attributes := answer.headers.get("x-amzn-sagemaker-custom-attributes"):
            result["CustomAttributes"] = attributes
        return result

    async def _ask(self, variant: Variant, params: dict[str, Any]) -> Answer:
        """The variant's answer to a request, whose metrics are recorded. Raises ServiceError."""
        started = self._cloud.clock.ticks()
        hostname = _target_container(variant, params.get("TargetContainerHostname"))
        target = _target_model(variant, params.get("TargetModel"))

        def record(name: str, value: float, unit: str = "None") -> None:
            """One value for the variant, and for the container that the request names."""
            variant.record(name, value, unit)
            if hostname is not None:
                variant.record(name, value, unit, container=hostname)

        record("Invocations", 1.0)
        variant.record("InvocationsPerInstance", 1.0 / max(len(variant.serving), 1))
        headers = {name: params[member] for member, name in _FORWARDED if member in params}
        failed = ""
        invocation: Invocation | None = None
        answer: Answer | None = None
        try:
            _check_size(variant, params["Body"])
            async with variant.taken(target) as instance:
                invocation = Invocation(
                    self._cloud.clock,
                    [one for one in instance.containers if hostname in (None, one.spec.hostname)],
                    variant.models.get(instance.id),
                    target,
                )
                answer = await _send(invocation, params["EndpointName"], headers, params["Body"])
            self._bill_data(variant, params, answer)
        except ServiceError as error:
            failed = "4" if error.code in _CALLERS_FAULTS else "5"
            original = error.fields.get("OriginalStatusCode")
            failed = str(original)[0] if original else failed
            raise
        finally:
            # The wait for a model's load is overhead, because ModelLatency is only the containers'
            # time for the request.
            in_containers = invocation.seconds if invocation else {}
            in_model = sum(in_containers.values())
            overhead = self._cloud.clock.ticks() - started - in_model
            if answer is not None:
                variant.record("ModelLatency", in_model * 1e6, "Microseconds")
            record("OverheadLatency", overhead * 1e6, "Microseconds")
            record("Invocation4XXErrors", 1.0 if failed == "4" else 0.0)
            record("Invocation5XXErrors", 1.0 if failed == "5" else 0.0)
            if len(variant.spec.containers) > 1:
                for name, seconds in in_containers.items():
                    variant.record(
                        "ContainerLatency", seconds * 1e6, "Microseconds", container=name
                    )
        return answer

    def _bill_data(self, variant: Variant, params: dict[str, Any], answer: Answer) -> None:
        """Count the data of an answered request, and refuse an answer that is too large."""
        arn, usage = self._cloud.arn("endpoint", params["EndpointName"]), variant.data_usage
        for what, unit, quantity in (
            (REQUESTS, "request", 1.0),
            (DATA_IN, "GB", len(params["Body"]) / BYTES_PER_GB),
            (DATA_OUT, "GB", len(answer.body) / BYTES_PER_GB),
        ):
            self._cloud.meter.count(Item(what, usage, "", unit, arn), quantity)
        limit = variant.payload_limit
        if limit is not None and len(answer.body) > limit:
            where = f"See {LOG_GROUP}/{params['EndpointName']} in CloudWatch Logs."
            message = f"The response has {len(answer.body)} bytes, more than the {limit} of AWS"
            raise _model_error("model", 0, message, where)

    def _variant(self, endpoint: str, target_variant: str | None) -> Variant:
        fleet = self._endpoints.fleet(endpoint)
        if fleet is None:
            if self._endpoints.get(endpoint) is not None:
                raise _refused(
                    f"Endpoint {endpoint} of account {self._cloud.settings.account_id} is not in "
                    f"service."
                )
            raise _refused(
                f"Endpoint {endpoint} of account {self._cloud.settings.account_id} not found."
            )
        if self._endpoints.queue(endpoint) is not None:
            raise _refused(
                f"Endpoint {endpoint} of account {self._cloud.settings.account_id} has an "
                f"AsyncInferenceConfig and takes asynchronous "
                "invocations only. Use InvokeEndpointAsync."
            )
        shift = self._endpoints.shift(endpoint)
        if target_variant is not None:
            named = named_variant(fleet, shift, target_variant)
            if named is None:
                raise _refused(f"Variant {target_variant} of endpoint {endpoint} not found.")
            return named
        drawn = any_variant(fleet, shift)
        if drawn is None:
            raise _refused(f"No variant of endpoint {endpoint} has a weight above zero.")
        return drawn


async def _send(
    invocation: Invocation, endpoint: str, headers: dict[str, str], body: bytes
) -> Answer:
    """The answer of an invocation. Raises ServiceError: ModelError, and what a model's load
    raises."""
    where = f"See {LOG_GROUP}/{endpoint} in CloudWatch Logs for more information."

    def model_error(status: int, message: str) -> ServiceError:
        return _model_error(invocation.at.spec.hostname, status, message, where)

    try:
        answer = await invocation.send(headers, body, RESPONSE_TIMEOUT_SECONDS, BETWEEN_LIMIT_BYTES)
    except LoadRefusedError as refusal:
        raise model_error(refusal.answer.status, refusal.answer.text) from refusal
    except TimeoutError as error:
        message = (
            f"Your invocation timed out while waiting for a response from container "
            f"{invocation.at.spec.hostname}."
        )
        raise model_error(0, message) from error
    except AnswerTooLargeError as error:
        raise ServiceError("ModelError", f"{error} {where}", 424) from error
    except ContainerUnreachableError as error:
        raise model_error(0, f"The container did not answer: {error}") from error
    if answer.status != 200:
        raise model_error(answer.status, answer.text)
    return answer


def _check_size(variant: Variant, body: bytes) -> None:
    limit = variant.payload_limit
    if limit is not None and len(body) > limit:
        raise _refused(f"The request body has more than {limit} bytes")


def _target_container(variant: Variant, hostname: str | None) -> str | None:
    """The container that a request names. Raises ValidationError where it may not name one, or
    must."""
    if not variant.spec.direct:
        if hostname is not None:
            raise _refused(
                "TargetContainerHostname is only valid for an endpoint that is configured for "
                "direct invocation."
            )
        return None
    if hostname is None:
        raise _refused(
            "This endpoint is configured for direct invocation; TargetContainerHostname is "
            "required."
        )
    known = [container.hostname for container in variant.spec.containers]
    if hostname not in known:
        raise _refused(
            f"TargetContainerHostname {hostname} does not exist in the endpoint, which has "
            f"{', '.join(known)}."
        )
    return hostname


def _target_model(variant: Variant, target: str | None) -> str | None:
    """The model that a request names. Raises ValidationError where it may not name one, or must."""
    multi_model = variant.spec.multi_model
    if multi_model and target is None:
        raise _refused("This is a multi-model endpoint; TargetModel is required.")
    if not multi_model and target is not None:
        raise _refused("TargetModel is only valid for a multi-model endpoint.")
    return multi_model.model(target) if multi_model and target is not None else None


def _refused(message: str) -> ServiceError:
    return ServiceError("ValidationError", message)


def _model_error(hostname: str, status: int, message: str, where: str) -> ServiceError:
    side = "client" if 400 <= status < 500 else "server"
    return ServiceError(
        "ModelError",
        f'Received {side} error ({status}) from {hostname} with message "{message[:2000]}". '
        f"{where}",
        424,
        OriginalStatusCode=status,
        OriginalMessage=message[:20_000],
    )
