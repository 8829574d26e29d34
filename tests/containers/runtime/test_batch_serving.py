"""Batch transform: one model or a folder of many tenants' models, one record or many in a body."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.containers.runtime.serving import Server, archive_model, folder_model, serving

BATCH = {"SAGEMAKER_BATCH": "true"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("batch")
    for number in range(10):
        archive_model(base / "model" / f"tenant-{number}" / "v1.tar.gz", float(number), size=400)
    (base / "model" / "bad").mkdir()
    (base / "model" / "bad" / "v1.tar.gz").write_bytes(b"no archive")
    archive_model(base / "model" / "huge" / "v1.tar.gz", size=5000)
    archive_model(base / "elsewhere" / "v1.tar.gz")
    return base


@pytest.fixture(scope="module")
def server(base: Path) -> Iterator[Server]:
    """A server with room for two of the models."""
    with serving(
        base, TENANTRY_MODEL_MEMORY_BYTES="1000", SAGEMAKER_MAX_PAYLOAD_IN_MB="7", **BATCH
    ) as server:
        yield server


def record(tenant: str, request: Any) -> dict[str, Any]:
    return {"model": f"{tenant}/v1.tar.gz", "request": request}


def lines(*records: Any) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in records)


def test_a_record_is_answered_by_the_model_it_names(server: Server) -> None:
    assert server.call("POST", "/invocations", record("tenant-3", {"add": 1})) == (
        200,
        {"mean": 4.0},
    )


@pytest.mark.parametrize("kind", ["application/jsonlines", "application/json"])
def test_lines_are_answered_in_order_and_each_on_its_line(server: Server, kind: str) -> None:
    body = lines(*(record(f"tenant-{number % 10}", {"add": number}) for number in range(30)))
    status, answer = server.call(
        "POST", "/invocations", body, {"Content-Type": kind, "Accept": "application/jsonlines"}
    )
    assert status == 200
    assert [json.loads(line)["mean"] for line in answer.splitlines()] == [
        number % 10 + number for number in range(30)
    ]
    assert server.status()["memory"]["used_bytes"] <= 1000
    assert server.status()["evictions"] > 0


@pytest.mark.parametrize(
    ("bad", "status", "code", "reason"),
    [
        (
            record("bad", {}),
            400,
            "InvalidModel",
            "record 1: v1.tar.gz is not a whole gzipped tar archive",
        ),
        (record("nobody", {}), 400, "InvalidModel", "record 1: there is no"),
        (record("huge", {}), 507, "InsufficientMemory", "record 1: "),
        (
            record("tenant-1", {"add": "x"}),
            400,
            "InvalidRequest",
            "record 1: 'add' must be a number",
        ),
        (record("../elsewhere", {}), 400, "InvalidRequest", "record 1: 'model' must be"),
        (record("..", {}), 400, "InvalidRequest", "record 1: 'model' must be"),
        (record("", {}), 400, "InvalidRequest", "record 1: 'model' must be"),
        ({"request": {}}, 400, "InvalidRequest", "record 1: 'model' must be"),
        ({"model": "tenant-1/v1.tar.gz"}, 400, "InvalidRequest", "record 1: the record must be"),
        (["tenant-1"], 400, "InvalidRequest", "record 1: the record must be"),
    ],
)
def test_a_record_that_cannot_be_answered_fails_its_request_with_the_reason(
    server: Server, bad: Any, status: int, code: str, reason: str
) -> None:
    answer, document = server.call(
        "POST", "/invocations", lines(record("tenant-1", {}), bad, record("tenant-2", {}))
    )
    assert (answer, document["error"]["code"]) == (status, code)
    assert document["error"]["message"].startswith(reason)
    assert server.call("POST", "/invocations", record("tenant-1", {}))[0] == 200


def test_the_body_may_be_as_large_as_the_transform_job_says(server: Server) -> None:
    body = json.dumps(record("tenant-1", {"add": 1})).encode()
    assert server.call("POST", "/invocations", body.ljust(7 * 1024 * 1024))[0] == 200
    assert server.call("POST", "/invocations", body.ljust(7 * 1024 * 1024 + 1))[0] == 413
    assert server.call("GET", "/execution-parameters")[1]["MaxPayloadInMB"] == 7


def test_empty_bodies_and_noise_are_refused(server: Server) -> None:
    for body in (b"", b"\n\n", b"noise"):
        assert server.call("POST", "/invocations", body)[0] == 400


@pytest.mark.parametrize("kind", ["serve", "serve-threaded", "serve-batching"])
def test_one_model_answers_records_that_name_none(tmp_path: Path, kind: str) -> None:
    folder_model(tmp_path / "model", 5.0)
    with serving(tmp_path, kind, **BATCH) as server:
        status, answer = server.call(
            "POST", "/invocations", lines(*({"add": number} for number in range(40)))
        )
        assert status == 200
        assert [json.loads(line)["mean"] for line in answer.splitlines()] == [
            5.0 + number for number in range(40)
        ]
        assert server.call("POST", "/invocations", b'{\n  "add": 1\n}')[1]["mean"] == 6.0
        assert server.call("POST", "/invocations", lines({"add": 1}, {"add": "x"}))[0] == 400


def test_when_a_record_cannot_be_answered_the_work_for_the_others_is_called_off(
    tmp_path: Path,
) -> None:
    folder_model(tmp_path / "model", 5.0)
    with serving(tmp_path, "serve-batching", **BATCH) as server:
        assert (
            server.call(
                "POST", "/invocations", lines({"together": 9}, {"add": "x"}, {"together": 9})
            )[0]
            == 400
        )
        server.until(lambda status: status["tiny"]["called_off"] == 2)
        assert server.status()["tiny"]["waiting"] == 0
        assert server.status()["in_use"] == 0
