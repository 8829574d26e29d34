"""Asynchronous bodies of up to 1 GiB, from S3 through the containers' server and back."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from infrastructure.local_cloud import LocalCloud
from tests.containers.runtime.serving import archive_model
from tests.local_sagemaker.asynchronous_endpoints import Async, Mailbox
from tests.local_sagemaker.conftest import Emulator, create_endpoint_config, create_model, unique

STREAMER: Final = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/streamer:1"
MIB: Final = 1024 * 1024
BOUND_BYTES: Final = 40 * MIB
"""What a process may take more while a body passes: less than any of the bodies."""
LINE: Final = json.dumps({"model": "acme/v1.tar.gz", "request": {"add": 1}}).encode() + b"\n"


@pytest.fixture(scope="module")
def large(
    emulator: Emulator, s3: Any, local_cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Async]:
    bucket = unique("large")
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    archive = archive_model(tmp_path_factory.mktemp("model") / "v1.tar.gz")
    s3.put_object(Bucket=bucket, Key="models/acme/v1.tar.gz", Body=archive.read_bytes())
    made = Async(emulator, s3, bucket, Mailbox(local_cloud))
    yield made
    made.close()


def endpoint(large: Async, **environment: str) -> str:
    """An endpoint of the tiny family on the containers' server."""
    model = create_model(
        large.sagemaker,
        Image=STREAMER,
        Environment={"TENANTRY_MODELS_URI": f"s3://{large.bucket}/models/", **environment},
    )
    output = {
        "S3OutputPath": f"s3://{large.bucket}/out",
        "S3FailurePath": f"s3://{large.bucket}/failed",
        "NotificationConfig": {
            "SuccessTopic": large.mailbox.success,
            "ErrorTopic": large.mailbox.error,
        },
    }
    config = create_endpoint_config(large.sagemaker, model, asynchronous={"OutputConfig": output})
    return large.endpoint(config)


def put(large: Async, size: int, line: bytes = LINE) -> str:
    """The location of an object of `size` bytes: the record's line, then zeros."""
    key = f"in/{unique('body')}"
    with tempfile.TemporaryFile() as file:
        file.write(line)
        file.truncate(size)
        file.seek(0)
        large.s3.put_object(Bucket=large.bucket, Key=key, Body=file)
    return f"s3://{large.bucket}/{key}"


def forget_peak(pid: int) -> int:
    """Begin to measure a process's peak of memory anew; its memory now, in bytes."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return memory(pid, "VmRSS")


def memory(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no {field}")


def check_passes(large: Async, emulator: Emulator, size: int) -> None:
    assert emulator.process is not None
    before_others = set(emulator.containers())
    name = endpoint(large, TINY_STREAMS="1")
    (container,) = set(emulator.containers()) - before_others
    warm = large.runtime.invoke_endpoint_async(EndpointName=name, InputLocation=put(large, 2 * MIB))
    large.mailbox.message(warm["InferenceId"])
    location = put(large, size)
    pids = (emulator.process.pid, container)
    before = [forget_peak(pid) for pid in pids]
    sent = large.runtime.invoke_endpoint_async(
        EndpointName=name, InputLocation=location, ContentType="application/octet-stream"
    )
    message = large.mailbox.message(sent["InferenceId"], seconds=240)
    assert message["invocationStatus"] == "Completed"
    grown = [memory(pid, "VmHWM") - was for pid, was in zip(pids, before, strict=True)]
    assert max(grown) < BOUND_BYTES, f"emulator and container grew by {grown}"
    found = large.read(sent["OutputLocation"])
    assert found["ContentType"] == "application/octet-stream"
    assert found["ContentLength"] == size - len(LINE)
    digest, expected = hashlib.sha256(), hashlib.sha256()
    for piece in found["Body"].iter_chunks(MIB):
        digest.update(piece)
        expected.update(b"\1" * len(piece))
    assert digest.digest() == expected.digest()
    for uri in (location, sent["OutputLocation"]):
        large.s3.delete_object(Bucket=large.bucket, Key=uri.removeprefix(f"s3://{large.bucket}/"))


def test_a_large_body_passes_in_bounded_memory(large: Async, emulator: Emulator) -> None:
    check_passes(large, emulator, 64 * MIB)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_body_of_a_gibibyte_passes_in_bounded_memory(large: Async, emulator: Emulator) -> None:
    check_passes(large, emulator, 1024 * MIB)


def test_a_family_that_reads_requests_whole_refuses_a_large_one(large: Async) -> None:
    name = endpoint(large)
    fits = LINE.rstrip() + b" " * (6_291_456 - len(LINE) + 1)
    sent = large.runtime.invoke_endpoint_async(
        EndpointName=name, InputLocation=put(large, 6_291_456, fits)
    )
    assert large.answer(sent) == {"mean": 2.0}
    for size in (6_291_457, 64 * MIB):  # the second is refused while it is sent
        sent = large.runtime.invoke_endpoint_async(
            EndpointName=name, InputLocation=put(large, size, fits)
        )
        reason, body = large.failure(sent)
        assert "Received client error (413) from model" in reason
        assert json.loads(body)["error"] == {
            "code": "PayloadTooLarge",
            "message": "the body is larger than 6291456 bytes",
        }
