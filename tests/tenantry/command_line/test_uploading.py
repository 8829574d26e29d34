"""Uploading from the command line, and following the upload."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from tenantry.aws import objects
from tenantry.aws.deployment import Deployment
from tenantry.names import ids, s3_keys
from tenantry.requests.queue import RequestQueue
from tenantry.uploads.intake import drain_queue
from tenantry.uploads.manifests import read_manifest
from tenantry.workloads.schema import read_workloads
from tenantry.workloads.skeleton import skeleton
from tests.tenantry.command_line.conftest import ENERGY, Call, caller, document


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "consumption.csv"
    path.write_text("timestamp,consumption\n2026-01-01T00:00:00Z,1.5\n")
    return path


def test_an_upload_is_what_the_products_app_would_have_written(
    call: Call, deployment: Deployment, file: Path
) -> None:
    arguments = [
        "upload",
        "acme",
        str(file),
        "--workload",
        "energy",
        "--parameter",
        "timezone=Europe/London",
    ]
    made = document(call(*arguments, "--json"))
    key = s3_keys.upload_manifest(ENERGY, ids.tenant_id("acme"), ids.upload_id(made["upload"]))
    manifest = read_manifest(deployment, key, read_workloads())
    assert [one.name for one in manifest.files] == ["consumption.csv"]
    assert manifest.parameters["timezone"] == "Europe/London"
    assert "is complete; `tenantry tenant acme` tells" in call(*arguments).stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--parameter", "zone=UTC"], "the names are: timezone, country"),
        (["--parameter", "timezone"], "is not NAME=VALUE"),
        (["no-such-file.csv"], "does not exist"),
    ],
)
def test_what_cannot_be_uploaded_is_said_before_anything_is(
    file: Path, arguments: list[str], words: str
) -> None:
    assert (
        words
        in caller(None)(
            "upload", "acme", str(file), "--workload", "energy", *arguments, status=2
        ).stderr
    )


def test_two_files_of_one_name_or_too_many_bytes_are_not_uploaded(
    file: Path, tmp_path: Path
) -> None:
    call = caller(None)
    twin = tmp_path / "again" / file.name
    twin.parent.mkdir()
    twin.write_bytes(b"")
    told = call("upload", "acme", str(file), str(twin), "--workload", "energy", status=1).stderr
    assert "two of the files have one name" in told
    with twin.open("wb") as large:
        large.truncate(65 * 1024 * 1024)
    assert (
        "takes at most 64 MB"
        in call("upload", "acme", str(twin), "--workload", "energy", status=1).stderr
    )


@pytest.mark.parametrize("ends", ["registered", "refused"])
def test_an_upload_is_followed_to_its_end(
    call: Call, queue: RequestQueue, deployment: Deployment, file: Path, ends: str
) -> None:
    def work() -> None:
        deadline = time.monotonic() + 60
        while not queue.due(ENERGY) and time.monotonic() < deadline:
            drain_queue(deployment, read_workloads(), lambda *_: None, max_seconds=20)
            time.sleep(0.05)
        (row,) = queue.claim(queue.due(ENERGY), ids.pack_id("p-1"))
        if ends == "registered":
            queue.move(
                queue.move(row, "trained", why="version v1"),
                "registered",
                why="the tenant's first model",
            )
        else:
            queue.fail(
                row, "the file has one row; at least 48 are needed", attempts=3, retryable=False
            )

    worker = threading.Thread(target=work)
    worker.start()
    try:
        arguments = ["upload", "acme", str(file), "--workload", "energy", "--wait"]
        result = call(*arguments, status=0 if ends == "registered" else 1)
    finally:
        worker.join()
    if ends == "registered":
        assert "is registered as version" in result.stdout
    else:
        assert "is refused: the file has one row; at least 48 are needed" in result.stderr


def test_a_model_that_was_trained_elsewhere_is_handed_in_as_the_products_app_would(
    call: Call, deployment: Deployment, tmp_path: Path
) -> None:
    archive = tmp_path / "from-a-notebook.tar.gz"
    archive.write_bytes(b"of a model")
    arguments = ["import", "acme", str(archive), "--workload", "energy"]
    digest = objects.sha256(b"of a model")
    made = document(call(*arguments, "--sha256", digest, "--json"))
    key = s3_keys.upload_manifest(ENERGY, ids.tenant_id("acme"), ids.upload_id(made["upload"]))
    manifest = read_manifest(deployment, key, read_workloads())
    assert (manifest.purpose, manifest.files[0].sha256) == ("import", digest)

    told = call(*arguments, "--sha256", "0" * 64, status=1).stderr
    assert f"the archive's SHA-256 is {digest}, not 000" in told


def test_a_model_that_is_too_large_or_of_another_kind_of_workload_is_not_handed_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "model.tar.gz"
    with archive.open("wb") as large:
        large.truncate(3 * 1024 * 1024)
    call = caller(None)
    arguments = ["import", "acme", str(archive), "--workload"]
    assert "energy takes at most 2 MB" in call(*arguments, "energy", status=1).stderr
    folder = tmp_path / "workloads"
    folder.mkdir()
    (folder / "footfall.yaml").write_text(skeleton("footfall", "example"))
    monkeypatch.setenv("TENANTRY_WORKLOADS", str(folder))
    told = call(*arguments, "footfall", status=1).stderr
    assert "footfall takes no models that were trained elsewhere; `tenantry upload`" in told


def test_an_upload_that_is_not_taken_in_is_waited_for_as_long_as_was_said(
    call: Call, file: Path
) -> None:
    told = call(
        "upload", "acme", str(file), "--workload", "energy", "--wait", "--timeout", "0", status=1
    ).stderr
    assert "is not taken in" in told
