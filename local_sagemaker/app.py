"""The HTTP front: one port for `sagemaker`, `sagemaker-runtime` and the control calls under `/_local/`."""

import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from local_sagemaker.cloud import Cloud, Operation, Settings
from local_sagemaker.errors import ServiceError
from local_sagemaker.protocol import Protocol, WireResponse
from local_sagemaker.tags import Tags
from local_sagemaker.training import TrainingJobs

_log = logging.getLogger(__name__)
_CONTROL_BODY_LIMIT_BYTES = 4 * 1024 * 1024


class Emulator:
    """The services of one emulator and the routes to them."""

    def __init__(self, settings: Settings) -> None:
        self.cloud = Cloud(settings)
        self.sagemaker = Protocol("sagemaker")
        self.training = TrainingJobs(self.cloud)
        self.operations: dict[str, Operation] = {**self.training.operations, **Tags(self.cloud).operations}

    async def start(self) -> None:
        """Take up what the state folder holds."""
        self.training.start()

    async def close(self) -> None:
        """End every container, then everything else."""
        await self.training.close()
        self.cloud.close()

    async def control_plane(self, request: Request) -> Response:
        """One call of `sagemaker`: JSON 1.1, the operation in `X-Amz-Target`."""
        operation = request.headers.get("x-amz-target", "").removeprefix("SageMaker.")
        try:
            return _respond(await self._answer(operation, await _body(request, _CONTROL_BODY_LIMIT_BYTES)))
        except ServiceError as error:
            return _respond(self.sagemaker.encode_error(error))
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception as error:  # noqa: BLE001 - a service answers its own faults too
            # What a service does with its own faults: a 500 that clients retry. The trace is for whoever runs it.
            _log.exception("%s", operation)
            fault = ServiceError("InternalFailure", f"local_sagemaker: {type(error).__name__}: {error}", 500)
            return _respond(self.sagemaker.encode_error(fault))

    async def _answer(self, operation: str, body: bytes) -> WireResponse:
        perform = self.operations.get(operation)
        if perform is None:
            known = operation in self.sagemaker.operations
            what = "is not emulated by local_sagemaker" if known else "is not an operation of SageMaker"
            raise ServiceError(
                "UnknownOperationException", f"{operation or '(no X-Amz-Target)'} {what}", 501 if known else 404
            )
        return self.sagemaker.encode(operation, await perform(self.sagemaker.decode(operation, body, {}, {})))

    async def health(self, _: Request) -> Response:
        """`GET /_local/health`: 200 as soon as requests are taken."""
        return JSONResponse(
            {
                "status": "ok",
                "operations": sorted(self.operations),
                "instances": {
                    quota.usage: quota.used
                    for quota in (self.cloud.training_quota, self.cloud.endpoint_quota, self.cloud.transform_quota)
                },
            }
        )

    async def reset(self, _: Request) -> Response:
        """`POST /_local/reset`: every container is killed and everything is forgotten."""
        await self.training.close()
        self.cloud.store.clear()
        return JSONResponse({"status": "reset"})


async def _body(request: Request, limit: int) -> bytes:
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise ServiceError("ValidationException", f"The request body has more than {limit} bytes", 413)
        chunks.append(chunk)
    return b"".join(chunks)


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
            Route("/", emulator.control_plane, methods=["POST"]),
            Route("/_local/health", emulator.health),
            Route("/_local/reset", emulator.reset, methods=["POST"]),
        ],
        lifespan=lifespan,
    )
