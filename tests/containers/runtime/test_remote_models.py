"""A server that fetches the archive that a request names from S3: one process for any number of
tenants."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest

from infrastructure.local_cloud import LocalCloud
from tests.containers.runtime.serving import ROOT, Server, archive_model, free_port, serving, start

BUCKET, PREFIX = "remote-models", "endpoints/tiny/models/"
URI = f"s3://{BUCKET}/{PREFIX}"


class Archives:
    """The archives below the prefix."""

    def __init__(self, folder: Path) -> None:
        self._s3: Any = boto3.client("s3")
        self._folder = folder

    def make_bucket(self) -> None:
        self._s3.create_bucket(
            Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
        )

    def put(self, name: str, mean: float = 1.0, **fields: Any) -> None:
        content = archive_model(self._folder / name, mean, **fields).read_bytes()
        self.put_bytes(name, content)

    def put_bytes(self, name: str, content: bytes) -> None:
        self._s3.put_object(Bucket=BUCKET, Key=PREFIX + name, Body=content)

    def delete(self, name: str) -> None:
        self._s3.delete_object(Bucket=BUCKET, Key=PREFIX + name)


@pytest.fixture(scope="module")
def archives(local_cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Archives:
    local_cloud.reset()
    archives = Archives(tmp_path_factory.mktemp("archives"))
    archives.make_bucket()
    for number in range(10):
        archives.put(f"tenant-{number}/v1.tar.gz", float(number), size=400)
    archives.put_bytes("bad/v1.tar.gz", b"no archive")
    archives.put("huge/v1.tar.gz", size=5000)
    archives.put_bytes("heavy/v1.tar.gz", bytes(2000))
    return archives


@pytest.fixture(scope="module")
def server(archives: Archives, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with room for two of the models."""
    base = tmp_path_factory.mktemp("remote")
    with serving(
        base, "serve-threaded", TENANTRY_MODELS_URI=URI, TENANTRY_MODEL_MEMORY_BYTES="1000"
    ) as server:
        yield server


def ask(server: Server, model: Any, request: Any) -> tuple[int, Any]:
    return server.call("POST", "/invocations", {"model": model, "request": request})


def test_a_model_is_fetched_once_and_then_answers_from_memory(
    server: Server, archives: Archives
) -> None:
    archives.put("once/v1.tar.gz", 5.0, size=400)
    loads = server.status()["loads"]
    assert ask(server, "once/v1.tar.gz", {"add": 1}) == (200, {"mean": 6.0})
    archives.delete("once/v1.tar.gz")
    assert ask(server, "once/v1.tar.gz", {"add": 2}) == (200, {"mean": 7.0})
    assert server.status()["loads"] == loads + 1


def test_many_who_ask_for_one_model_at_once_fetch_it_once(
    server: Server, archives: Archives
) -> None:
    archives.put("popular/v1.tar.gz", 1.0, size=400)
    loads = server.status()["loads"]
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda add: ask(server, "popular/v1.tar.gz", {"add": add}), range(16))
        )
    assert answers == [(200, {"mean": 1.0 + add}) for add in range(16)]
    assert server.status()["loads"] == loads + 1


def test_more_tenants_than_fit_are_answered_each_by_its_own_model(server: Server) -> None:
    before = server.status()["evictions"]
    for turn in range(2):
        for number in range(10):
            assert ask(server, f"tenant-{number}/v1.tar.gz", {"add": turn}) == (
                200,
                {"mean": float(number + turn)},
            )
            assert server.status()["memory"]["used_bytes"] <= 1000
    assert server.status()["evictions"] >= before + 16


