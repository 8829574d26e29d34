"""Readers of a running SageMaker training job: of its Dagster Pipes messages (S3) and its log lines
(CloudWatch).

Both readers are polled by :py:class:`pipes_sagemaker.client.PipesSageMakerTrainingJobClient` in its
own thread, each at its own pace; neither starts a thread. A reader given to the client is a
template: ``for_training_job`` makes the one that follows a single job, so that one client serves
any number of jobs at once.
"""

import copy
import json
import logging
import math
import sys
import time
import uuid
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import IO, TYPE_CHECKING, Any, Final

import boto3
from botocore import exceptions as aws_errors
from botocore.exceptions import BotoCoreError, ClientError
from dagster import PipesMessageReader
from dagster._core.errors import DagsterInvariantViolationError
from dagster._core.pipes.context import PipesMessageHandler
from dagster_pipes import PIPES_PROTOCOL_VERSION_FIELD, PipesMessage, PipesParams, decode_param

if TYPE_CHECKING:
    from mypy_boto3_logs import CloudWatchLogsClient
    from mypy_boto3_s3 import S3Client

LOG_GROUP: Final = "/aws/sagemaker/TrainingJobs"
"""https://docs.aws.amazon.com/sagemaker/latest/dg/logging-cloudwatch.html; streams are
``{job}/algo-{n}-{epoch}``."""

MAX_CHUNK_BYTES: Final = 64 * 1024 * 1024
"""A larger object under the messages' prefix is refused instead of being read into memory."""

_TRANSIENT_CODES: Final = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "InternalError",
        "InternalFailure",
        "InternalServerError",
        "RequestLimitExceeded",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
        "ServiceUnavailableException",
        "SlowDown",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
_TRANSIENT_ERRORS: Final = (
    aws_errors.ConnectionError,
    aws_errors.CredentialRetrievalError,
    aws_errors.HTTPClientError,
    aws_errors.IncompleteReadError,
)
_ABSENT_CODES: Final = frozenset({"404", "NoSuchKey"})
_DENIED_CODES: Final = frozenset({"403", "AccessDenied", "AccessDeniedException"})

# Seconds; a spot restart opens new streams for the same hosts.
_STREAM_DISCOVERY_INTERVAL: Final = 60.0
_SLOWEST_LOG_INTERVAL: Final = 60.0  # Seconds between two calls while CloudWatch Logs throttles.
# Seconds between two calls at the end: 5 a second, a fifth of GetLogEvents' quota of 25.
_DRAIN_PAUSE: Final = 0.2


def error_code(error: ClientError) -> str:
    """The code an AWS service gave with its error, for example ``ThrottlingException``."""
    return str(error.response.get("Error", {}).get("Code", ""))


def is_transient(error: Exception) -> bool:
    """Whether the same call may succeed later: throttled, a fault of the service (5xx), or no
    connection."""
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return error_code(error) in _TRANSIENT_CODES or status >= 500
    return isinstance(error, _TRANSIENT_ERRORS)


