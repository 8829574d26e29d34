"""Bodies of requests and answers: in memory, or in a file where they may be large."""

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import IO, Any, Final

from containers.runtime.errors import ContainerError
from containers.runtime.serving.serving_errors import BodyTooLargeError

# InvokeEndpoint's body limit in the API's model (botocore) is 6,291,456 bytes.
REAL_TIME_BYTES: Final = 6 * 1024 * 1024
# docs.aws.amazon.com/sagemaker/latest/dg/async-inference.html: "large payload sizes (up to 1GB)".
ASYNCHRONOUS_BYTES: Final = 1024 * 1024 * 1024
PIECE_BYTES: Final = 1024 * 1024
"""A file is read and sent in such pieces; a body of at most as many bytes stays in memory."""

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class ClientGoneError(ContainerError):
    """The client closed its connection before its request was complete."""


async def _pieces(
    scope: MutableMapping[str, Any], receive: Receive, limit: int
) -> AsyncIterator[bytes]:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > limit:
            raise BodyTooLargeError(f"the body is larger than {limit} bytes")
    total = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        piece: bytes = message.get("body", b"")
        total += len(piece)
        if total > limit:
            raise BodyTooLargeError(f"the body is larger than {limit} bytes")
        more = message.get("more_body", False)
        yield piece


async def read_body(scope: MutableMapping[str, Any], receive: Receive, limit: int) -> bytes:
    """The whole body of a request.

    Raises `BodyTooLargeError` for more than `limit` bytes, `ClientGoneError`.
    """
    pieces = [piece async for piece in _pieces(scope, receive, limit)]
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def spool_body(scope: MutableMapping[str, Any], receive: Receive, limit: int) -> IO[bytes]:
    """The body of a request in a temporary file, at its beginning; the caller closes it.

    Raises like `read_body`, and `OSError` when the disk is full.
    """
    with contextlib.ExitStack() as closed_on_error:
        file = closed_on_error.enter_context(tempfile.SpooledTemporaryFile(PIECE_BYTES))
        # The server takes in no more than it hands out, so memory holds one piece.
        async for piece in _pieces(scope, receive, limit):
            await asyncio.to_thread(file.write, piece)
        file.seek(0)
        closed_on_error.pop_all()
    return file


def size_of(file: IO[bytes]) -> int:
    """The bytes of a file, which then is at its beginning."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return size


async def send_file(send: Send, file: IO[bytes]) -> None:
    """Send a file as the body of an answer that has begun."""
    while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
