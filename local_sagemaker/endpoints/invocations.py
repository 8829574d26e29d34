"""InvokeEndpoint: passes a request to the container that answers it.

Sources: docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_InvokeEndpoint.html,
…/dg/your-algorithms-inference-code.html (60 seconds) and …/dg/invoke-multi-model-endpoint.html.
"""

import random
from typing import Any

from local_sagemaker.account.cloud import Cloud
from local_sagemaker.endpoints.endpoints import Endpoints
from local_sagemaker.endpoints.fleet import LOG_GROUP, RESPONSE_TIMEOUT_SECONDS, Variant
from local_sagemaker.endpoints.instances import Instance
from local_sagemaker.endpoints.multi_model import LoadRefusedError
from local_sagemaker.errors import ServiceError
from local_sagemaker.http.client import Answer, ContainerUnreachableError

PAYLOAD_LIMIT_BYTES = 6_291_456
_FORWARDED = (
    ("ContentType", "content-type"),
    ("Accept", "accept"),
    ("CustomAttributes", "x-amzn-sagemaker-custom-attributes"),
    ("TargetModel", "x-amzn-sagemaker-target-model"),
    ("InferenceId", "x-amzn-sagemaker-inference-id"),
)


class Invocations:
    """Answers InvokeEndpoint."""

    def __init__(self, cloud: Cloud, endpoints: Endpoints) -> None:
        self._cloud = cloud
        self._endpoints = endpoints

    async def invoke(self, params: dict[str, Any]) -> dict[str, Any]:
        """InvokeEndpoint. Raises ServiceError: ValidationError, ModelError, ModelNotReadyException,
        ServiceUnavailable."""
        started = self._cloud.clock.ticks()
        variant = self._variant(params["EndpointName"], params.get("TargetVariant"))
        target = params.get("TargetModel")
        if variant.spec.multi_model and target is None:
            raise _refused("This is a multi-model endpoint; TargetModel is required.")
        if not variant.spec.multi_model and target is not None:
            raise _refused("TargetModel is only valid for a multi-model endpoint.")
        target = variant.spec.model(target) if target is not None else None
        variant.record("Invocations", 1.0)
        variant.record("InvocationsPerInstance", 1.0 / max(len(variant.instances), 1))
        headers = {name: params[member] for member, name in _FORWARDED if member in params}
        failed = ""
        in_container = 0.0
        try:
            answer, in_container = await self._send(
                variant, params["EndpointName"], target, headers, params["Body"]
            )
        except ServiceError as error:
            failed = "4" if error.code in ("ValidationError", "ModelNotReadyException") else "5"
            original = error.fields.get("OriginalStatusCode")
            failed = str(original)[0] if original else failed
            raise
        finally:
            # The wait for a model's load is overhead, because ModelLatency is only the container's
            # time for the request.
            overhead = self._cloud.clock.ticks() - started - in_container
            if in_container:
                variant.record("ModelLatency", in_container * 1e6, "Microseconds")
            variant.record("OverheadLatency", overhead * 1e6, "Microseconds")
            variant.record("Invocation4XXErrors", 1.0 if failed == "4" else 0.0)
            variant.record("Invocation5XXErrors", 1.0 if failed == "5" else 0.0)
        result = {
            "Body": answer.body,
            "ContentType": answer.headers.get("content-type", "application/octet-stream"),
            "InvokedProductionVariant": variant.name,
        }
        if attributes := answer.headers.get("x-amzn-sagemaker-custom-attributes"):
            result["CustomAttributes"] = attributes
        return result

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
        if target_variant is not None:
            if target_variant not in fleet:
                raise _refused(f"Variant {target_variant} of endpoint {endpoint} not found.")
            return fleet[target_variant]
        variants = list(fleet.values())
        if len(variants) == 1:
            return variants[0]
        weights = [variant.document["CurrentWeight"] for variant in variants]
        if not any(weights):
            raise _refused(f"No variant of endpoint {endpoint} has a weight above zero.")
        return random.choices(variants, weights)[0]  # noqa: S311 - sharing traffic is no secret

    async def _send(
        self,
        variant: Variant,
        endpoint: str,
        target: str | None,
        headers: dict[str, str],
        body: bytes,
    ) -> tuple[Answer, float]:
        instance: Instance = variant.choose(target)
        where = f"See {LOG_GROUP}/{endpoint} in CloudWatch Logs for more information."
        try:
            with instance:
                if target is None:
                    sent = self._cloud.clock.ticks()
                    answer = await instance.send(
                        "/invocations", headers=headers, body=body, within=RESPONSE_TIMEOUT_SECONDS
                    )
                    seconds = self._cloud.clock.ticks() - sent
                else:
                    models = variant.models[instance.id]
                    answer, seconds = await models.invoke(
                        target, headers, body, RESPONSE_TIMEOUT_SECONDS
                    )
        except LoadRefusedError as refusal:
            raise _model_error(refusal.answer.status, refusal.answer.text, where) from refusal
        except TimeoutError as error:
            raise _model_error(
                0,
                "Your invocation timed out while waiting for a response from container primary.",
                where,
            ) from error
        except ContainerUnreachableError as error:
            raise _model_error(0, f"The container did not answer: {error}", where) from error
        if answer.status != 200:
            raise _model_error(answer.status, answer.text, where)
        return answer, seconds


def _refused(message: str) -> ServiceError:
    return ServiceError("ValidationError", message)


def _model_error(status: int, message: str, where: str) -> ServiceError:
    side = "client" if 400 <= status < 500 else "server"
    return ServiceError(
        "ModelError",
        f'Received {side} error ({status}) from primary with message "{message[:2000]}". {where}',
        424,
        OriginalStatusCode=status,
        OriginalMessage=message[:20_000],
    )
