"""The unchanged AWS CLI, in an environment and a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.clients.environments import python_of


class Cli:
    """The CLI in a separate process."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        driver = Path(__file__).with_name("aws_cli_driver.py")
        self.folder = folder
        self._process = subprocess.Popen(
            [str(python_of("awscli")), str(driver)],
            env={**os.environ, **environment},
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, command: str, **options: Any) -> tuple[int, str, str]:
        """`aws {command} --option value`; its status, output and errors. Objects and lists are
        written as JSON, True as a flag."""
        arguments = command.split()
        for name, value in options.items():
            arguments.append(f"--{name.replace('_', '-')}")
            if value is not True:
                arguments.append(value if isinstance(value, str) else json.dumps(value))
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(arguments) + "\n")
        self._process.stdin.flush()
        status, output, errors = json.loads(self._process.stdout.readline())
        return status, output, errors

    def __call__(self, command: str, **options: Any) -> Any:
        """The answer of a successful command."""
        status, output, errors = self.run(f"sagemaker {command}", **options)
        assert status == 0, errors
        return json.loads(output) if output else None

    def refused(self, command: str, **options: Any) -> str:
        """The message of a failing command."""
        status, _, errors = self.run(f"sagemaker {command}", **options)
        assert status == 254 or status == 255, (status, errors)
        return errors

    def close(self) -> None:
        with self._process:  # closes its pipes, which ends it, and waits
            pass
