"""The HTTP front: one port for `sagemaker`, `sagemaker-runtime` and the control calls under
`/_local/`."""

import asyncio
import contextlib
import hashlib
import logging
import zlib
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from local_sagemaker.account.cloud import Cloud, Operation, Settings, caller
from local_sagemaker.account.tags import Tags, check_tags
from local_sagemaker.asynchronous.invocations import INLINE_BODY_LIMIT_BYTES, AsyncInvocations
from local_sagemaker.clock import MACHINE
from local_sagemaker.endpoints.configs import EndpointConfigs
from local_sagemaker.endpoints.endpoints import Endpoints
from local_sagemaker.endpoints.invocations import PAYLOAD_LIMIT_BYTES, Invocations
from local_sagemaker.endpoints.models import Models
from local_sagemaker.errors import ServiceError
from local_sagemaker.faults.plan import Plan, Strike, Subject
from local_sagemaker.http.members import refuse_what_is_not_emulated
from local_sagemaker.http.operations import refused
from local_sagemaker.http.origins import KnownCallersOnly
from local_sagemaker.http.protocol import Protocol, WireResponse
from local_sagemaker.http.server import abandon
from local_sagemaker.monitoring.alarms import Alarms
from local_sagemaker.monitoring.endpoint_metrics import Metrics
from local_sagemaker.monitoring.metric_operations import MetricOperations
from local_sagemaker.monitoring.statistics import Statistics
from local_sagemaker.pipelines.pipelines import Pipelines
from local_sagemaker.processing.jobs import ProcessingJobs
from local_sagemaker.scaling.targets import ScalableTargets
from local_sagemaker.training.jobs import TrainingJobs
from local_sagemaker.transform.jobs import TransformJobs

_log = logging.getLogger(__name__)
_THREADS = 32
_CONTROL_BODY_LIMIT_BYTES = 4 * 1024 * 1024
_FAULTS_BODY_LIMIT_BYTES = 256 * 1024
_MINUTE = "metric-minute"  # the kind of a stored minute of statistics


