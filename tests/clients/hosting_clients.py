"""boto3, the AWS CLI and sagemaker-core behind one call, so that the same steps judge all three."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from botocore import xform_name
from botocore.exceptions import ClientError

from tests.clients.aws_cli import Cli


class RefusedError(Exception):
    """AWS's answer to a request that it does not carry out."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class Client(Protocol):
    """A client of SageMaker."""

    writes_memory_sizes: bool
    """Whether the client can name a serverless variant's memory."""

    def call(self, operation: str, **request: Any) -> Any:
        """The answer to an operation, named as in boto3, with members named as in the API. Raises
        `RefusedError`."""

    def close(self) -> None:
        """End the client's process."""


class Boto3:
    """boto3, in this process."""

    writes_memory_sizes = True

    def __init__(self, sagemaker: Any, runtime: Any) -> None:
        self._sagemaker = sagemaker
        self._runtime = runtime

    def call(self, operation: str, **request: Any) -> Any:
        """See `Client`."""
        client = self._runtime if operation == "invoke_endpoint" else self._sagemaker
        try:
            answer = getattr(client, operation)(**request)
        except ClientError as error:
            told = error.response["Error"]
            raise RefusedError(told["Code"], told["Message"]) from error
        if operation == "invoke_endpoint":
            answer["Body"] = answer["Body"].read().decode()
        return answer

    def close(self) -> None:
        """Nothing to end."""


class AwsCli:
    """The AWS CLI; nested members are JSON on its command line."""

    writes_memory_sizes = True

    def __init__(self, environment: Mapping[str, str], folder: Path) -> None:
        self._cli = Cli(dict(environment), folder)

    def call(self, operation: str, **request: Any) -> Any:
        """See `Client`."""
        invoked = operation == "invoke_endpoint"
        command = f"{'sagemaker-runtime' if invoked else 'sagemaker'} {operation.replace('_', '-')}"
        status, output, errors = self._cli.run(
            f"{command} answer" if invoked else command,
            **{xform_name(name): value for name, value in request.items()},
        )
        if status != 0:
            told = re.search(r"An error occurred \((\w+)\) when calling .*? operation.*?: ", errors)
            assert told is not None, errors
            raise RefusedError(told[1], errors[told.end() :].strip())
        answer = json.loads(output) if output else {}
        if invoked:
            answer["Body"] = (self._cli.folder / "answer").read_text()
        return answer

    def close(self) -> None:
        """End the CLI's process."""
        self._cli.close()


class SagemakerCore:
    """sagemaker-core's resource classes, in a process of their own: they keep one client for each
    process."""

    writes_memory_sizes = False  # 3.27.0 writes MemorySizeInMB as MemorySizeInMb

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("sagemaker_core_driver.py"))],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def call(self, operation: str, **request: Any) -> Any:
        """See `Client`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([operation, request]) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if "refused" in answer:
            raise RefusedError(*answer["refused"])
        return answer["result"]

    def close(self) -> None:
        """End the process."""
        with self._process:
            pass
