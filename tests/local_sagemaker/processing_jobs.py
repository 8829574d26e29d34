"""Requests for processing jobs of the processor container, for tests."""

from __future__ import annotations

from typing import Any, Final

from tests.local_sagemaker.conftest import ROLE, unique, wait_for

PROCESSOR: Final = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/processor:1"


def source(name: str, uri: Any, **changes: Any) -> dict[str, Any]:
    """An input below `/opt/ml/processing/input`."""
    place = {
        "S3Uri": uri,
        "LocalPath": f"/opt/ml/processing/input/{name}",
        "S3DataType": "S3Prefix",
        "S3InputMode": "File",
    }
    return {"InputName": name, "S3Input": {**place, **changes}}


def target(name: str, uri: str, mode: str = "EndOfJob", **changes: Any) -> dict[str, Any]:
    """An output below `/opt/ml/processing/output`."""
    place = {"S3Uri": uri, "LocalPath": f"/opt/ml/processing/output/{name}", "S3UploadMode": mode}
    return {"OutputName": name, "S3Output": {**place, **changes}}


def processing_request(bucket: str, *, hosts: int = 1, **changes: Any) -> dict[str, Any]:
    """A request with one output, `records`; keyword arguments replace members."""
    return {
        "ProcessingJobName": unique("processing"),
        "AppSpecification": {"ImageUri": PROCESSOR},
        "RoleArn": ROLE,
        "ProcessingOutputConfig": {"Outputs": [target("records", f"s3://{bucket}/out")]},
        "ProcessingResources": {
            "ClusterConfig": {
                "InstanceType": "ml.m5.large",
                "InstanceCount": hosts,
                "VolumeSizeInGB": 1,
            }
        },
        **changes,
    }


def create_processing_job(client: Any, bucket: str, **changes: Any) -> str:
    """The name of a new job of `processing_request`."""
    request = processing_request(bucket, **changes)
    client.create_processing_job(**request)
    return str(request["ProcessingJobName"])


def ended_processing_job(client: Any, name: str) -> Any:
    """The job's description once it has ended."""
    return wait_for(
        lambda: client.describe_processing_job(ProcessingJobName=name),
        lambda job: job["ProcessingJobStatus"] in ("Completed", "Failed", "Stopped"),
    )
