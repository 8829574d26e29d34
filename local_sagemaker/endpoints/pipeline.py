"""The way of one request through the containers of an instance: each container's answer is the next
one's request.

Sources: docs.aws.amazon.com/sagemaker/latest/dg/inference-pipelines.html ("SageMaker handles
invocations as a sequence of HTTP requests") and …/dg/inference-pipeline-troubleshoot.html.

AWS does not document the headers between containers. Its samples configure the content type that a
container answers with in its environment (SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT), so here only the
last container gets the client's Accept.
"""

from collections.abc import Mapping, Sequence

from local_sagemaker.clock import Clock
from local_sagemaker.endpoints.multi_model import LoadedModels
from local_sagemaker.endpoints.serving_containers import ServingContainer
from local_sagemaker.errors import LocalSageMakerError
from local_sagemaker.http.client import Answer

TARGET_MODEL_HEADER = "x-amzn-sagemaker-target-model"
BETWEEN_LIMIT_BYTES = 5 * 1024 * 1024
"""The largest answer that InvokeEndpoint hands on to the next container
(…/dg/inference-pipeline-troubleshoot.html: "the limit of 5 MB")."""


class AnswerTooLargeError(LocalSageMakerError):
    """A container's answer is too large to be the next one's request; the message is AWS's."""


class Invocation:
    """One invocation of containers, in their order. `models` are those of the multi-model container
    among them, and `target` is the model that the request names.

    `at` is the container that has the request, or had it last. `seconds` are AWS's, by hostname, of
    each container that answered 200.
    """

    def __init__(
        self,
        clock: Clock,
        containers: Sequence[ServingContainer],
        models: LoadedModels | None = None,
        target: str | None = None,
    ) -> None:
        self._clock = clock
        self._containers = containers
        self._models = models
        self._target = target
        self.at = containers[0]
        self.seconds: dict[str, float] = {}

    @property
    def begun(self) -> bool:
        """Whether a container has answered."""
        return bool(self.seconds)

    async def send(
        self, headers: Mapping[str, str], body: bytes, within: float, largest: int | None = None
    ) -> Answer:
        """Send the request. Returns the last container's answer, or the first answer with a status
        other than 200.

        `within` is the time of all containers together, in AWS's seconds. `largest` is the size of
        the largest answer that goes from one container to the next, in bytes. Raises
        AnswerTooLargeError, ContainerUnreachableError and TimeoutError, and for a multi-model
        container LoadRefusedError and ServiceError.
        """
        answer: Answer | None = None
        for container in self._containers:
            if answer is not None:
                if largest is not None and len(answer.body) > largest:
                    raise AnswerTooLargeError(
                        f"Received response from {self.at.spec.hostname} with status code 200. "
                        f"However, the request payload from {self.at.spec.hostname} to "
                        f"{container.spec.hostname} is {len(answer.body)} bytes, which has "
                        f"exceeded the maximum limit of {largest // 1024**2} MB."
                    )
                body = answer.body
            self.at = container
            left = within - sum(self.seconds.values())
            answer, seconds = await self._ask(self._headers(headers, answer), body, left)
            if answer.status != 200:
                return answer
            self.seconds[container.spec.hostname] = seconds
        if answer is None:
            raise RuntimeError("a request without containers")
        return answer

    async def _ask(
        self, headers: dict[str, str], body: bytes, within: float
    ) -> tuple[Answer, float]:
        if self.at.spec.multi_model and self._models is not None and self._target is not None:
            return await self._models.invoke(self._target, headers, body, within)
        sent = self._clock.ticks()
        answer = await self.at.send("/invocations", headers=headers, body=body, within=within)
        return answer, self._clock.ticks() - sent

    def _headers(self, given: Mapping[str, str], before: Answer | None) -> dict[str, str]:
        """The headers for the container that has the request, after the answer `before`."""
        headers = dict(given)
        if before is not None:
            headers.pop("content-type", None)
            if content_type := before.headers.get("content-type"):
                headers["content-type"] = content_type
        if self.at is not self._containers[-1]:
            headers.pop("accept", None)
        if not self.at.spec.multi_model:
            headers.pop(TARGET_MODEL_HEADER, None)
        return headers
