"""The SageMaker SDK's resource classes, unchanged, against the emulator."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.local_sagemaker.conftest import Emulator, keys, model_files


@pytest.mark.slow
def test_the_sdk_trains_with_a_folder_of_source_code(
    emulator: Emulator, s3: Any, bucket: str
) -> None:
    """test_training.py has the short twin, about `/opt/ml` in a container."""
    s3.put_object(Bucket=bucket, Key="in/a.txt", Body="alpha")
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("source_code_walkthrough.py")), bucket],
        env={**os.environ, **emulator.environment, "SAGEMAKER_VALIDATE_ROLE": "false"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["status"] == "Completed"
    job = {"ModelArtifacts": {"S3ModelArtifacts": seen["model"]}}
    assert model_files(s3, job) == {"found.txt": "ALPHA"}


def test_the_sdk_s_resource_classes_work_unchanged(
    emulator: Emulator, s3: Any, bucket: str
) -> None:
    """It runs in a separate process, because the SDK keeps one client per process and uses 200
    MB."""
    s3.put_object(Bucket=bucket, Key="in/a.txt", Body="alpha")
    script = Path(__file__).with_name("sdk_walkthrough.py")
    # Its welcome and progress also go to standard output; the result is the last line.
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script), bucket],
        env={**os.environ, **emulator.environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "training": "Completed",
        "listed": ["sdk-job"],
        "answer": "HELLO",
        "content_type": "text/plain",
        "transform": "Completed",
    }
    assert keys(s3, bucket, "transformed/") == ["transformed/a.txt.out"]


@pytest.mark.slow
def test_the_sdk_s_pipelines_work_unchanged(emulator: Emulator, s3: Any, bucket: str) -> None:
    """test_pipelines.py has the short twins."""
    s3.put_object(Bucket=bucket, Key="in/a.txt", Body="alpha")
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("pipeline_walkthrough.py")), bucket],
        env={**os.environ, **emulator.environment, "SAGEMAKER_VALIDATE_ROLE": "false"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "good": "Succeeded",
        "steps": ["Second", "Decide", "First"],
        "bad": "Step failure: One or multiple steps failed.",
        "waiter": "WaiterError",
        "message": "score bad",
    }
    assert keys(s3, bucket, "Second/") == ["Second/algo-1.json"]