class Emulator:
    """The services of one emulator and the routes to them."""

    def __init__(self, settings: Settings) -> None:
        self.cloud = Cloud(settings)
        self.sagemaker = Protocol("sagemaker")
        self.runtime = Protocol("sagemaker-runtime")
        self.scaling = Protocol("application-autoscaling")
        self.monitoring = Protocol("cloudwatch")
        self.statistics = Statistics(self.cloud.clock)
        self.metrics = Metrics(self.statistics)
        self.alarms = Alarms(self.cloud, self.statistics)
        self.training = TrainingJobs(self.cloud)
        models = Models(self.cloud)
        configs = EndpointConfigs(self.cloud, models)
        self.endpoints = Endpoints(self.cloud, models, configs, self.metrics, self.alarms)
        self.transform = TransformJobs(self.cloud, models)
        self.processing = ProcessingJobs(self.cloud)
        self.invocations = Invocations(self.cloud, self.endpoints)
        self.async_invocations = AsyncInvocations(self.cloud, self.endpoints)
        self.operations: dict[str, Operation] = {
            **self.training.operations,
            **models.operations,
            **configs.operations,
            **self.endpoints.operations,
            **self.transform.operations,
            **self.processing.operations,
            **Tags(self.cloud).operations,
        }
        self.pipelines = Pipelines(self.cloud, self.call, self.sagemaker)
        self.operations |= self.pipelines.operations
        self.targets = ScalableTargets(self.cloud, self.endpoints, self.statistics, self.alarms)
        metrics = MetricOperations(self.statistics, self.cloud.clock)
        self._services: dict[str, tuple[Protocol, Mapping[str, Operation]]] = {
            self.scaling.model.metadata["targetPrefix"]: (self.scaling, self.targets.operations),
            self.monitoring.model.metadata["targetPrefix"]: (
                self.monitoring,
                {**metrics.operations, **self.alarms.operations},
            ),
        }
        self._sampling: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Load the state folder and continue its work."""
        # A job's downloads occupy a thread for long; log lines and endpoints' models must not wait
        # for them.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS))
        await asyncio.to_thread(self.cloud.connect)
        for minute, document in self.cloud.store.all(_MINUTE):
            self.statistics.restore(int(minute), document)
        self.training.start()
        self.endpoints.start()
        self.transform.start()
        self.processing.start()
        self.pipelines.start()
        self.targets.start()
        self._sampling = asyncio.create_task(self._sample())

    async def close(self) -> None:
        """End every container, then everything else."""
        await self._end_containers()
        if self._sampling is not None:
            self._sampling.cancel()
            self._keep_statistics()
        self.cloud.close()

    async def _end_containers(self) -> None:
        await self.targets.close()
        await self.pipelines.close()
        services = (self.training, self.endpoints, self.transform, self.processing)
        await asyncio.gather(*(service.close() for service in services))

    async def _sample(self) -> None:
        while True:
            await MACHINE.sleep(self.cloud.settings.metrics_seconds)
            self.endpoints.record_samples()
            self.cloud.meter.settle()
            self._keep_statistics()

    def _keep_statistics(self) -> None:
        """Write the minutes that changed to the state folder."""
        for minute, document in self.statistics.changed():
            if document is None:
                self.cloud.store.delete(_MINUTE, str(minute))
            else:
                self.cloud.store.put(_MINUTE, str(minute), document)

    async def control_plane(self, request: Request) -> Response:
        """One call of `sagemaker`, `application-autoscaling` or `cloudwatch`: JSON, the service and
        the operation in `X-Amz-Target`."""
        prefix, _, operation = request.headers.get("x-amz-target", "").rpartition(".")
        protocol, operations = self._services.get(prefix, (self.sagemaker, self.operations))
        session = (
            request.headers.get("x-amz-security-token")
            or request.headers.get("authorization", "").partition("/")[0]
        )
        caller.set(hashlib.sha256(session.encode()).hexdigest())
        try:
            body = await _body(request, _CONTROL_BODY_LIMIT_BYTES)
            return await self._answer(request, protocol, operations, operation, body)
        except ServiceError as error:
            return _respond(protocol.encode_error(error))
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception as error:  # noqa: BLE001 - a service answers its own errors too
            # A service answers its own errors with a 500, which clients retry. The trace is for the
            # emulator's operator.
            _log.exception("%s", operation)
            fault = ServiceError(
                "InternalFailure", f"local_sagemaker: {type(error).__name__}: {error}", 500
            )
            return _respond(protocol.encode_error(fault))

    async def _answer(
        self,
        request: Request,
        protocol: Protocol,
        operations: Mapping[str, Operation],
        operation: str,
        body: bytes,
    ) -> Response:
        perform = operations.get(operation)
        if perform is None:
            raise refused(protocol, operation)
        params = protocol.decode(operation, body, (), {})
        _check_emulated(protocol, operation, params)
        return await self._perform(request, protocol, operation, perform, params)

    async def call(self, operation: str, params: dict[str, Any]) -> dict[str, Any]:
        """Call an operation of SageMaker from inside, checked and struck by faults as a client's
        call is. Raises ServiceError."""
        self.sagemaker.check(operation, params)
        _check_emulated(self.sagemaker, operation, params)
        self.cloud.faults.refuse(Subject.of_call(operation, params))
        return await self.operations[operation](params)

    async def _perform(
        self,
        request: Request,
        protocol: Protocol,
        operation: str,
        perform: Operation,
        params: dict[str, Any],
    ) -> Response:
        """Carry out a call and answer it. A planned fault may refuse the call or lose the
        answer."""
        subject = Subject.of_call(operation, params)
        self.cloud.faults.refuse(subject)
        result = await perform(params)
        if self.cloud.faults.strikes("lost_answer", subject):
            return await abandon(request)
        return _respond(protocol.encode(operation, result))

    async def invoke(self, request: Request) -> Response:
        """`POST /endpoints/{EndpointName}/invocations`: InvokeEndpoint."""
        return await self._run(
            "InvokeEndpoint", self.invocations.invoke, request, PAYLOAD_LIMIT_BYTES
        )

    async def invoke_async(self, request: Request) -> Response:
        """`POST /endpoints/{EndpointName}/async-invocations`: InvokeEndpointAsync."""
        return await self._run(
            "InvokeEndpointAsync", self.async_invocations.invoke, request, INLINE_BODY_LIMIT_BYTES
        )

    async def _run(
        self, operation: str, perform: Operation, request: Request, limit: int
    ) -> Response:
        """One call of `sagemaker-runtime`: rest-json, with a body of at most `limit` bytes."""
        try:
            body = await _body(request, limit)
            params = self.runtime.decode(operation, body, request.headers.raw, request.path_params)
            refuse_what_is_not_emulated(self.runtime, operation, params)
            return await self._perform(
                request, self.runtime, operation, perform, {"Body": body, **params}
            )
        except ServiceError as error:
            if error.code == "ValidationException":
                error.code = "ValidationError"  # the runtime service's name for it
            return _respond(self.runtime.encode_error(error))
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception as error:  # noqa: BLE001 - a service answers its own errors too
            _log.exception("%s", operation)
            fault = ServiceError(
                "InternalFailure", f"local_sagemaker: {type(error).__name__}: {error}", 500
            )
            return _respond(self.runtime.encode_error(fault))

    async def invoke_with_response_stream(self, _: Request) -> Response:
        """`POST /endpoints/{EndpointName}/invocations-response-stream`: refused."""
        error = refused(self.runtime, "InvokeEndpointWithResponseStream")
        return _respond(self.runtime.encode_error(error))

    async def no_operation(self, request: Request) -> Response:
        """Paths below `/endpoints/` that no operation of the runtime has."""
        error = refused(self.runtime, f"{request.method} {request.url.path}")
        return _respond(self.runtime.encode_error(error))

    async def health(self, _: Request) -> Response:
        """`GET /_local/health`: 200 as soon as the emulator accepts requests."""
        return JSONResponse(
            {
                "status": "ok",
                "operations": sorted(
                    {*self.operations, *(o for _, found in self._services.values() for o in found)}
                ),
                "instances": {quota.usage: quota.used for quota in self.cloud.quotas.values()},
            }
        )

    async def reset(self, _: Request) -> Response:
        """`POST /_local/reset`: kill every container and forget everything."""
        await self._end_containers()
        for quota in self.cloud.quotas.values():
            quota.clear()
        self.cloud.meter.settle()
        self.cloud.store.clear()
        self.statistics.clear()
        self.cloud.faults.end()
        self.targets.start()
        return JSONResponse({"status": "reset"})

    async def bill(self, request: Request) -> Response:
        """`GET /_local/bill?tag=KEY`: AWS's bill up to now; with a tag, also its sums by value."""
        bill = self.cloud.meter.bill(request.query_params.get("tag"))
        return JSONResponse(bill.model_dump(mode="json"))

    async def faults(self, request: Request) -> Response:
        """`/_local/faults`: PUT a plan, GET its report, DELETE it; each call answers with the
        report."""
        if request.method == "PUT":
            plan = await _parsed(request, Plan)
            if isinstance(plan, Response):
                return plan
            self.cloud.faults.replace(plan)
        report = JSONResponse(self.cloud.faults.report().model_dump(mode="json"))
        if request.method == "DELETE":
            self.cloud.faults.end()
        return report

    async def fault_now(self, request: Request) -> Response:
        """`POST /_local/faults/now`: one fault at once; 404 when it selects nothing that runs."""
        strike = await _parsed(request, Strike)
        if isinstance(strike, Response):
            return strike
        struck = self.cloud.faults.strike_now(strike)
        return JSONResponse({"struck": struck}, status_code=200 if struck else 404)


