"""A Triton model (Python backend) that answers for all tenants of a process, as the project's own
server does.

Its input is the record of an asynchronous request or a batch, `{"model":
"{tenant}/{version}.tar.gz", "request": {…}}`; the model calls the server's own application without
HTTP. The GPU therefore holds one base, one engine draws all tenants' pictures together, and
adapters are fetched, checked, held and evicted as in the server.

The interface is that of https://github.com/triton-inference-server/python_backend, of release 24.06
or later: `execute` passes requests on and returns. Each answer is sent when it is ready, so that
later requests join the pictures in flight.
"""

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine, MutableMapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import triton_python_backend_utils as pb_utils

from containers.diffusion.adapters.adapter import Adapter
from containers.diffusion.serving.predictor import DiffusionPredictor, ServingSettings
from containers.diffusion.triton.repository import ANSWER, CONTENT_TYPE, RECORD
from containers.runtime.serving.records import is_model_folder
from containers.runtime.serving.server import ServingApp
from containers.runtime.serving.settings import Settings

CANCEL_POLL_SECONDS: Final = 0.25
"""Seconds between checks whether a client is still connected, because Triton does not report it."""

_CODES: Final = {
    400: "INVALID_ARG",
    404: "NOT_FOUND",
    413: "INVALID_ARG",
    429: "UNAVAILABLE",
    504: "UNAVAILABLE",
    507: "UNAVAILABLE",
}
"""Triton's error code for each of the server's statuses; INTERNAL for the others."""


class TritonPythonModel:
    """The class that Triton loads from `1/model.py`: one instance for each GPU, or one on a machine
    without a GPU."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the base and start the engine. Raises `TritonModelException` when the settings or
        the base are unusable.

        Settings come from the environment, as for the server. Triton's `args` name the GPU.
        """
        on_gpu = args["model_instance_kind"] == "GPU"

        def settings() -> ServingSettings:
            read = ServingSettings.of_environment()
            return (
                replace(read, device=f"cuda:{args['model_instance_device_id']}") if on_gpu else read
            )

        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="answers", daemon=True)
        self._thread.start()
        try:
            self.app = _application(settings)
            try:
                self._wait_for(self.app.start())
            except BaseException:
                self.app.close()
                raise
        except Exception as error:
            self._end_loop()
            raise pb_utils.TritonModelException(
                f"{args['model_name']} cannot be served: {error}"
            ) from error

    def execute(self, requests: Sequence[Any]) -> None:
        """Pass requests to the application; another thread sends each answer when it is ready."""
        for request in requests:
            # Read the request's tensors here, because Triton frees them when this method returns.
            record = pb_utils.get_input_tensor_by_name(request, RECORD).as_numpy().item()
            answer = self._answer(record, request.get_response_sender())
            asyncio.run_coroutine_threadsafe(answer, self._loop)

    def finalize(self) -> None:
        """Cancel unanswered requests, stop drawing, and end all threads."""
        self._wait_for(self._call_off())
        self.app.close()
        self._end_loop()

    async def _answer(self, record: bytes, sender: Any) -> None:
        try:
            response = await self._response(record, sender)
        except asyncio.CancelledError:
            response = _error("CANCELLED", "the server is stopping; ask again")
        # Triton always waits for exactly one response.
        sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    async def _response(self, record: bytes, sender: Any) -> Any:
        """The application's answer to a record, as one response."""
        messages: list[MutableMapping[str, Any]] = []
        given = False

        async def receive() -> MutableMapping[str, Any]:
            nonlocal given
            if not given:
                given = True
                return {"type": "http.request", "body": record}
            while not sender.is_cancelled():  # noqa: ASYNC110 - there is no event to wait for
                await asyncio.sleep(CANCEL_POLL_SECONDS)
            return {"type": "http.disconnect"}

        async def send(message: MutableMapping[str, Any]) -> None:
            messages.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/invocations",
            "query_string": b"",
            "headers": [],
        }
        await self.app(scope, receive, send)
        if not messages:
            return _error("CANCELLED", "the client went away")
        start, *parts = messages
        body = b"".join(part["body"] for part in parts)
        if start["status"] != 200:
            error = json.loads(body)["error"]
            field = f" (field {error['field']})" if "field" in error else ""
            return _error(
                _CODES.get(start["status"], "INTERNAL"),
                f"{error['code']}: {error['message']}{field}",
            )
        outputs = [
            _text(ANSWER, body),
            _text(CONTENT_TYPE, dict(start["headers"])[b"content-type"]),
        ]
        return pb_utils.InferenceResponse(output_tensors=outputs)

    def _wait_for(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _call_off(self) -> None:
        own = asyncio.current_task()
        tasks = [task for task in asyncio.all_tasks() if task is not own]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _application(settings: Callable[[], ServingSettings]) -> ServingApp[Adapter]:
    """The server's application over archives of many tenants; raises `ValueError` when the settings
    do not name any archives."""
    server = Settings.of_environment()
    if server.multi_model:
        raise ValueError(
            "a Triton model that answers for all tenants is for an endpoint of Mode SingleModel"
        )
    if server.models_uri is None and not is_model_folder(server.model_folder):
        raise ValueError(
            f"there are no models: set TENANTRY_MODELS_URI to the s3://bucket/prefix/ of the "
            f"archives, or put them into"
            f" {server.model_folder} as {{tenant}}/{{version}}.tar.gz"
        )
    return ServingApp(DiffusionPredictor(settings), server)


def _text(name: str, content: bytes) -> Any:
    return pb_utils.Tensor(name, np.array([content], dtype=np.object_))


def _error(code: str, message: str) -> Any:
    return pb_utils.InferenceResponse(
        output_tensors=[], error=pb_utils.TritonError(message, getattr(pb_utils.TritonError, code))
    )
