"""The queue of an asynchronous endpoint: requests wait for a free place on an instance, and their
results go to S3 and SNS.

Sources: docs.aws.amazon.com/sagemaker/latest/dg/async-inference.html and its sub-pages
…/async-inference-autoscale.html (requests wait while there are zero instances),
…/async-inference-check-predictions.html and …/async-inference-monitor.html (metrics and logs).

A request is on disk from before its 202 until its result is delivered. If the emulator dies, it
later processes unfinished requests again, into the same objects. A message can arrive twice only if
a SIGKILL comes between publishing the message and deleting its request. SNS permits that as well.
"""

import asyncio
import base64
import contextlib
import logging
from collections import OrderedDict
from dataclasses import dataclass
from typing import IO, cast

from botocore.exceptions import BotoCoreError, ClientError

from local_sagemaker.account.cloud import Cloud
from local_sagemaker.account.state import Document, Store
from local_sagemaker.account.storage import DataError, S3Location
from local_sagemaker.asynchronous.bodies import Bodies, size_of
from local_sagemaker.asynchronous.notifications import (
    INCLUDED_BODY_LIMIT_BYTES,
    NotificationConfig,
    result_notification,
)
from local_sagemaker.clock import MACHINE
from local_sagemaker.endpoints.fleet import Variant
from local_sagemaker.endpoints.instances import Instance
from local_sagemaker.endpoints.pipeline import Invocation
from local_sagemaker.endpoints.traffic import Shift
from local_sagemaker.faults.plan import Subject
from local_sagemaker.http.client import (
    Answer,
    ContainerNotListeningError,
    ContainerUnreachableError,
    FileBody,
)
from local_sagemaker.monitoring.endpoint_metrics import Metrics

_log = logging.getLogger(__name__)
KIND = "async-request"
LONGEST_INVOCATION_SECONDS = 3_600.0
_DEFAULT_CONCURRENCY = 4
"""AWS "chooses an optimal value" without naming it; this is the value of its guide's examples."""
_REST_SECONDS = 0.5
_DELIVERY_SECONDS_AT_END = 10.0
_LOGS = "See the SageMaker Endpoint logs in your account for more information."


@dataclass(frozen=True)
class AsyncRequest:
    """One accepted request. Either `input_location` or `body` is given; locations are S3 URIs,
    `received` is in seconds since 1970."""

    id: str
    endpoint: str
    inference_id: str
    received: float
    ttl_seconds: int
    timeout_seconds: int
    input_location: str | None = None
    body: bytes | None = None
    content_type: str | None = None
    accept: str | None = None
    custom_attributes: str | None = None
    output_location: str | None = None
    failure_location: str | None = None

    def document(self) -> Document:
        """The document on disk."""
        kept = {name: value for name, value in vars(self).items() if value is not None}
        return kept | (
            {"body": base64.b64encode(self.body).decode()} if self.body is not None else {}
        )

    @classmethod
    def parse(cls, document: Document) -> "AsyncRequest":
        """From `document()`."""
        body = document.get("body")
        return cls(**(document | ({"body": base64.b64decode(body)} if body is not None else {})))

    @property
    def headers(self) -> dict[str, str]:
        """The headers that the container receives."""
        headers = {
            "content-type": self.content_type,
            "accept": self.accept,
            "x-amzn-sagemaker-custom-attributes": self.custom_attributes,
            "x-amzn-sagemaker-inference-id": self.inference_id,
        }
        return {name: value for name, value in headers.items() if value is not None}


@dataclass(frozen=True)
class Outcome:
    """How a request ended. `failure` is the reason for the client; `body` is a file with the
    container's answer, also with an error status."""

    failure: str | None = None
    body: IO[bytes] | None = None
    content_type: str | None = None


def forget_requests(store: Store, endpoint: str) -> None:
    """Drop a deleted endpoint's unanswered requests."""
    for name, document in store.all(KIND):
        if document["endpoint"] == endpoint:
            store.delete(KIND, name)