@pytest.mark.parametrize(
    ("model", "request_", "status", "code", "reason"),
    [
        ("nobody/v1.tar.gz", {}, 404, "NotFound", "there is no model 'nobody/v1.tar.gz'"),
        ("bad/v1.tar.gz", {}, 400, "InvalidModel", "v1.tar.gz is not a whole gzipped tar archive"),
        (
            "heavy/v1.tar.gz",
            {},
            400,
            "InvalidModel",
            "the archive of 'heavy/v1.tar.gz' has 2000 bytes; this server takes 1000",
        ),
        ("huge/v1.tar.gz", {}, 507, "InsufficientMemory", "takes 5000 bytes"),
        ("tenant-1/v1.tar.gz", {"add": "x"}, 400, "InvalidRequest", "'add' must be a number"),
        ("../tenant-1/v1.tar.gz", {}, 400, "InvalidRequest", "'model' must be"),
        ("tenant-1/../bad/v1.tar.gz", {}, 400, "InvalidRequest", "'model' must be"),
        ("tenant-1/v1.tar.gz?versionId=x", {}, 400, "InvalidRequest", "'model' must be"),
        ("tenant-1/v1", {}, 400, "InvalidRequest", "'model' must be"),
        (f"s3://{BUCKET}/tenant-1/v1.tar.gz", {}, 400, "InvalidRequest", "'model' must be"),
        ("", {}, 400, "InvalidRequest", "'model' must be"),
        (None, {}, 400, "InvalidRequest", "'model' must be"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_the_reason(
    server: Server, model: Any, request_: Any, status: int, code: str, reason: str
) -> None:
    answer, document = ask(server, model, request_)
    assert (answer, document["error"]["code"]) == (status, code)
    assert reason in document["error"]["message"]
    assert ask(server, "tenant-1/v1.tar.gz", {"add": 1}) == (200, {"mean": 2.0})


@pytest.mark.parametrize(
    "body", [b"", b"noise", b'{"model": "tenant-1/v1.tar.gz"}', b"[]", b'{"a": 1}\n{"a": 2}']
)
def test_a_body_that_is_not_one_record_is_refused(server: Server, body: bytes) -> None:
    assert server.call("POST", "/invocations", body)[0] == 400


def test_an_archive_that_comes_later_is_found_later(server: Server, archives: Archives) -> None:
    assert ask(server, "late/v1.tar.gz", {})[0] == 404
    archives.put("late/v1.tar.gz", 3.0, size=400)
    assert ask(server, "late/v1.tar.gz", {}) == (200, {"mean": 3.0})


def test_a_store_that_is_not_there_is_the_servers_fault_not_the_requests(
    archives: Archives, tmp_path: Path
) -> None:
    with serving(tmp_path, TENANTRY_MODELS_URI="s3://no-such-bucket/models/") as server:
        status, document = ask(server, "tenant-1/v1.tar.gz", {})
    assert (status, document["error"]["code"]) == (500, "InternalError")
    assert "could not be fetched: NoSuchBucket" in document["error"]["message"]


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"TENANTRY_MODELS_URI": "s3://bucket/models"}, "with a slash at its end"),
        ({"TENANTRY_MODELS_URI": "https://bucket/models/"}, "must be s3://bucket/prefix/"),
        (
            {"TENANTRY_MODELS_URI": URI, "SAGEMAKER_BATCH": "true"},
            "not for a multi-model endpoint or a batch",
        ),
        (
            {"TENANTRY_MODELS_URI": URI, "SAGEMAKER_MULTI_MODEL": "true"},
            "not for a multi-model endpoint or a batch",
        ),
    ],
)
def test_settings_that_contradict_each_other_end_the_server_with_the_reason(
    tmp_path: Path, environment: dict[str, str], reason: str
) -> None:
    said, _ = (process := start(tmp_path, free_port(), **environment)).communicate(timeout=30)
    assert process.returncode == 1
    assert reason in said
    assert "Traceback" not in said


def test_data_after_the_record_come_as_a_file(archives: Archives, tmp_path: Path) -> None:
    archives.put("streamed/v1.tar.gz", 5.0)
    record = b'{"model": "streamed/v1.tar.gz", "request": {"add": 1}}'
    with serving(tmp_path, "serve-streaming", TENANTRY_MODELS_URI=URI) as server:
        as_bytes = {"Content-Type": "application/octet-stream"}
        for data in (b"", b"abc", b"x" * 3_000_000):
            answer = server.call("POST", "/invocations", record + b"\n" + data, as_bytes)
            assert answer == (200, bytes(byte + 1 for byte in data))
        assert server.call("POST", "/invocations", record, as_bytes) == (200, b"")
        for wrong in (b"no record\nabc", record.ljust(1024 * 1024 + 1), b""):
            status, found = server.call("POST", "/invocations", wrong)
            assert (status, found["error"]["code"]) == (400, "InvalidRequest")
        status, found = server.call("POST", "/invocations", record.replace(b"streamed", b"nobody"))
        assert status == 404
        # Refused by its length, before any of it is sent.
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            length = 1024**3 + 1
            connection.sendall(
                b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % length
            )
            connection.sendall(record)
            said = connection.recv(1000)
        assert said.startswith(b"HTTP/1.1 413")
        assert server.call("POST", "/invocations", record, as_bytes) == (200, b"")


def test_a_server_without_remote_models_does_without_boto3() -> None:
    check = (
        "import sys, containers.runtime.serving.server; sys.exit('boto3' in sys.modules or "
        "'botocore' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=False).returncode == 0


def test_a_model_whose_request_waits_for_a_batch_makes_no_room_for_another(
    archives: Archives, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    surroundings = {"TENANTRY_MODEL_MEMORY_BYTES": "1000", "TENANTRY_MAX_BATCH": "4"}
    with (
        serving(tmp_path, "serve-together", TENANTRY_MODELS_URI=URI, **surroundings) as server,
        ThreadPoolExecutor(2) as threads,
    ):
        first = threads.submit(ask, server, "tenant-1/v1.tar.gz", {"wait_for": str(go)})
        server.until(lambda status: status["batching"]["calls"] == {"1": 1})
        second = threads.submit(ask, server, "tenant-2/v1.tar.gz", {"add": 1})
        server.until(lambda status: status["batching"]["waiting"] == 1)
        status, document = ask(server, "tenant-3/v1.tar.gz", {})
        assert (status, document["error"]["code"]) == (507, "InsufficientMemory")
        go.touch()
        assert first.result() == (200, {"mean": 1.0, "batch": 1})
        assert second.result() == (200, {"mean": 3.0, "batch": 1})
        assert ask(server, "tenant-3/v1.tar.gz", {}) == (200, {"mean": 3.0, "batch": 1})
        assert server.status()["evictions"] == 1