def _check_emulated(protocol: Protocol, operation: str, params: dict[str, Any]) -> None:
    """Refuse what the service model allows and the emulator does not. Raises
    ValidationException."""
    refuse_what_is_not_emulated(protocol, operation, params)
    if protocol.service == "sagemaker":
        check_tags(params.get("Tags", []))


async def _body(request: Request, limit: int) -> bytes:
    """The body, at most `limit` bytes of it; clients compress that of PutMetricData."""
    too_long = ServiceError("ValidationException", f"The request body has more than {limit} bytes")
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise too_long
        chunks.append(chunk)
    body = b"".join(chunks)
    if request.headers.get("content-encoding") != "gzip":
        return body
    unpacker = zlib.decompressobj(wbits=31)  # which is gzip
    try:
        body = unpacker.decompress(body, limit + 1)
    except zlib.error as error:
        raise ServiceError("SerializationException", f"The body is no gzip: {error}") from error
    if len(body) > limit:
        raise too_long
    return body


_Parsed = TypeVar("_Parsed", bound=BaseModel)


async def _parsed(request: Request, model: type[_Parsed]) -> _Parsed | Response:
    """The body of a control call, or a 400 that names each wrong field."""
    try:
        return model.model_validate_json(await _body(request, _FAULTS_BODY_LIMIT_BYTES))
    except ValidationError as error:
        errors = [
            {
                "field": ".".join(str(part) for part in wrong["loc"]) or "body",
                "problem": wrong["msg"],
            }
            for wrong in error.errors(include_url=False, include_context=False)
        ]
        return JSONResponse({"errors": errors}, status_code=400)
    except ServiceError as error:
        return JSONResponse(
            {"errors": [{"field": "body", "problem": error.message}]}, status_code=400
        )


def _respond(answer: WireResponse) -> Response:
    return Response(answer.body, answer.status, answer.headers)


def application(settings: Settings) -> Starlette:
    """The ASGI application; containers live as long as its lifespan."""
    emulator = Emulator(settings)

    @contextlib.asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        try:
            await emulator.start()
            yield
        finally:
            await emulator.close()

    return Starlette(
        routes=[
            Route("/endpoints/{EndpointName}/invocations", emulator.invoke, methods=["POST"]),
            Route(
                "/endpoints/{EndpointName}/async-invocations",
                emulator.invoke_async,
                methods=["POST"],
            ),
            Route(
                "/endpoints/{EndpointName}/invocations-response-stream",
                emulator.invoke_with_response_stream,
                methods=["POST"],
            ),
            Route("/endpoints/{rest:path}", emulator.no_operation, methods=["POST"]),
            Route("/", emulator.control_plane, methods=["POST"]),
            Route("/_local/health", emulator.health),
            Route("/_local/reset", emulator.reset, methods=["POST"]),
            Route("/_local/bill", emulator.bill),
            Route("/_local/faults", emulator.faults, methods=["GET", "PUT", "DELETE"]),
            Route("/_local/faults/now", emulator.fault_now, methods=["POST"]),
        ],
        lifespan=lifespan,
        middleware=[Middleware(KnownCallersOnly, allowed_hosts=settings.allowed_hosts)],
    )
