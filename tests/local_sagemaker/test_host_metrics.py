"""The metrics of instances: what containers use, once an instance and minute."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest

from infrastructure.local_cloud import LocalCloud
from local_sagemaker.processes.usage import Gpu, folder_bytes, gpus, usage_by_container
from local_sagemaker.processes.watcher import CONTAINER_VARIABLE
from tests.local_sagemaker.conftest import (
    Emulator,
    create_endpoint_config,
    create_model,
    settled_endpoint,
    tar_gz,
    unique,
    wait_for,
)

OF_INSTANCES = "/aws/sagemaker/Endpoints"
Read = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def minutes(emulator: Emulator, local_cloud: LocalCloud) -> Read:
    """Reads the minutes of a metric of an endpoint's variant, the earliest first."""
    url = emulator.environment.get("AWS_ENDPOINT_URL_CLOUDWATCH", local_cloud.ministack_url)
    cloudwatch: Any = boto3.client("cloudwatch", endpoint_url=url, region_name="eu-west-1")
    now = datetime.datetime.now(datetime.UTC)

    def read(endpoint: str, metric: str, namespace: str = OF_INSTANCES) -> list[dict[str, Any]]:
        points = cloudwatch.get_metric_statistics(
            Namespace=namespace,
            MetricName=metric,
            Dimensions=[
                {"Name": "EndpointName", "Value": endpoint},
                {"Name": "VariantName", "Value": "variant-1"},
            ],
            Statistics=["SampleCount", "Sum", "Minimum", "Maximum"],
            StartTime=now - datetime.timedelta(hours=1),
            EndTime=now + datetime.timedelta(hours=1),
            Period=60,
        )["Datapoints"]
        return sorted(points, key=lambda point: point["Timestamp"])

    return read


def multi_model_endpoint(sagemaker: Any, s3: Any, bucket: str, instances: int) -> str:
    """An endpoint that is InService early in a minute."""
    s3.put_object(Bucket=bucket, Key="models/a", Body=tar_gz(weights="1" * 1000))
    model = create_model(sagemaker, Mode="MultiModel", ModelDataUrl=f"s3://{bucket}/models/")
    name = unique("endpoint")
    config = create_endpoint_config(sagemaker, model, instances=instances)
    if (into := time.time() % 60) > 45:
        time.sleep(60 - into)
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=config)
    assert settled_endpoint(sagemaker, name)["EndpointStatus"] == "InService"
    return name


def test_each_instance_gives_one_sample_however_often_metrics_are_sent(
    sagemaker: Any, runtime: Any, s3: Any, bucket: str, minutes: Read
) -> None:
    name = multi_model_endpoint(sagemaker, s3, bucket, 2)
    for _ in range(6):
        runtime.invoke_endpoint(EndpointName=name, TargetModel="a", Body=b"hello")
    wait_for(lambda: minutes(name, "CPUUtilization"), bool)
    time.sleep(2.5)  # in which metrics are sent twice
    of_metric = {
        metric: minutes(name, metric)
        for metric in ("CPUUtilization", "MemoryUtilization", "DiskUtilization", "LoadedModelCount")
    }
    (per_instance,) = minutes(name, "InvocationsPerInstance", "AWS/SageMaker")
    sagemaker.delete_endpoint(EndpointName=name)
    for metric, (point,) in of_metric.items():
        assert (metric, point["SampleCount"]) == (metric, 2)
    assert of_metric["CPUUtilization"][0]["Minimum"] > 0
    assert 0 < of_metric["MemoryUtilization"][0]["Minimum"] < 100
    assert 0 <= of_metric["DiskUtilization"][0]["Maximum"] < 100
    assert per_instance["Sum"] == pytest.approx(3)


@pytest.mark.slow
def test_a_busy_instance_shows_in_the_next_minute(
    sagemaker: Any, runtime: Any, s3: Any, bucket: str, minutes: Read
) -> None:
    name = multi_model_endpoint(sagemaker, s3, bucket, 2)

    def spin(_: int) -> None:
        runtime.invoke_endpoint(EndpointName=name, TargetModel="a", Body=b"spin 20")

    with ThreadPoolExecutor(1) as pool:
        list(pool.map(spin, range(3)))
    after = wait_for(lambda: minutes(name, "CPUUtilization"), lambda found: len(found) == 2)[1]
    loaded = minutes(name, "LoadedModelCount")[1]
    sagemaker.delete_endpoint(EndpointName=name)
    assert after["SampleCount"] == loaded["SampleCount"] == 2
    assert after["Minimum"] < 20 < after["Maximum"] < 130
    assert (loaded["Minimum"], loaded["Maximum"]) == (0, 1)


def test_what_a_container_uses_is_summed_over_its_processes_and_those_that_ended() -> None:
    token = unique("token")
    spinning = "import time; end = time.process_time() + 0.2\nwhile time.process_time() < end: pass"
    program = (
        "import subprocess, sys, time\n"
        f"subprocess.run([sys.executable, '-c', {spinning!r}])\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
        "child.kill()\n"
    )
    container = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, CONTAINER_VARIABLE: token},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert container.stdout is not None
    assert container.stdout.readline() == b"ready\n"
    usage = usage_by_container()[token]
    container.communicate(b"")
    assert len(usage.process_ids) == 2
    assert container.pid in usage.process_ids
    assert 0.2 <= usage.cpu_seconds < 10
    assert 1_000_000 < usage.memory_bytes < 1_000_000_000
    assert token not in usage_by_container()


def test_a_folder_has_the_bytes_of_all_its_files(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "one").write_bytes(b"x" * 10)
    (tmp_path / "a" / "b" / "two").write_bytes(b"x" * 5)
    assert folder_bytes(tmp_path) == 15
    assert folder_bytes(tmp_path / "missing") == 0


SMI = """#!/bin/sh
case "$1" in
  --query-gpu=*) printf 'GPU-a, 71, 80000\\nGPU-b, 0, 80000\\n';;
  --query-compute-apps=*) printf 'GPU-a, 17, 2000\\nGPU-a, 18, 500\\n';;
esac
"""


@pytest.mark.parametrize(
    ("script", "found"),
    [
        (SMI, [Gpu(71, 80000, {17: 2000, 18: 500}), Gpu(0, 80000, {})]),
        (SMI.replace("71", "[N/A]"), []),
        ("#!/bin/sh\nexit 9\n", []),
        (None, []),
    ],
)
def test_gpus_are_what_nvidia_smi_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, found: list[Gpu]
) -> None:
    if script is not None:
        (tmp_path / "nvidia-smi").write_text(script)
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin" if script else str(tmp_path))
    assert gpus() == found
