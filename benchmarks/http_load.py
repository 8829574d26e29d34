"""A load generator for HTTP/1.1 servers, lean enough to be faster than a server written in Python.

It runs as a separate process, `python -m benchmarks.http_load < plan.json`. The plan has `port`,
`clients`, `seconds` and `requests`, a list of `{"path", "body"}`. Each client keeps one connection
and one request in flight (a closed loop). It writes one line of JSON: answered requests, requests
per second, latencies in milliseconds, answers other than 200, and the generator's own share of a
processor. If that share is near 1, the generator limited the rate, not the server.
"""

import asyncio
import json
import random
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import uvloop

_LENGTH = b"content-length: "


class _Client(asyncio.Protocol):
    """One connection that sends the next request as soon as it has an answer."""

    def __init__(self, requests: Sequence[bytes], seed: int) -> None:
        self._requests = list(requests)
        random.Random(seed).shuffle(self._requests)
        self._next = 0
        self._buffer = b""
        self._asked = 0.0
        self._open = True
        self.latencies: list[float] = []
        self.refused = 0
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._ask()

    def _ask(self) -> None:
        request = self._requests[self._next]
        self._next = (self._next + 1) % len(self._requests)
        self._asked = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        end = buffer.find(b"\r\n\r\n")
        if end >= 0:
            start = (
                buffer.lower().find(_LENGTH, 0, end)
                if _LENGTH not in buffer[:end]
                else buffer.find(_LENGTH)
            )
            stop = buffer.find(b"\r\n", start)
            if len(buffer) >= end + 4 + int(buffer[start + len(_LENGTH) : stop]):
                self.latencies.append(time.perf_counter() - self._asked)
                if not buffer.startswith(b"HTTP/1.1 200"):
                    self.refused += 1
                self._buffer = b""
                if self._open:
                    self._ask()
                return
        self._buffer = buffer

    # asyncio's callback requires this signature.
    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self.lost = self._open

    def finish(self) -> None:
        """Send no more requests."""
        self._open = False


async def generate(plan: dict[str, Any]) -> dict[str, Any]:
    """Carry out a plan and return its figures; raises `ConnectionError` when the server closes a
    connection."""
    requests = [
        b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: "
        b"%d\r\n\r\n%b"
        % (request["path"].encode(), len(request["body"].encode()), request["body"].encode())
        for request in plan["requests"]
    ]
    loop = asyncio.get_running_loop()
    processor, started = time.process_time(), time.perf_counter()
    connections = [
        await loop.create_connection(partial(_Client, requests, number), "127.0.0.1", plan["port"])
        for number in range(plan["clients"])
    ]
    await asyncio.sleep(plan["seconds"])
    seconds = time.perf_counter() - started
    share = (time.process_time() - processor) / seconds
    latencies = sorted(latency for _, client in connections for latency in client.latencies)
    for transport, client in connections:
        if client.lost:
            raise ConnectionError("the server closed a connection during the measurement")
        client.finish()
        transport.abort()
    if not latencies:
        raise ConnectionError("the server answered nothing")
    return {
        "requests": len(latencies),
        "per_second": round(len(latencies) / seconds, 1),
        "p50_ms": round(1000 * latencies[len(latencies) // 2], 3),
        "p99_ms": round(1000 * latencies[len(latencies) * 99 // 100], 3),
        "refused": sum(client.refused for _, client in connections),
        "generator_cpu": round(share, 2),
    }


if __name__ == "__main__":
    print(json.dumps(uvloop.run(generate(json.load(sys.stdin)))))
