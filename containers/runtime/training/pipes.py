"""Progress of a training container, sent to Dagster while it runs.

If Dagster started the job (its Pipes variables are in the environment), each instance writes its
messages to S3 below its own host name. Otherwise each message is a line on standard output.
Progress never fails a training: errors go to standard error, and the training goes on.
"""

import json
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from dagster_pipes import (
    DAGSTER_PIPES_CONTEXT_ENV_VAR,
    PipesMessage,
    PipesMessageWriter,
    PipesMessageWriterChannel,
    PipesParams,
    PipesS3ContextLoader,
    open_dagster_pipes,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

Report = Callable[[Mapping[str, Any]], None]
"""Reports one message: a mapping of JSON values."""

DEFAULT_INTERVAL: Final = 1.0
"""Seconds between two writes to S3, unless the other side asked for another interval."""

CLOSE_TIMEOUT: Final = 60.0
"""Seconds to write the last messages to S3. SageMaker kills a container 120 s after SIGTERM
(https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo-running-container.html)."""

_CHUNK_BYTES: Final = 8 * 1024 * 1024
_SLOWEST_RETRY: Final = 30.0


@contextmanager
def open_pipes_progress() -> Iterator[Report]:
    """Open the progress channel, and send every message before it closes.

    With Dagster's Pipes variables in the environment, a separate thread writes messages to S3,
    about every second or as often as Dagster asks. A SIGTERM without a handler ends the block like
    ``SystemExit``, so that nothing is lost when SageMaker stops the job. Without the variables,
    each message is printed as a line of JSON.
    """
    with ExitStack() as stack:
        if DAGSTER_PIPES_CONTEXT_ENV_VAR in os.environ:
            stack.enter_context(_sigterm_unwinds())
            yield _open(stack)
        else:
            yield _print_line


def current_host() -> str:
    """This instance's name from SageMaker, ``algo-1``, ``algo-2``, …, by default ``algo-1``."""
    folder = Path(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"))
    try:
        resources = json.loads(
            (folder / "input/config/resourceconfig.json").read_text(encoding="utf-8")
        )
        return str(resources["current_host"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        _tell(f"resourceconfig.json does not name this instance ({error!r}): it reports as algo-1")
        return "algo-1"


def _open(stack: ExitStack) -> Report:
    try:
        import boto3
        from botocore.config import Config

        retries = Config(
            retries={"mode": "standard", "total_max_attempts": 5},
            connect_timeout=5,
            read_timeout=20,
        )
        client = boto3.client("s3", config=retries)
        pipes = stack.enter_context(
            open_dagster_pipes(
                context_loader=PipesS3ContextLoader(client),
                message_writer=InstanceMessageWriter(client, current_host()),
            )
        )
    # The training goes on after any error, because it is worth more than its progress.
    except Exception as error:  # noqa: BLE001
        _tell(f"Dagster Pipes could not be opened, progress goes to standard output: {error!r}")
        return _print_line

    def report(message: Mapping[str, Any]) -> None:
        try:
            pipes.report_custom_message(dict(message))
        except Exception as error:  # noqa: BLE001  # As above.
            _tell(f"a message was not reported: {error!r}: {str(message)[:200]}")

    return report


class InstanceMessageWriter(PipesMessageWriter["InstanceMessageChannel"]):
    """Writes this instance's Pipes messages to S3, below the job's ``key_prefix`` and its own host
    name.

    ``dagster_pipes.PipesS3MessageWriter`` is unsuitable:

    - all instances would overwrite each other's chunks, because they share one environment;
    - it stops for good at the first error of S3;
    - a restarted instance would overwrite its own earlier chunks.
    """

    def __init__(self, client: "S3Client", host: str) -> None:
        self._client = client
        self._host = host

    @contextmanager
    def open(self, params: PipesParams) -> Iterator["InstanceMessageChannel"]:
        """Open the channel. Closing it waits until all messages are in S3, for at most
        ``CLOSE_TIMEOUT`` seconds."""
        prefix = "/".join(filter(None, [params.get("key_prefix"), self._host]))
        channel = InstanceMessageChannel(
            self._client, params["bucket"], prefix, float(params.get("interval", DEFAULT_INTERVAL))
        )
        try:
            yield channel
        finally:
            channel.close()

    def get_opened_extras(self) -> dict[str, Any]:
        """The instance's name."""
        return {"host": self._host}


class InstanceMessageChannel(PipesMessageWriterChannel):
    """Messages of one instance on their way to ``s3://{bucket}/{prefix}/{1, 2, 3, …}.json``, one
    JSON document a line.

    Chunk n + 1 is written only once chunk n is there, so a reader that finds no next chunk has read
    everything.
    """

    def __init__(self, client: "S3Client", bucket: str, prefix: str, interval: float) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = prefix
        self._interval = interval
        self._lines: deque[bytes] = deque()
        self._next_chunk: int | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._upload, name="pipes-messages", daemon=True)
        self._thread.start()

    def write_message(self, message: PipesMessage) -> None:
        """Queue a message. Raises TypeError or ValueError if it is not JSON."""
        self._lines.append(json.dumps(message).encode("utf-8"))

    def close(self) -> None:
        """Write the remaining messages; after ``CLOSE_TIMEOUT`` seconds, give up and report it."""
        self._closing.set()
        self._thread.join(CLOSE_TIMEOUT)
        if self._thread.is_alive():
            _tell(
                f"messages were not written to s3://{self._bucket}/{self._prefix} within "
                f"{CLOSE_TIMEOUT:.0f} s: lost"
            )

    def _upload(self) -> None:
        chunk = b""
        pause = self._interval
        while True:
            closing = self._closing.wait(pause)
            chunk = chunk or self._take()
            if not chunk:
                if closing:
                    return
                continue
            try:
                if self._next_chunk is None:
                    self._next_chunk = self._last_chunk() + 1
                self._client.put_object(
                    Bucket=self._bucket, Key=f"{self._prefix}/{self._next_chunk}.json", Body=chunk
                )
            # The thread must survive any error of S3; it keeps the chunk.
            except Exception as error:  # noqa: BLE001
                pause = min(max(2 * pause, 1.0), _SLOWEST_RETRY)
                _tell(
                    f"messages could not be written, next try in at most {pause:.0f} s: {error!r}"
                )
                if closing:
                    time.sleep(1.0)
                continue
            self._next_chunk += 1
            chunk = b""
            pause = self._interval

    def _take(self) -> bytes:
        """The messages that are due, up to a chunk's size; at least one if there is any."""
        taken: list[bytes] = []
        size = 0
        while self._lines and (not taken or size + len(self._lines[0]) < _CHUNK_BYTES):
            taken.append(self._lines.popleft())
            size += len(taken[-1]) + 1
        return b"\n".join(taken)

    def _last_chunk(self) -> int:
        """The number of the last chunk that this host has written: more than 0 if SageMaker
        restarted the instance."""
        last = 0
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=f"{self._prefix}/"
        )
        for page in pages:
            for item in page.get("Contents", []):
                number = item["Key"].rpartition("/")[2].removesuffix(".json")
                last = max(last, int(number) if number.isdecimal() else 0)
        return last


@contextmanager
def _sigterm_unwinds() -> Iterator[None]:
    """Let a SIGTERM without a handler run the ends of ``with`` blocks before the process ends."""
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
    ):
        yield
        return

    # `signal` requires this signature.
    def end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is end:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _print_line(message: Mapping[str, Any]) -> None:
    try:
        sys.stdout.write(json.dumps(dict(message)) + "\n")
        sys.stdout.flush()
    except (TypeError, ValueError, OSError) as error:
        _tell(f"a message was not reported: {error!r}: {str(message)[:200]}")


def _tell(text: str) -> None:
    sys.stderr.write(f"pipes: {text}\n")