class PipesSageMakerMessageReader(PipesMessageReader):
    """Reads the Pipes messages that each instance of a training job writes to S3.

    SageMaker gives every instance of a job the same environment, so the per-writer bootstrap
    variables of ``PipesCompositeMessageReader`` cannot reach them. Instead there is one location
    for the job, and each instance writes below it under its own host name (``algo-1``, ``algo-2``,
    …, see ``current_host`` of ``resourceconfig.json``): ``{key_prefix}/{job
    name}/{token}/messages/{host}/{1, 2, 3, …}.json``. A job of one instance may also use the stock
    ``dagster_pipes.PipesS3MessageWriter``, which writes ``…/messages/{1, 2, 3, …}.json``.

    An instance that SageMaker restarts (spot, instance replacement) writes on after its last chunk;
    its second ``opened`` and its earlier ``closed`` are not counted.

    Args:
        bucket: The bucket for messages and context. Nothing deletes messages: give the prefix a
            lifecycle rule.
        client: An S3 client; by default ``boto3.client("s3")``.
        key_prefix: The prefix below which all jobs' messages lie.
        interval: Seconds between two reads, and, told to the container, between two writes of an
            instance: a message arrives after at most twice this long. Each read costs one GET an
            instance.
    """

    def __init__(
        self,
        *,
        bucket: str,
        client: "S3Client | None" = None,
        key_prefix: str = "pipes",
        interval: float = 5.0,
    ) -> None:
        self.bucket = bucket
        self.client: S3Client = client or boto3.client("s3")
        self.key_prefix = key_prefix.strip("/")
        self.interval = interval
        self._log: logging.Logger | None = None
        self._job_folder = ""
        self._params: dict[str, Any] = {}
        self._instance_count = 1
        self._handler: PipesMessageHandler | None = None
        self._next_chunk: dict[str, int] = {}
        self._opened: set[str] = set()
        self._closed: dict[str, PipesMessage] = {}
        self._warned: set[str] = set()

    def for_training_job(
        self, job_name: str, instance_count: int, log: logging.Logger
    ) -> "PipesSageMakerMessageReader":
        """A reader that follows one job, at a location no other run writes to."""
        reader = copy.copy(self)
        reader._log = log
        reader._instance_count = instance_count
        reader._job_folder = "/".join(
            filter(None, [self.key_prefix, job_name, uuid.uuid4().hex[:12]])
        )
        reader._opened, reader._closed, reader._warned = set(), {}, set()
        reader._read_from(self.bucket, f"{reader._job_folder}/messages")
        return reader

    @property
    def job_folder(self) -> str:
        """The prefix of this run's own context and messages of the job, without a slash at its
        end."""
        return self._job_folder

    @property
    def expected_writer_count(self) -> int:
        """One writer an instance."""
        return self._instance_count

    def _read_from(self, bucket: str, key_prefix: str) -> None:
        self._params = {"bucket": bucket, "key_prefix": key_prefix, "interval": self.interval}
        writers = [f"{key_prefix}/algo-{number}" for number in range(1, self._instance_count + 1)]
        if self._instance_count == 1:
            writers.append(key_prefix)
        self._next_chunk = dict.fromkeys(writers, 1)

    def attach(self, encoded_params: str) -> None:
        """Read an adopted job's messages from the place in its environment, from its first message
        on.

        Args:
            encoded_params: The ``DAGSTER_PIPES_MESSAGES`` of the job's environment.

        Raises:
            ValueError: It does not name the place.
        """
        try:
            params = decode_param(encoded_params)
            bucket, key_prefix = str(params["bucket"]), str(params["key_prefix"])
        except (ValueError, KeyError, TypeError, zlib.error) as error:
            raise ValueError("DAGSTER_PIPES_MESSAGES names no bucket and key_prefix") from error
        self._read_from(bucket, key_prefix)

    @contextmanager
    def read_messages(self, handler: PipesMessageHandler) -> Iterator[PipesParams]:
        """Open the reader for a session. Messages are read when ``poll`` or ``drain`` is called."""
        if not self._next_chunk:
            raise DagsterInvariantViolationError(
                "A PipesSageMakerMessageReader is opened by PipesSageMakerTrainingJobClient.run, "
                "for one job."
            )
        self._handler = handler
        try:
            yield self._params
        finally:
            for closed in self._closed.values():
                handler.handle_message(closed)
            self._handler = None

    def poll(self) -> None:
        """Handle every message that has arrived since the last call. A fault of S3 gives a warning,
        and is tried again later."""
        for writer in self._next_chunk:
            try:
                self._read(writer)
            except (ClientError, BotoCoreError) as error:
                self._warn_once(
                    type(error).__name__ + str(error),
                    f"could not read messages below s3://{self._params['bucket']}/{writer}, will "
                    f"try again: {error}",
                )

    def drain(self, attempts: int = 6) -> None:
        """Handle every message left by a job that has ended.

        S3 shows an object at once after its PUT, so one pass that succeeds has seen everything.

        Raises:
            ClientError, BotoCoreError: S3 failed in each of the attempts, the last a minute after
                the first. The job is not affected; a new run adopts it and reads its messages from
                the start.
        """
        for writer in self._next_chunk:
            for attempt in range(1, attempts + 1):
                try:
                    self._read(writer)
                    break
                except (ClientError, BotoCoreError) as error:
                    if attempt == attempts or not is_transient(error):
                        raise
                    time.sleep(2.0**attempt)

    def _read(self, writer: str) -> None:
        while (chunk := self._chunk(f"{writer}/{self._next_chunk[writer]}.json")) is not None:
            self._next_chunk[writer] += 1
            for line in chunk.split("\n"):
                if line:
                    self._handle(writer, line)

    def _chunk(self, key: str) -> str | None:
        try:
            answer = self.client.get_object(Bucket=self._params["bucket"], Key=key)
        except ClientError as error:
            if error_code(error) in _ABSENT_CODES:
                return None
            if error_code(error) in _DENIED_CODES:
                # Without s3:ListBucket, S3 answers 403 for a key that does not exist yet.
                self._warn_once(
                    "denied",
                    f"s3://{self._params['bucket']}/{key}: 403. Grant s3:GetObject, s3:ListBucket.",
                )
                return None
            raise
        with answer["Body"] as body:
            if answer["ContentLength"] > MAX_CHUNK_BYTES:
                self._warn_once(
                    key,
                    f"s3://{self._params['bucket']}/{key} is skipped: over {MAX_CHUNK_BYTES} "
                    f"bytes.",
                )
                return ""
            return body.read().decode("utf-8", errors="replace")

    def _handle(self, writer: str, line: str) -> None:
        if self._handler is None:
            raise DagsterInvariantViolationError("Messages are read inside a Pipes session only.")
        try:
            message = json.loads(line)
        except ValueError:
            message = None
        if not isinstance(message, dict) or PIPES_PROTOCOL_VERSION_FIELD not in message:
            self._warn_once(
                line[:200],
                f"{writer}/{self._next_chunk[writer] - 1}.json: not a Pipes message: {line[:200]}",
            )
            return
        method = message.get("method")
        self._closed.pop(writer, None)  # It writes again after a restart.
        if method == "closed":
            # Its one key of interest was just checked.
            self._closed[writer] = message  # type: ignore[assignment]
            return
        if method == "opened":
            if writer in self._opened:
                return
            self._opened.add(writer)
        try:
            # The handler checks each method's params.
            self._handler.handle_message(message)  # type: ignore[arg-type]
        # One malformed message of a container must not lose the ones behind it.
        except Exception:  # noqa: BLE001
            self._handler.report_pipes_framework_exception(f"a message of {writer}", sys.exc_info())

    def _warn_once(self, key: str, text: str) -> None:
        if key not in self._warned and self._log is not None:
            self._warned.add(key)
            self._log.warning(f"[pipes] {text}")

    def no_messages_debug_text(self) -> str:
        """Advice for the case that no message came."""
        return (
            f"Attempted to read messages from "
            f"s3://{self.bucket}/{self._params.get('key_prefix', self.key_prefix)}/algo-N/."
            " Expected each instance to open dagster_pipes with a writer that adds its host name "
            "to key_prefix,"
            " or a single instance with PipesS3MessageWriter."
        )


