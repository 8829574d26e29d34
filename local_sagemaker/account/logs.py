"""Sends container output to CloudWatch Logs, in batches about once a second."""

import asyncio
import logging
from collections import deque
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from local_sagemaker.clock import MACHINE

_log = logging.getLogger(__name__)
_BATCH_EVENTS = 2_000
_BATCH_BYTES = 900_000
"""PutLogEvents accepts 10,000 events and 1,048,576 bytes; each event counts 26 bytes more than its
text (docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_PutLogEvents.html)."""


class LogStream:
    """One log stream. `write` accepts a line at any time; `close` waits until every line is
    delivered."""

    def __init__(self, logs: Any, group: str, stream: str, flush_seconds: float = 1.0) -> None:
        self._logs = logs
        self._group = group
        self._stream = stream
        self._flush_seconds = flush_seconds
        self._events: deque[tuple[int, str]] = deque()
        self._closing = asyncio.Event()
        self._created = False
        self._task = asyncio.create_task(self._deliver())

    def write(self, line: str) -> None:
        """Queue a line with the current time. CloudWatch refuses empty events, so an empty line
        becomes a space."""
        self._events.append((int(MACHINE.now() * 1000), line or " "))

    async def close(self) -> None:
        """Deliver the remaining lines and end."""
        self._closing.set()
        await self._task

    async def _deliver(self) -> None:
        while True:
            closing = self._closing.is_set()
            while batch := self._take():
                try:
                    await asyncio.to_thread(self._put, batch)
                except (BotoCoreError, ClientError) as error:
                    _log.error(
                        "%d lines of %s %s were lost: %s",
                        len(batch),
                        self._group,
                        self._stream,
                        error,
                    )
            if closing:
                return
            try:
                await asyncio.wait_for(self._closing.wait(), self._flush_seconds)
            except TimeoutError:
                continue

    def _take(self) -> list[dict[str, Any]]:
        batch: list[dict[str, Any]] = []
        size = 0
        while self._events and len(batch) < _BATCH_EVENTS:
            moment, line = self._events[0]
            size += len(line.encode()) + 26
            if batch and size > _BATCH_BYTES:
                break
            self._events.popleft()
            batch.append({"timestamp": moment, "message": line})
        return batch

    def _put(self, batch: list[dict[str, Any]]) -> None:
        if not self._created:
            for create, names in (
                (self._logs.create_log_group, {"logGroupName": self._group}),
                (
                    self._logs.create_log_stream,
                    {"logGroupName": self._group, "logStreamName": self._stream},
                ),
            ):
                try:
                    create(**names)
                except self._logs.exceptions.ResourceAlreadyExistsException:
                    continue
            self._created = True
        self._logs.put_log_events(
            logGroupName=self._group, logStreamName=self._stream, logEvents=batch
        )
