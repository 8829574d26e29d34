"""The model server of every family: an ASGI application on uvicorn. A container's `serve` script
starts it.

It implements SageMaker's three contracts on one port, as docs/contracts.md, "Serving container",
describes:

- many models (docs.aws.amazon.com/sagemaker/latest/dg/mms-container-apis.html);
- one model (…/your-algorithms-inference-code.html);
- batch transform (…/your-algorithms-batch-code.html), also over a folder of many tenants' archives.

With TENANTRY_MODELS_URI it fetches the archive that each request names from S3, as an asynchronous
endpoint's server must.

A family provides a `Predictor`; its script only calls `main(predictor)`.
"""

import asyncio
import base64
import contextlib
import hashlib
import inspect
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Generic, TypeVar, cast
from urllib.parse import parse_qs, unquote

from containers.runtime.archives.archive import ArchiveLimits
from containers.runtime.serving.batching import Batcher, batcher_of, family_batching
from containers.runtime.serving.bodies import (
    ASYNCHRONOUS_BYTES,
    ClientGoneError,
    Receive,
    Send,
    read_body,
    send_file,
    size_of,
    spool_body,
)
from containers.runtime.serving.model_store import Loaded, ModelStore
from containers.runtime.serving.predictor import (
    Answer,
    InvalidRequestError,
    ModelT,
    Predictor,
    Question,
)
from containers.runtime.serving.records import (
    is_model_folder,
    model_of_first_line,
    model_of_record,
    one_line,
    split_records,
)
from containers.runtime.serving.remote_models import RemoteModels
from containers.runtime.serving.serving_errors import (
    BadRequestError,
    MethodNotAllowedError,
    NotFoundError,
    ServingError,
)
from containers.runtime.serving.settings import LARGEST_BATCH_MB, Settings
from contracts import variables
from contracts.logs import UnknownLogFormatError, add_log_fields, write_logs

# SageMaker sends SIGKILL 30 seconds after SIGTERM.
GRACE_SECONDS: Final = 25
SINGLE: Final = "model"
TOGETHER: Final = 32

_log = logging.getLogger(__name__)
_JSON: Final = "application/json"
_Result = TypeVar("_Result")


