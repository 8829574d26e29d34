"""Other unchanged clients of SageMaker, each in its own process and environment."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.clients.environments import python_of
from tests.local_sagemaker.conftest import Emulator, keys

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # the first run creates the environments


def walk(client: str, script: str, emulator: Emulator, bucket: str, **variables: str) -> Any:
    """A walkthrough's results: the last line of its output, because its client writes there too."""
    done = subprocess.run(
        [str(python_of(client)), str(Path(__file__).with_name(script)), bucket],
        env={**os.environ, **emulator.environment, **variables},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_sdk_2(emulator: Emulator, s3: Any, bucket: str, tmp_path: Path) -> None:
    s3.put_object(Bucket=bucket, Key="in/a.txt", Body=b"alpha")
    configuration = tmp_path / "config.yaml"
    configuration.write_text(
        "SchemaVersion: '1.0'\nSageMaker:\n  PythonSDK:\n    Modules:\n      TelemetryOptOut: "
        "true\n"
    )
    seen = walk(
        "sagemaker2",
        "sagemaker2_walkthrough.py",
        emulator,
        bucket,
        SAGEMAKER_USER_CONFIG_OVERRIDE=str(configuration),
    )
    image, hyperparameters, output, model = seen.pop("attached")
    assert image.endswith("/recorder:1")
    assert (hyperparameters, output) == ({"depth": "3"}, f"s3://{bucket}/out")
    assert model.endswith("/output/model.tar.gz")
    assert seen == {
        "answer": "1,2",
        "attached_transformer": f"s3://{bucket}/transformed//",
        "models": ["a.tar.gz"],
        "files": {"weights": "1"},
    }
    assert keys(s3, bucket, "transformed") == ["transformed//a.txt.out"]


def test_airflow(emulator: Emulator, s3: Any, bucket: str, tmp_path: Path) -> None:
    s3.put_object(Bucket=bucket, Key="in/a.txt", Body=b"alpha")
    seen = walk("airflow", "airflow_operators.py", emulator, bucket, AIRFLOW_HOME=str(tmp_path))
    assert seen == {
        "training": "Completed",
        "sensed": True,
        "renamed": True,
        "failure": True,
        "answer": "HELLO",
        "transform": "Completed",
        "models": 0,
    }
    assert keys(s3, bucket, "transformed/") == ["transformed/a.txt.out"]
