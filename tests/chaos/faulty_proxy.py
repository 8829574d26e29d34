"""An HTTP proxy that makes some calls fail, like AWS's services and networks; the seed decides
which ones."""

from __future__ import annotations

import asyncio
import re
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Final, Literal

Fault = Literal["slow_down", "closed_before", "closed_after", "delayed", "credentials_expired"]

SHARES: Final[Mapping[Fault, float]] = {
    "slow_down": 0.02,
    "closed_before": 0.005,
    "closed_after": 0.01,
    "delayed": 0.02,
    "credentials_expired": 0.002,
}
"""The share of calls with each fault while faults are on."""

_SCOPE: Final = re.compile(r"Credential=[^/]+/[^/]+/[^/]+/([^/]+)/aws4_request")
_MAX_HEAD: Final = 1 << 20


@dataclass(frozen=True)
class Call:
    """The parts of an HTTP request that decide its fate."""

    method: str
    target: str
    headers: Mapping[str, str]

    @property
    def service(self) -> str:
        """The service that it is signed for."""
        found = _SCOPE.search(self.headers.get("authorization", ""))
        return found[1] if found else "unsigned"

    @property
    def operation(self) -> str:
        """The operation's name if the protocol puts it in the head, otherwise the HTTP method."""
        return self.headers.get("x-amz-target", "").rpartition(".")[2] or self.method


class FaultyProxy:
    """Passes HTTP calls on to a port of loopback. With the same seed, the n-th call of an operation
    has the same fate.

    Args:
        target: the port calls are passed on to.
        seed: decides which calls fail.
        max_expired: the limit of credentials_expired, the only fault after which SDKs do not retry.
    """

    def __init__(self, target: int, seed: str, max_expired: int) -> None:
        self.target, self.port = target, 0
        self.happened: Counter[str] = Counter()
        self.calls = 0
        self.faults_on = False
        self._seed, self._expired_left = seed, max_expired
        self._fates: dict[str, Random] = {}
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, name="faulty-proxy", daemon=True)

    def start(self) -> None:
        """Listen in a separate thread."""
        self._thread.start()
        self._listening.wait(10)

    def stop(self) -> None:
        """End it and all its connections."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._server = self._loop.run_until_complete(
            asyncio.start_server(self._connection, "127.0.0.1", 0, limit=_MAX_HEAD)
        )
        self.port = self._server.sockets[0].getsockname()[1]
        self._listening.set()
        self._loop.run_forever()
        self._server.close()
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        again = True
        try:
            while again:
                again = await self._call(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            again = False  # either side hung up
        finally:
            writer.close()

    async def _call(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer. Returns whether the connection may be used again."""
        head = await reader.readuntil(b"\r\n\r\n")
        call = _parsed(head)
        self.calls += 1
        fault, fate = self._fate(call)
        if call.headers.get("expect", "").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            await writer.drain()
            head = re.sub(rb"\r\nexpect:[^\r]*", b"", head, flags=re.IGNORECASE)
        body = await _body(reader, call.headers)
        if fault == "closed_before":
            return False
        if fault in {"slow_down", "credentials_expired"}:
            writer.write(_refusal(call.service, expired=fault == "credentials_expired"))
            await writer.drain()
            return True
        if fault == "delayed":
            await asyncio.sleep(fate.uniform(0.05, 0.5))
        answer = await self._passed_on(call, head + body)
        if fault == "closed_after":
            return False
        writer.write(answer)
        await writer.drain()
        return True

    def _fate(self, call: Call) -> tuple[Fault | None, Random]:
        kind = f"{call.service}:{call.operation}"
        fate = self._fates.setdefault(kind, Random(f"{self._seed}/{kind}"))
        drawn = fate.random()
        if not self.faults_on:
            return None, fate
        for fault, share in SHARES.items():
            if drawn < share:
                if fault == "credentials_expired":
                    if self._expired_left <= 0:
                        return None, fate
                    self._expired_left -= 1
                self.happened[f"{fault} {call.service}"] += 1
                return fault, fate
            drawn -= share
        return None, fate

    async def _passed_on(self, call: Call, request: bytes) -> bytes:
        """The whole answer. Each connection to the service is used only once, because the service
        may be killed and restarted at any time."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.target, limit=_MAX_HEAD)
        try:
            writer.write(request)
            await writer.drain()
            head = b"HTTP/1.1 100 "
            while head.startswith(b"HTTP/1.1 1"):
                head = await reader.readuntil(b"\r\n\r\n")
            answered = _parsed(head)
            empty = call.method == "HEAD" or answered.target.startswith(("204", "304"))
            return head if empty else head + await _body(reader, answered.headers)
        finally:
            writer.close()


def _parsed(head: bytes) -> Call:
    """The first line's first two words (an answer's are the protocol and its status) and the
    headers, names in lower case."""
    first, *lines = head.decode("latin-1").split("\r\n")
    method, _, target = first.partition(" ")
    pairs = (line.partition(":") for line in lines if line)
    return Call(method, target, {name.strip().lower(): value.strip() for name, _, value in pairs})


async def _body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        parts = []
        while True:
            size = await reader.readuntil(b"\r\n")
            parts += [size, await reader.readexactly(int(size.split(b";")[0], 16) + 2)]
            if int(size.split(b";")[0], 16) == 0:
                return b"".join(parts)
    return await reader.readexactly(int(headers.get("content-length", "0")))


def _refusal(service: str, *, expired: bool) -> bytes:
    """The services' answer when they are overloaded, or when the caller's credentials have expired.

    https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html and
    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/CommonErrors.html
    """
    status = "400 Bad Request" if expired else "503 Service Unavailable"
    if service == "s3":
        code = "ExpiredToken" if expired else "SlowDown"
        content = (
            f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>Please try "
            f"again.</Message></Error>"
        )
        kind = "application/xml"
    elif service in {"sns", "cloudformation", "monitoring"}:
        code = "ExpiredToken" if expired else "ServiceUnavailable"
        content = (
            f"<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>Please "
            f"try again.</Message></Error></ErrorResponse>"
        )
        kind = "text/xml"
    else:
        code = "ExpiredTokenException" if expired else "ServiceUnavailable"
        content = f'{{"__type": "{code}", "message": "Please try again."}}'
        kind = "application/x-amz-json-1.1"
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\n\r\n"
    return (head + content).encode()
