"""A small HTTP/1.1 client for containers on this machine: one pool of kept connections per
container, httptools as parser.

A body is in memory, or, for asynchronous requests, in a file: `FileBody`.

Every invocation uses it, so it does only what an invocation needs: no redirects, no cookies, no
compression. It sends each request only once, because a container may begin its work with the first
byte.
"""

import asyncio
import select
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import IO, cast

import httptools

from local_sagemaker.clock import MACHINE
from local_sagemaker.errors import LocalSageMakerError

RESPONSE_LIMIT_BYTES = 128 * 1024 * 1024
"""A batch transform's payload is at most 100 MB; a much larger answer is an error of the
container."""
PIECE_BYTES = 1024 * 1024
"""A file is read and sent in such pieces."""
_LONGEST_IDLE_SECONDS = 1.0
"""A kept connection is reused only within this time, because common servers close theirs after 2
seconds (gunicorn) or 5 (uvicorn)."""


def header_text(value: bytes) -> str:
    """A header's value as text: UTF-8, as botocore sends it, or ISO-8859-1 where it is not valid
    UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


class ContainerUnreachableError(LocalSageMakerError):
    """The container did not accept a connection, or closed it without a complete answer."""


class ContainerNotListeningError(ContainerUnreachableError):
    """The container did not accept a connection, so it has not seen the request."""


@dataclass(frozen=True)
class FileBody:
    """A request's body of `size` bytes, from the position of `file` on.

    The body of its answer goes to the file `answer`, at most `answer_bytes` of it, and not to
    `Answer.body`. The caller closes both files.
    """

    file: IO[bytes]
    size: int
    answer: IO[bytes]
    answer_bytes: int

    def __len__(self) -> int:
        return self.size


@dataclass
class Answer:
    """An HTTP answer; header names are in lower case."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def text(self) -> str:
        """The body as text, for messages."""
        return self.body.decode(errors="replace")


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._closed = False
        self._answered: asyncio.Future[Answer] | None = None
        self._kept_since = 0.0
        self._writable = asyncio.Event()
        self._writable.set()

    @property
    def usable(self) -> bool:
        return not self._closed

    def keep(self) -> None:
        """Keep the connection for the next request after a complete answer."""
        self._kept_since = MACHINE.ticks()

    @property
    def reusable(self) -> bool:
        """Whether a kept connection can take a request: it was used a moment ago, and the container
        has not closed it.

        The container's close makes the socket readable before the event loop reads it.
        """
        if (
            self._closed
            or self._transport is None
            or MACHINE.ticks() - self._kept_since > _LONGEST_IDLE_SECONDS
        ):
            return False
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not poll.poll(0)

    async def send(self, head: bytes, body: bytes | FileBody) -> Answer:
        if self._transport is None or self._closed:
            raise ContainerUnreachableError("the container closed the connection")
        self._answered = asyncio.get_running_loop().create_future()
        self._answer = Answer()
        self._chunks: list[bytes] = []
        self._size = 0
        self._into = body.answer if isinstance(body, FileBody) else None
        self._limit = body.answer_bytes if isinstance(body, FileBody) else RESPONSE_LIMIT_BYTES
        self._parser = httptools.HttpResponseParser(self)
        if isinstance(body, FileBody):
            self._transport.write(head)
            await self._send_file(body, self._transport, self._answered)
        else:
            self._transport.write(head + body if len(body) < 65_536 else head)
            if len(body) >= 65_536:
                self._transport.write(body)
        return await self._answered

    async def _send_file(
        self, body: FileBody, transport: asyncio.Transport, answered: asyncio.Future[Answer]
    ) -> None:
        """Send a file, as fast as the container reads. A container that refuses the request may
        answer before it has read all; the connection then ends."""
        left = body.size
        while left:
            piece = await asyncio.to_thread(body.file.read, min(left, PIECE_BYTES))
            if answered.done() or not piece:
                self.close()
                return
            left -= len(piece)
            transport.write(piece)
            await self._writable.wait()

    def close(self) -> None:
        self._closed = True
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # create_connection gives stream transports; uvloop's do not inherit from asyncio.Transport.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, AttributeError) as error:
            self._fail(f"the container's answer is not HTTP: {error}")

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        self._writable.set()
        self._fail(f"the container closed the connection{f': {exc}' if exc else ''}")

    # httptools callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        self._answer.headers[name.decode("latin-1").lower()] = header_text(value)

    def on_body(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._limit:
            self._fail(f"the container's answer has more than {self._limit} bytes")
        elif self._into is not None:
            try:
                self._into.write(data)
            except OSError as error:
                self._fail(f"the container's answer could not be kept: {error}")
        else:
            self._chunks.append(data)

    def on_message_complete(self) -> None:
        self._answer.status = self._parser.get_status_code()
        self._answer.body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        if not self._parser.should_keep_alive():
            self.close()
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(self._answer)
            self._writable.set()

    def _fail(self, message: str) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(ContainerUnreachableError(message))
            self._writable.set()
            self.close()


class HttpClient:
    """Requests to one port of this machine."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[_Connection] = []

    async def request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | FileBody = b"",
        within: float,
    ) -> Answer:
        """One request, sent once. Raises ContainerUnreachableError, or TimeoutError after `within`
        seconds.

        The error is ContainerNotListeningError only if no part of the request was sent.
        """
        lines = [
            f"{method} {path} HTTP/1.1",
            f"host: 127.0.0.1:{self._port}",
            f"content-length: {len(body)}",
        ]
        lines.extend(f"{name}: {value}" for name, value in (headers or {}).items())
        head = ("\r\n".join(lines) + "\r\n\r\n").encode()
        async with asyncio.timeout(within):
            while self._idle:
                kept = self._idle.pop()
                if kept.reusable:
                    return await self._exchange(kept, head, body)
                kept.close()
            try:
                _, fresh = await asyncio.get_running_loop().create_connection(
                    _Connection, "127.0.0.1", self._port
                )
            except OSError as error:
                raise ContainerNotListeningError(
                    f"the container does not listen on port {self._port}"
                ) from error
            return await self._exchange(fresh, head, body)

    async def _exchange(
        self, connection: _Connection, head: bytes, body: bytes | FileBody
    ) -> Answer:
        try:
            answer = await connection.send(head, body)
        except BaseException:
            connection.close()
            raise
        if connection.usable:
            connection.keep()
            self._idle.append(connection)
        return answer

    def close(self) -> None:
        """Close the kept connections."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()