class PipesSageMakerLogReader:
    """Forwards the CloudWatch log lines of a training job's instances to the compute log of the
    Dagster run.

    CloudWatch Logs counts its quotas for the whole account: GetLogEvents 25 a second,
    DescribeLogStreams 25
    (https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/cloudwatch_limits_cwl.html). So a job
    makes at most one call every ``interval``, with any number of instances, and slows down while it
    is throttled.

    Args:
        client: A CloudWatch Logs client; by default ``boto3.client("logs")``.
        interval: Seconds between two calls. A call reads up to 10,000 lines (1 MB) of one stream,
            in turn.
        settle: Seconds to wait, when the job has ended, for CloudWatch to show its last lines.
        drain_timeout: Seconds after which the rest of the lines is left in CloudWatch.
        target_stream: Where lines go; by default ``sys.stdout``, the compute log.
    """

    def __init__(
        self,
        *,
        client: "CloudWatchLogsClient | None" = None,
        interval: float = 5.0,
        settle: float = 3.0,
        drain_timeout: float = 60.0,
        target_stream: IO[str] | None = None,
    ) -> None:
        self.client: CloudWatchLogsClient = client or boto3.client("logs")
        self.interval = interval
        self.settle = settle
        self.drain_timeout = drain_timeout
        self.target_stream = target_stream

    def for_training_job(
        self, job_name: str, instance_count: int, log: logging.Logger
    ) -> "TrainingJobLogs":
        """A reader that follows one job's streams from their first line on."""
        return TrainingJobLogs(self, job_name, instance_count, log)