class ServingApp(Generic[ModelT]):
    """The ASGI application over one family's predictor."""

    def __init__(self, predictor: Predictor[ModelT], settings: Settings) -> None:
        self._predictor = predictor
        self._settings = settings
        self._threads = ThreadPoolExecutor(settings.threads, "predict")
        self._loaders = ThreadPoolExecutor(2, "load")
        limits = ArchiveLimits()
        # Do not fetch an archive that would not fit in memory or exceeds the limit of extraction.
        max_bytes = min(settings.memory_bytes, limits.extracted_bytes)
        self._remote = RemoteModels(settings.models_uri, max_bytes) if settings.models_uri else None
        self.store: ModelStore[ModelT] = ModelStore(
            predictor,
            settings.memory_bytes,
            self._loaders,
            evict=settings.evict,
            limits=limits,
            fetch=self._remote.fetched if self._remote else None,
        )
        self._asynchronous = inspect.iscoroutinefunction(predictor.predict)
        self._inline = self._asynchronous or bool(getattr(predictor, "inline", False))
        self._many = (
            not settings.multi_model and not self._remote and is_model_folder(settings.model_folder)
        )
        self._said: list[tuple[bytes, bytes]] = []
        if settings.version:
            value = f"{variables.VERSION_ATTRIBUTE}={settings.version}"
            self._said = [(variables.VERSION_HEADER.lower().encode(), value.encode())]
        self._batcher: Batcher[Question[ModelT], Answer] | None = None
        self._streamed: Any = getattr(predictor, "predict_stream", None)
        self._started = time.monotonic()
        self._answers: dict[int, int] = {}

    async def start(self) -> None:
        """Start the family, and load the model of a single-model server.

        Raises `ServingError` when the model cannot be loaded, `ValueError` when the family's
        settings are wrong.
        """
        settings = self._settings
        self._batcher = batcher_of(
            self._predictor, self._threads, settings.max_batch, settings.max_wait_ms
        )
        if (start := getattr(self._predictor, "start", None)) is not None:
            start()
        if not settings.multi_model and not self._many and not self._remote:
            await self.store.load(SINGLE, str(settings.model_folder))

    def close(self) -> None:
        """Close the family and the threads, without waiting for a busy thread."""
        if (close := getattr(self._predictor, "close", None)) is not None:
            close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._loaders.shutdown(wait=False, cancel_futures=True)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        if scope["type"] != "http":
            raise RuntimeError(f"{scope['type']} is not served here")
        more = self._said
        file = None
        try:
            answer = await self._route(scope, receive)
            status, body, content_type, file = 200, answer.body, answer.content_type, answer.file
        except ServingError as error:
            status, body, content_type, more = (
                error.status,
                error.body(),
                _JSON,
                [*self._said, *error.headers()],
            )
        except InvalidRequestError as error:
            status, body, content_type = (
                400,
                BadRequestError(error.message, error.field, error.reason).body(),
                _JSON,
            )
        except ClientGoneError:
            return
        # An error that a family raises becomes an answer; the server goes on.
        except Exception as error:  # noqa: BLE001
            # Log the place but not the message, because the message may contain a tenant's data.
            _log.error(
                "request_failed %s\n%s",
                type(error).__name__,
                "".join(traceback.format_tb(error.__traceback__)),
            )
            message = f"the prediction failed: {type(error).__name__}"
            status, body, content_type = 500, ServingError(message).body(), _JSON
        self._answers[status] = self._answers.get(status, 0) + 1
        headers = [
            (b"content-type", content_type.encode("latin-1")),
            (b"content-length", b"%d" % (len(body) if file is None else size_of(file))),
            *more,
        ]
        with file or contextlib.nullcontext():
            await send({"type": "http.response.start", "status": status, "headers": headers})
            if file is None:
                await send({"type": "http.response.body", "body": body})
            else:
                await send_file(send, file)

    async def _route(self, scope: MutableMapping[str, Any], receive: Receive) -> Answer:
        method: str = scope["method"]
        # Use the raw path, because a name may contain escaped slashes.
        path: bytes = scope.get("raw_path") or scope["path"].encode()
        if self._settings.multi_model and path.startswith(b"/models"):
            if path.startswith(b"/models/"):
                if method == "POST" and path.endswith(b"/invoke"):
                    return await self._invoke_model(_name(path[8:-7]), scope, receive)
                if method in ("GET", "DELETE"):
                    return await self._model(method, _name(path[8:]))
                raise MethodNotAllowedError(f"{method} is not for a model")
            if path == b"/models":
                if method == "POST":
                    return await self._load(scope, receive)
                if method == "GET":
                    return self._list(scope)
                raise MethodNotAllowedError(f"{method} is not for /models")
        if path == b"/ping" and method == "GET":
            return Answer(b"{}")
        if path == b"/invocations" and not self._settings.multi_model:
            if method != "POST":
                raise MethodNotAllowedError("/invocations is for POST")
            return await self._invocations(scope, receive)
        if path == b"/execution-parameters" and method == "GET":
            return self._execution_parameters()
        if path == b"/_status" and method == "GET":
            return self._status()
        raise NotFoundError(
            f"there is no {method} {unquote(path.decode('latin-1'))[:200]} on this server"
        )

    async def _invoke_model(
        self, name: str, scope: MutableMapping[str, Any], receive: Receive
    ) -> Answer:
        body = await read_body(scope, receive, self._settings.body_bytes)
        entry = self.store.acquire(name)
        add_log_fields(**entry.known)  # each HTTP request is a separate task
        try:
            return await self._while_connected(
                receive, self._predict(entry.model, body, *_types(scope))
            )
        finally:
            self.store.release(entry)

    async def _predict(self, model: ModelT, body: bytes, content_type: str, accept: str) -> Answer:
        if self._batcher is not None:
            result: Any = await self._batcher.ask(Question(model, body, content_type, accept))
        elif not self._inline:
            loop = asyncio.get_running_loop()
            result = await loop.run_in_executor(
                self._threads, self._predictor.predict, model, body, content_type, accept
            )
        else:
            result = self._predictor.predict(model, body, content_type, accept)
            if self._asynchronous:
                result = await result
        return cast(Answer, result)

    @property
    def _can_be_called_off(self) -> bool:
        """Whether requests wait where they can leave: with an asynchronous family, or in a batch.
        A thread finishes its work."""
        return self._asynchronous or self._batcher is not None

    async def _while_connected(self, receive: Receive, work: Awaitable[_Result]) -> _Result:
        """Wait for `work`. If it can be called off, cancel it when the client disconnects first."""
        if not self._can_be_called_off:
            return await work
        task = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ClientGoneError
            return await task
        finally:
            task.cancel()
            gone.cancel()
            await asyncio.gather(task, gone, return_exceptions=True)

    async def _load(self, scope: MutableMapping[str, Any], receive: Receive) -> Answer:
        try:
            request = json.loads(await read_body(scope, receive, self._settings.body_bytes))
        except (ValueError, RecursionError) as error:
            raise BadRequestError("the body is not JSON") from error
        if not isinstance(request, dict):
            raise BadRequestError("the body must be a JSON object with 'model_name' and 'url'")
        name, url = request.get("model_name"), request.get("url")
        if not isinstance(name, str) or not _is_name(name):
            raise BadRequestError(
                "'model_name' must be 1 to 1024 printable characters", "model_name"
            )
        if (
            not isinstance(url, str)
            or not 0 < len(url) <= 4096
            or not url.startswith("/")
            or "\0" in url
        ):
            raise BadRequestError(
                "'url' must be the absolute path of a folder or an archive", "url"
            )
        await self.store.load(name, url)
        return Answer(b"{}")

    def _list(self, scope: MutableMapping[str, Any]) -> Answer:
        query = parse_qs(scope["query_string"].decode("latin-1"))
        token = (query.get("next_page_token") or query.get("nextPageToken") or [None])[0]
        after = None
        if token is not None:
            try:
                after = base64.b64decode(token, altchars=b"-_", validate=True).decode()
            except ValueError as error:
                raise BadRequestError(
                    "the token is not one of this server's", "next_page_token"
                ) from error
        page, last = self.store.page(after)
        document: dict[str, Any] = {
            "models": [{"modelName": name, "modelUrl": url} for name, url in page]
        }
        if last is not None:
            document["nextPageToken"] = base64.urlsafe_b64encode(last.encode()).decode()
        return _json(document)

    async def _model(self, method: str, name: str) -> Answer:
        if method == "DELETE":
            await self.store.unload(name)
            return Answer(b"{}")
        return _json({"modelName": name, "modelUrl": self.store.url_of(name)})

    async def _invocations(self, scope: MutableMapping[str, Any], receive: Receive) -> Answer:
        content_type, accept = _types(scope)
        if self._remote and self._streamed:
            return await self._stream(scope, receive, content_type, accept)
        body = await read_body(scope, receive, self._settings.body_bytes)
        if not self._settings.batch and not self._many:
            with self._digests(body) as answers:
                answer = await self._answer(body, receive, content_type, accept)
                answers.append(answer.body)
            return answer
        records, content_type = split_records(body, content_type)
        lines: list[bytes] = []
        # An inline family answers records one by one. Other families get several at once for their
        # threads or batches.
        alone = self._inline and not self._can_be_called_off
        step = 1 if alone else max(TOGETHER, self._settings.max_batch)
        for start in range(0, len(records), step):
            group = [
                asyncio.ensure_future(self._record(number, record, content_type))
                for number, record in enumerate(records[start : start + step], start)
            ]
            try:
                lines += await self._while_connected(receive, asyncio.gather(*group))
            finally:
                # One failed record fails them all, so cancel the work on the others.
                for unwanted in group if self._can_be_called_off else ():
                    unwanted.cancel()
        return Answer(b"".join(lines), "application/jsonlines" if len(lines) != 1 else _JSON)

    @contextlib.contextmanager
    def _digests(self, request: bytes) -> Iterator[list[bytes]]:
        """Log the digests of a request and of its answer, which the block puts into the list; ``-``
        for a request that fails. See `variables.ANSWER_DIGESTS`."""
        answers: list[bytes] = []
        try:
            yield answers
        finally:
            if self._settings.answer_digests:
                asked = hashlib.sha256(request).hexdigest()
                said = hashlib.sha256(answers[0]).hexdigest() if answers else "-"
                _log.info("answer_digest request=%s answer=%s", asked, said)

    async def _answer(
        self, body: bytes, receive: Receive, content_type: str, accept: str
    ) -> Answer:
        """The answer of the one model, or of the one that a record names."""
        if self._remote:
            name, body = model_of_record(body)
            content_type = _JSON
            entry = await self.store.acquire_or_load(name, name)
        else:
            entry = self.store.acquire(SINGLE)
        add_log_fields(**entry.known)
        try:
            return await self._while_connected(
                receive, self._predict(entry.model, body, content_type, accept)
            )
        finally:
            self.store.release(entry)

    async def _stream(
        self, scope: MutableMapping[str, Any], receive: Receive, content_type: str, accept: str
    ) -> Answer:
        """Answer a record with data after it, which may be too large for memory."""
        with await spool_body(scope, receive, ASYNCHRONOUS_BYTES) as file:
            name, request = model_of_first_line(file)
            entry = await self.store.acquire_or_load(name, name)
            add_log_fields(**entry.known)
            try:
                result = await asyncio.get_running_loop().run_in_executor(
                    self._threads, self._streamed, entry.model, request, file, content_type, accept
                )
            finally:
                self.store.release(entry)
        return cast(Answer, result)

    async def _record(self, number: int, record: bytes, content_type: str) -> bytes:
        """The line that answers one record of a batch. An error names the record's number."""
        try:
            entry: Loaded[ModelT]
            if self._many:
                name, record = model_of_record(record)
                content_type = _JSON
                entry = await self.store.acquire_or_load(
                    name, str(self._settings.model_folder / name)
                )
            else:
                entry = self.store.acquire(SINGLE)
            try:
                return one_line(
                    (await self._predict(entry.model, record, content_type, _JSON)).body
                )
            finally:
                self.store.release(entry)
        except InvalidRequestError as error:
            raise BadRequestError(
                f"record {number}: {error.message}", error.field, error.reason
            ) from error
        except ServingError as error:
            raise type(error)(f"record {number}: {error.message}", error.field) from error

    def _execution_parameters(self) -> Answer:
        settings = self._settings
        concurrency = 2 if self._inline and not self._asynchronous else max(2, settings.threads)
        if self._batcher is not None:
            concurrency = 2 * settings.max_batch  # one batch gathers while another is answered
        megabytes = settings.body_bytes // (1024 * 1024)
        # API_CreateTransformJob, MaxConcurrentTransforms: their product is at most 100 MB.
        concurrency = max(1, min(concurrency, LARGEST_BATCH_MB // megabytes))
        return _json(
            {
                "MaxConcurrentTransforms": concurrency,
                "BatchStrategy": "MULTI_RECORD",
                "MaxPayloadInMB": megabytes,
            }
        )

    def _status(self) -> Answer:
        own = getattr(self._predictor, "status", None)
        batches = {"max_batch": 1} if self._batcher is None else self._batcher.status()
        return _json(
            {
                "family": self._predictor.family,
                "uptime_seconds": round(time.monotonic() - self._started, 3),
                "answers": {str(status): count for status, count in sorted(self._answers.items())},
                "batching": {"family": family_batching(self._predictor), **batches},
                **self.store.status(),
                **({} if own is None else {self._predictor.family: own()}),
            }
        )


async def _disconnected(receive: Receive) -> None:
    """Return when the client has closed its connection; the request's body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _types(scope: MutableMapping[str, Any]) -> tuple[str, str]:
    """Content type and accepted type of a request, by default JSON."""
    content_type = accept = _JSON
    for name, value in scope["headers"]:
        if name == b"content-type":
            content_type = value.decode("latin-1")
        elif name == b"accept":
            accept = value.decode("latin-1")
    return content_type, accept


def _name(raw: bytes) -> str:
    """The model's name from its part of the path; raises `BadRequestError`."""
    try:
        name = unquote(raw.decode("ascii"), errors="strict")
    except UnicodeError as error:
        raise BadRequestError("the model's name in the path is not UTF-8", "model_name") from error
    if not _is_name(name):
        raise BadRequestError(
            "the model's name in the path must be 1 to 1024 printable characters", "model_name"
        )
    return name


def _is_name(name: str) -> bool:
    # A name is only a key of a dictionary, never a path. It must be printable, because log lines
    # contain it.
    return 0 < len(name) <= 1024 and name.isprintable()


def _json(document: dict[str, Any]) -> Answer:
    return Answer(json.dumps(document).encode())


def main(predictor: Predictor[ModelT]) -> int:
    """Serve until SIGTERM or SIGINT, then finish the requests in flight; returns the process's exit
    status.

    The status is 1 when the settings are wrong, the single model cannot be loaded, or the port is
    taken. The log gives the reason.
    """
    try:
        write_logs(sys.stdout, logging.INFO, "%(message)s")
    except UnknownLogFormatError as error:
        _log.error("serving_failed: %s", error)
        return 1
    # Import uvicorn here, so that a family's own tests import only the protocol.
    import uvicorn

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            # uvicorn's own method would raise the signal again at the end, and the process would
            # not exit with 0.
            previous = {
                number: signal.signal(number, self.handle_exit)
                for number in (signal.SIGTERM, signal.SIGINT)
            }
            try:
                yield
            finally:
                for number, handler in previous.items():
                    signal.signal(number, handler)

    async def serve() -> int:
        app = ServingApp(predictor, settings)
        server = Server(
            uvicorn.Config(
                cast(Any, app),
                host=settings.host,
                port=settings.port,
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                date_header=False,
                # This is longer than a proxy keeps its connections, so that the proxy closes them
                # first.
                timeout_keep_alive=75,
                timeout_graceful_shutdown=GRACE_SECONDS,
                backlog=2048,
            )
        )
        try:
            try:
                await app.start()
            except (ServingError, ValueError) as error:
                _log.error("serving_failed: %s", error)
                return 1
            _log.info(
                "serving family=%s host=%s port=%d memory_bytes=%d",
                predictor.family,
                settings.host,
                settings.port,
                settings.memory_bytes,
            )
            await server.serve()
        finally:
            app.close()
        return 0 if server.started else 1

    try:
        settings = Settings.of_environment()
    except ValueError as error:
        _log.error("serving_failed: %s", error)
        return 1
    try:
        import uvloop

        status = uvloop.run(serve())
    except SystemExit:
        # uvicorn exits this way when it cannot bind.
        status = 1
    _leave_no_thread(status)
    return status


def _leave_no_thread(status: int) -> None:
    """Give busy threads a second, then end the process without them."""
    deadline = time.monotonic() + 1
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                _log.warning("thread_left_behind name=%s", thread.name)
                logging.shutdown()
                os._exit(status)
