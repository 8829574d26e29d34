"""Load on one HTTP server: clients that ask again as soon as they are answered."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from tenantry.tuning.container import ContainerFailedError, said

WARM_UP_SHARE: Final = 0.2
"""The first requests find cold caches; they last this share of the measurement, and do not
count."""


@dataclass(frozen=True)
class Load:
    """What was measured: answers in a second, and their latencies in milliseconds."""

    per_second: float
    p50_ms: float
    p95_ms: float


def put_load(
    port: int, path: str, request: Mapping[str, Any], *, clients: int, seconds: float
) -> Load:
    """Ask with ``clients`` connections at a time for ``seconds``, beside the warm-up.

    Raises:
        ContainerFailedError: an answer is no prediction, a connection broke, or nothing was
            answered in time.
    """
    return asyncio.run(_put_load(port, path, request, clients, seconds))


async def _put_load(
    port: int, path: str, request: Mapping[str, Any], clients: int, seconds: float
) -> Load:
    body = json.dumps(dict(request)).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    message = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    answered: list[tuple[float, float]] = []
    asking = [asyncio.create_task(_ask(port, message, answered)) for _ in range(clients)]
    began = time.perf_counter() + seconds * WARM_UP_SHARE
    try:
        # A client never ends by itself, so one that ended has failed.
        done, _ = await asyncio.wait(
            asking, timeout=seconds * (1 + WARM_UP_SHARE), return_when=asyncio.FIRST_COMPLETED
        )
        ended = time.perf_counter()
        for client in done:
            client.result()
    except (OSError, asyncio.IncompleteReadError) as error:
        raise ContainerFailedError(
            f"the container broke a connection under load: {type(error).__name__}"
        ) from error
    finally:
        for client in asking:
            client.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    latencies = sorted(took for moment, took in answered if began <= moment <= ended)
    if not latencies:
        raise ContainerFailedError(f"nothing was answered within {seconds:g} s; take more seconds")
    return Load(len(latencies) / (ended - began), _share(latencies, 0.5), _share(latencies, 0.95))


async def _ask(port: int, message: bytes, answered: list[tuple[float, float]]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while True:
            asked = time.perf_counter()
            writer.write(message)
            head = await reader.readuntil(b"\r\n\r\n")
            status, *lines = head.decode("latin-1").lower().splitlines()
            fields = dict(line.partition(": ")[::2] for line in lines)
            content = await reader.readexactly(int(fields.get("content-length", "0")))
            if " 200" not in status:
                raise ContainerFailedError(f"under load, the container answers {said(content)}")
            moment = time.perf_counter()
            answered.append((moment, 1000 * (moment - asked)))
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


def _share(ordered: list[float], share: float) -> float:
    """The smallest value that this share of the values does not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