class TrainingJobLogs:
    """The log streams of one training job, read one call at a time."""

    def __init__(
        self,
        reader: PipesSageMakerLogReader,
        job_name: str,
        instance_count: int,
        log: logging.Logger,
    ) -> None:
        self._reader = reader
        self._job_name = job_name
        self._instance_count = instance_count
        self._log = log
        self._tokens: dict[str, str | None] = {}
        self._turn: deque[str] = deque()
        self._next_discovery = 0.0
        self._slowed_to = 0.0
        self._refused = False
        self.due = 0.0
        """When ``poll`` next makes a call, on the clock of ``time.monotonic``."""

    def poll(self) -> None:
        """Make one call if one is due: look for streams, or read on in the next stream in turn."""
        if time.monotonic() < self.due:
            return
        if time.monotonic() >= self._next_discovery:
            self._call(self._discover)
        elif self._turn:
            self._turn.rotate(-1)
            self._call(partial(self._forward, self._turn[-1]))
        self.due = (
            math.inf
            if self._refused
            else time.monotonic() + max(self._reader.interval, self._slowed_to)
        )

    def drain(self) -> None:
        """Forward the remaining lines when the job has ended, for at most ``drain_timeout``
        seconds."""
        if self._refused:
            return
        time.sleep(self._reader.settle)
        deadline = time.monotonic() + self._reader.drain_timeout
        self._finish([self._discover], deadline)
        self._finish([partial(self._forward, stream) for stream in self._tokens], deadline)

    def _finish(self, steps: Iterable[Callable[[], bool]], deadline: float) -> None:
        left = deque(steps)
        while left and not self._refused:
            if time.monotonic() > deadline:
                self._log.warning(
                    f"[pipes] the last log lines of {self._job_name} are in CloudWatch only: no "
                    f"time left."
                )
                return
            if self._call(left[0]):
                left.popleft()
            else:
                left.rotate(-1)
            time.sleep(max(_DRAIN_PAUSE, self._slowed_to))

    def _call(self, step: Callable[[], bool]) -> bool:
        """Make one call. Returns whether its step needs no further one. Slow down at each fault of
        the service in a row."""
        try:
            done = step()
        except (ClientError, BotoCoreError) as error:
            if is_transient(error):
                self._slowed_to = min(max(2 * self._slowed_to, 1.0), _SLOWEST_LOG_INTERVAL)
                return False
            self._refused = True
            self._log.warning(f"[pipes] log lines of {self._job_name} are not forwarded: {error}")
            return False
        self._slowed_to = 0.0
        return done

    def _discover(self) -> bool:
        try:
            answer = self._reader.client.describe_log_streams(
                logGroupName=LOG_GROUP, logStreamNamePrefix=f"{self._job_name}/"
            )
        except self._reader.client.exceptions.ResourceNotFoundException:
            # An account's first job makes the group.
            self._next_discovery = time.monotonic() + self._reader.interval
            return True
        for stream in answer["logStreams"]:
            name = stream["logStreamName"]
            if name not in self._tokens:
                self._tokens[name] = None
                self._turn.append(name)
        complete = len(self._tokens) >= self._instance_count
        self._next_discovery = time.monotonic() + (
            _STREAM_DISCOVERY_INTERVAL if complete else 2 * self._reader.interval
        )
        return True

    def _forward(self, stream: str) -> bool:
        """Write the next lines of a stream. Returns whether the stream held no more at this
        moment."""
        token = self._tokens[stream]
        request: dict[str, Any] = {
            "logGroupName": LOG_GROUP,
            "logStreamName": stream,
            "startFromHead": True,
        }
        if token is not None:
            request["nextToken"] = token
        try:
            answer = self._reader.client.get_log_events(**request)
        except self._reader.client.exceptions.ResourceNotFoundException:
            return True
        target = self._reader.target_stream or sys.stdout
        host = stream.removeprefix(f"{self._job_name}/").rpartition("-")[0]
        label = f"{host} | " if self._instance_count > 1 and host else ""
        for event in answer["events"]:
            for line in event.get("message", "").splitlines() or [""]:
                target.write(f"{label}{line}\n")
        target.flush()
        self._tokens[stream] = answer["nextForwardToken"]
        # GetLogEvents answers with the token it was sent once it has reached the end of the stream.
        return answer["nextForwardToken"] == token