class RequestQueue:
    """The requests of one asynchronous endpoint, oldest first, including those in the state folder.

    `variant_name` is the endpoint's only variant, `async_config` its AsyncInferenceConfig.
    """

    def __init__(
        self,
        cloud: Cloud,
        metrics: Metrics,
        endpoint: str,
        variant_name: str,
        async_config: Document,
    ) -> None:
        self._cloud = cloud
        self._clock = cloud.clock
        self._metrics = metrics
        self._endpoint = endpoint
        self._variant_name = variant_name
        self._bodies = Bodies(cloud)
        self._configure(async_config)
        self._variant: Variant | None = None
        self._shift: Shift | None = None
        self._unfinished: dict[str, AsyncRequest] = {}
        self._waiting: OrderedDict[str, AsyncRequest] = OrderedDict()
        self._expiries: dict[str, asyncio.TimerHandle] = {}
        self._resting: set[str] = set()
        self._processing: set[asyncio.Task[None]] = set()
        self._deliveries: set[asyncio.Task[None]] = set()
        self._closed = False
        for _, document in cloud.store.all(KIND):
            if document["endpoint"] == endpoint:
                self._enqueue(AsyncRequest.parse(document))

    @property
    def size(self) -> int:
        """Requests that wait or are processed; AWS's ApproximateBacklogSize."""
        return len(self._unfinished)

    def accept(self, request: AsyncRequest) -> None:
        """Accept a request; it is on disk when this returns."""
        self._cloud.store.put(KIND, request.id, request.document())
        self._enqueue(request)
        self.dispatch()

    def share(self, shift: Shift | None) -> None:
        """From now on the two fleets of an update process the waiting requests, or with None only
        the variant that served before."""
        self._shift = shift
        self.dispatch()

    def serve(self, variant: Variant, async_config: Document) -> None:
        """From now on this variant processes the waiting requests, with this configuration."""
        self._variant, self._shift = variant, None
        self._variant_name = variant.name
        self._configure(async_config)
        self.dispatch()

    def dispatch(self) -> None:
        """Give waiting requests to instances with a free place."""
        while self._waiting and not self._closed:
            instance = self._free_instance()
            if instance is None:
                return
            request_id, request = self._waiting.popitem(last=False)
            self._expiries.pop(request_id).cancel()
            place = contextlib.ExitStack()
            place.enter_context(instance)  # now, because the task begins later
            task = asyncio.create_task(self._process(request, instance, place))
            self._processing.add(task)
            task.add_done_callback(self._processing.discard)

    def record_backlog(self) -> None:
        """One sample of the metrics that scaling uses.

        Without instances the backlog per instance is the whole backlog. A target for it can
        therefore be exceeded at zero instances too, as …/dg/async-inference-autoscale.html says.
        """
        instances = sum(len(variant.serving) for variant in self._variants())
        oldest = next(iter(self._unfinished.values()), None)
        for name, value, unit in (
            ("ApproximateBacklogSize", self.size, "Count"),
            ("ApproximateBacklogSizePerInstance", self.size / max(instances, 1), "Count"),
            (
                "ApproximateAgeOfOldestRequest",
                self._clock.since(oldest.received) if oldest else 0.0,
                "Seconds",
            ),
            ("HasBacklogWithoutCapacity", 1.0 if self.size and not instances else 0.0, "Count"),
        ):
            self._metrics.record(self._endpoint, None, name, value, unit)

    async def close(self) -> None:
        """Stop processing, and deliver the finished results. The other requests stay on disk."""
        self._closed = True
        for expiry in self._expiries.values():
            expiry.cancel()
        for task in self._processing:
            task.cancel()
        await asyncio.gather(*self._processing, return_exceptions=True)
        if self._deliveries:
            _, late = await asyncio.wait(self._deliveries, timeout=_DELIVERY_SECONDS_AT_END)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _configure(self, async_config: Document) -> None:
        client = async_config.get("ClientConfig", {})
        self._concurrency: int = client.get(
            "MaxConcurrentInvocationsPerInstance", _DEFAULT_CONCURRENCY
        )
        self._notifications = NotificationConfig.parse(async_config)

    def _record(self, name: str, value: float, unit: str, container: str | None = None) -> None:
        self._metrics.record(
            self._endpoint, self._variant_name, name, value, unit, container=container
        )

    def _enqueue(self, request: AsyncRequest) -> None:
        self._unfinished[request.id] = request
        self._waiting[request.id] = request
        left = request.ttl_seconds - self._clock.since(request.received)
        self._expiries[request.id] = self._clock.call_later(max(left, 0.0), self._expire, request)

    def _expire(self, request: AsyncRequest) -> None:
        del self._waiting[request.id], self._expiries[request.id]
        self._record("ExpiredRequests", 1.0, "Count")
        reason = (
            f"The request waited in the queue for longer than its RequestTTLSeconds, "
            f"{request.ttl_seconds}."
        )
        self._finish(request, Outcome(f"ClientError: {reason}"))

    def _variants(self) -> list[Variant]:
        if self._variant is None:
            return []
        return self._shift.in_turn(self._variant_name) if self._shift else [self._variant]

    def _free_instance(self) -> Instance | None:
        for variant in self._variants():
            free = [
                instance
                for instance in variant.serving
                if instance.in_flight < self._concurrency and instance.id not in self._resting
            ]
            if free:
                return min(free, key=lambda instance: instance.in_flight)
        return None

    async def _process(
        self, request: AsyncRequest, instance: Instance, place: contextlib.ExitStack
    ) -> None:
        waited = self._clock.since(request.received)
        try:
            with place:
                outcome = await self._invoke(request, instance)
        except ContainerNotListeningError:
            # The container died before it saw the request. The request therefore goes to another
            # instance or to the replacement.
            if self._closed:
                return
            self._resting.add(instance.id)
            MACHINE.call_later(_REST_SECONDS, self._rested, instance.id)
            self._enqueue(request)
            self._waiting.move_to_end(request.id, last=False)
        # Log the error, and make it the request's result.
        except Exception as error:  # noqa: BLE001
            _log.exception("asynchronous request %s", request.id)
            self._finish(request, Outcome(f"InternalServerError: {type(error).__name__}: {error}"))
        else:
            self._record("TimeInBacklog", waited * 1e6, "Microseconds")
            self._record("InvocationsProcessed", 1.0, "Count")
            self._finish(request, outcome)
        finally:
            self.dispatch()

    def _rested(self, instance_id: str) -> None:
        self._resting.discard(instance_id)
        self.dispatch()

    async def _invoke(self, request: AsyncRequest, instance: Instance) -> Outcome:
        """Raises ContainerNotListeningError when no container can have seen the request."""
        try:
            body = await self._payload(request)
        except (DataError, OSError, ClientError, BotoCoreError) as error:
            self._record("RequestDownloadFailures", 1.0, "Count")
            reason = (
                f"Failed to download the request payload from {request.input_location}: {error}"
            )
            instance.log_request(request.inference_id, reason)
            return Outcome(f"ClientError: {reason}")
        with body, contextlib.ExitStack() as closed_on_error:
            kept = closed_on_error.enter_context(self._bodies.file())
            outcome = await self._ask(request, instance, body, kept)
            if outcome.body is not None:
                closed_on_error.pop_all()
            return outcome

    async def _ask(
        self, request: AsyncRequest, instance: Instance, body: IO[bytes], kept: IO[bytes]
    ) -> Outcome:
        """Send the request to the instance; the file `kept` becomes the answer's body."""
        answer, said = None, ""
        sent = self._clock.ticks()
        invocation = Invocation(self._clock, instance.containers)
        try:
            answer = await self._send(instance, invocation, request, body, kept)
        except TimeoutError:
            said = (
                f"Your invocation timed out while waiting for a response from container "
                f"{invocation.at.spec.hostname}."
            )
        except ContainerUnreachableError as error:
            if isinstance(error, ContainerNotListeningError) and not invocation.begun:
                raise
            said = str(error)
        status = answer.status if answer else 0
        if len(instance.containers) > 1:
            for hostname, seconds in invocation.seconds.items():
                self._record("ContainerLatency", seconds * 1e6, "Microseconds", hostname)
        self._record("ModelLatency", (self._clock.ticks() - sent) * 1e6, "Microseconds")
        self._record("Invocation4XXErrors", 1.0 if 400 <= status < 500 else 0.0, "None")
        self._record(
            "Invocation5XXErrors", 1.0 if status != 200 and not 400 <= status < 500 else 0.0, "None"
        )
        if answer is not None and status == 200:
            return Outcome(None, kept, answer.headers.get("content-type"))
        side = "client" if 400 <= status < 500 else "server"
        if answer is not None:
            kept.seek(0)
            said = kept.read(2000).decode(errors="replace")
        instance.log_request(
            request.inference_id,
            f"Received {side} error ({status}) from {invocation.at.spec.hostname} with message "
            f'"{said}"',
        )
        reason = f"ClientError: Received {side} error ({status}) from model. {_LOGS}"
        if answer is None:
            return Outcome(reason)
        return Outcome(reason, kept, answer.headers.get("content-type"))

    async def _send(
        self,
        instance: Instance,
        invocation: Invocation,
        request: AsyncRequest,
        body: IO[bytes],
        kept: IO[bytes],
    ) -> Answer:
        """The last container's answer, with its body in `kept`. Raises as `Invocation.send`."""
        within = request.timeout_seconds
        if len(instance.containers) > 1:
            # What one container answers becomes the next one's request, from memory.
            answer = await invocation.send(request.headers, body.read(), within)
            kept.write(answer.body)
            return answer
        limit = self._cloud.settings.async_payload_bytes
        content = FileBody(body, size_of(body), kept, limit)
        # An invocation of one container hands the body on to the client as it is.
        return await invocation.send(request.headers, cast(bytes, content), within)

    async def _payload(self, request: AsyncRequest) -> IO[bytes]:
        if request.input_location is None:
            return self._bodies.holding(request.body or b"")
        started = self._clock.ticks()
        location = S3Location.parse(request.input_location)
        body = await asyncio.to_thread(self._bodies.read, location)
        self._record(
            "RequestDownloadLatency", (self._clock.ticks() - started) * 1e6, "Microseconds"
        )
        return body

    def _finish(self, request: AsyncRequest, outcome: Outcome) -> None:
        task = asyncio.create_task(self._deliver(request, outcome))
        self._deliveries.add(task)
        task.add_done_callback(self._deliveries.discard)

    async def _deliver(self, request: AsyncRequest, outcome: Outcome) -> None:
        with outcome.body or contextlib.nullcontext():
            outcome = await self._upload(request, outcome)
            if outcome.failure is not None:
                self._record("InvocationFailures", 1.0, "Count")
            await self._notify(request, outcome)
        self._cloud.store.delete(KIND, request.id)
        self._unfinished.pop(request.id)
        seconds = self._clock.since(request.received)
        self._record("TotalProcessingTime", seconds * 1e3, "Milliseconds")

    async def _upload(self, request: AsyncRequest, outcome: Outcome) -> Outcome:
        """Upload the response, or the known details of the failure, to the location that the client
        was given. A failed upload fails the request."""
        failed = outcome.failure is not None
        location = request.failure_location if failed else request.output_location
        if location is None:
            return outcome
        body, content_type = outcome.body, outcome.content_type
        if body is None:
            body = self._bodies.holding((outcome.failure or "").encode())
            content_type = "text/plain"
        started = self._clock.ticks()
        try:
            await asyncio.to_thread(
                self._bodies.write, S3Location.parse(location), body, content_type
            )
        except (ClientError, BotoCoreError) as error:
            self._record("ResponseUploadFailures", 1.0, "Count")
            _log.warning("%s: %s could not be written: %s", self._endpoint, location, error)
            if failed:
                return outcome
            return await self._upload(
                request,
                Outcome(f"ClientError: Failed to upload the response to {location}: {error}"),
            )
        self._record("ResponseUploadLatency", (self._clock.ticks() - started) * 1e6, "Microseconds")
        return outcome

    def _included(self, outcome: Outcome) -> bytes | None:
        """The body that a message includes."""
        included = self._notifications.includes_response(failed=outcome.failure is not None)
        if outcome.body is None or not included:
            return None
        return outcome.body.read() if size_of(outcome.body) <= INCLUDED_BODY_LIMIT_BYTES else None

    async def _notify(self, request: AsyncRequest, outcome: Outcome) -> None:
        failed = outcome.failure is not None
        topic = self._notifications.topic(failed=failed)
        if topic is None:
            return
        message = result_notification(
            region=self._cloud.settings.region,
            received=request.received,
            inference_id=request.inference_id,
            request={
                "accept": request.accept,
                "contentType": request.content_type,
                "endpointName": self._endpoint,
                "inputLocation": request.input_location,
            },
            failure=outcome.failure,
            response={
                "contentType": outcome.content_type,
                "outputLocation": request.output_location,
            },
            body=self._included(outcome),
        )
        subject = Subject(
            f"notification {self._endpoint}/{request.inference_id}", endpoint=self._endpoint
        )
        if self._cloud.faults.strikes("lost_notification", subject):
            return
        times = 2 if self._cloud.faults.strikes("repeated_notification", subject) else 1
        try:
            for _ in range(times):
                await asyncio.to_thread(self._cloud.sns.publish, TopicArn=topic, Message=message)
        except (ClientError, BotoCoreError) as error:
            self._record("NotificationFailures", 1.0, "Count")
            _log.warning("%s: nothing could be published to %s: %s", self._endpoint, topic, error)
