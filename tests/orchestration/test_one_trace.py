"""One trace from a tenant's upload to its predictions: in logs, rows, versions and spans."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from contracts.trace_context import trace_id_of
from tenantry.aws.deployment import Deployment
from tenantry.models.registry import ModelRegistry
from tenantry.names import ids
from tenantry.requests.queue import RequestQueue
from tests.tenantry.tracing.collector import collecting

ROOT: Final = Path(__file__).resolve().parents[2]
ENERGY, ACME = ids.workload_name("energy"), ids.tenant_id("acme")


def lines_of_containers(deployment: Deployment) -> list[dict[str, Any]]:
    """The log lines of the training job, the endpoint and the batch transform."""
    logs, lines = deployment.session.client("logs"), []
    for kind in ("TrainingJobs", "Endpoints", "TransformJobs"):
        groups = logs.describe_log_groups(logGroupNamePrefix=f"/aws/sagemaker/{kind}")
        for group in groups["logGroups"]:
            found = logs.filter_log_events(logGroupName=group["logGroupName"])["events"]
            lines += [{**json.loads(event["message"]), "of": kind} for event in found]
    return lines


def archived(deployment: Deployment) -> dict[str, Any]:
    """The only archived exchange."""
    s3, bucket = deployment.s3, deployment.data_bucket
    (entry,) = s3.list_objects_v2(Bucket=bucket, Prefix="archive/")["Contents"]
    exchange: dict[str, Any] = json.load(s3.get_object(Bucket=bucket, Key=entry["Key"])["Body"])
    return exchange


def test_one_trace_goes_from_an_upload_to_its_predictions(
    deployment: Deployment, consumption: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / "consumption.csv").write_bytes(consumption["tenant-0"])
    with collecting() as collector:
        done = subprocess.run(
            [sys.executable, "-m", "tests.orchestration.traced_walk", str(tmp_path)],
            cwd=ROOT,
            env={**os.environ, **collector.environment, "TENANTRY_LOG_FORMAT": "json"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr

    spans = {span.name: span for span in collector.spans}
    names = ["batch", "intake", "predict", "prepare", "register", "train", "upload"]
    assert sorted(span.name for span in collector.spans) == names
    trace_id = spans["upload"].trace_id
    assert {span.trace_id for span in spans.values()} == {trace_id}
    assert (spans["upload"].parent, spans["intake"].parent) == ("", spans["upload"].span_id)
    after_intake = {spans[name].parent for name in ("prepare", "train", "register", "batch")}
    assert after_intake == {spans["intake"].span_id}
    assert {span.attributes["tenantry.tenant"] for span in spans.values()} == {"acme"}
    assert {span.failed for span in spans.values()} == {None}

    *of_the_job, shown = map(json.loads, done.stdout.splitlines())
    assert set(shown.values()) == {trace_id}
    (row,) = RequestQueue(deployment).of_tenant(ENERGY, ACME)
    (version,) = ModelRegistry(deployment).versions(ACME, ENERGY)
    champion = ModelRegistry(deployment).champion(ACME, ENERGY)
    assert champion is not None
    for carrier in (row, version, champion):
        assert trace_id_of(carrier.traceparent) == trace_id
    assert archived(deployment)["trace_id"] == trace_id

    of_the_run = map(json.loads, done.stderr.splitlines())
    lines = [*of_the_job, *of_the_run, *lines_of_containers(deployment)]
    of_acme = [line for line in lines if "tenant" in line or "acme" in line["message"]]
    assert {line["trace_id"] for line in of_acme} == {trace_id}
    of_containers = {line["of"] for line in of_acme if "of" in line}
    assert of_containers == {"TrainingJobs", "Endpoints", "TransformJobs"}
    assert {line["trace_id"] for line in lines if "trace_id" in line} == {trace_id}
