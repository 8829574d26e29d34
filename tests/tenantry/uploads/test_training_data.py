"""From an upload to training data, by the workload's own preparation; and a container's reports."""

from __future__ import annotations

import io
import json
import resource
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from containers.forecast.consumption.synthetic import generate
from contracts.errors import MalformedDocumentError
from contracts.outcomes import Outcome
from tenantry.aws import objects
from tenantry.aws.deployment import Deployment
from tenantry.names import ids, s3_keys
from tenantry.requests.queue import RequestQueue
from tenantry.requests.rows import Request
from tenantry.training.outcomes import outcome_in_message
from tenantry.uploads import manifests
from tenantry.uploads.manifests import RefusedUploadError
from tenantry.uploads.training_data import TrainingData, make_training_data
from tenantry.workloads.schema import read_workloads

ENERGY = read_workloads()["energy"]
NAME, ACME, U1 = ids.workload_name("energy"), ids.tenant_id("acme"), ids.upload_id("u1")


def uploaded(deployment: Deployment, files: dict[str, bytes]) -> Request:
    key = manifests.put_upload(deployment, NAME, ACME, U1, files, {"timezone": "Europe/London"})
    manifest = manifests.read_manifest(deployment, key, {"energy": ENERGY})
    queue = RequestQueue(deployment)
    queue.accept(NAME, ACME, manifest.request, key, "bridge", first=True)
    found = queue.get(NAME, ACME, manifest.request)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def consumption() -> bytes:
    frame = generate(1, datetime(2025, 1, 1, tzinfo=UTC), datetime(2025, 3, 1, tzinfo=UTC))
    return frame.to_csv(index=False).encode()


def test_an_upload_becomes_training_data_and_the_same_again_when_it_is_repeated(
    deployment: Deployment, consumption: bytes
) -> None:
    request = uploaded(deployment, {"a.csv": consumption})
    made = make_training_data(deployment, ENERGY, request)
    assert made.rows == 59 * 24
    assert (made.facts["first"], made.facts["last"]) == (
        "2025-01-01T00:00:00+00:00",
        "2025-02-28T23:00:00+00:00",
    )
    assert made.parameters == {"timezone": "Europe/London", "country": ""}
    assert made.version == request.version
    folder = f"training-data/energy/acme/{request.version}/"
    listed = deployment.s3.list_objects_v2(Bucket=deployment.data_bucket, Prefix=folder)["Contents"]
    assert [entry["Key"].removeprefix(folder) for entry in listed] == list(made.files)
    assert make_training_data(deployment, ENERGY, request) == made
    assert TrainingData.from_json(made.to_json()) == made


def test_names_that_people_give_files_go_no_further_and_what_is_left_out_is_told(
    deployment: Deployment, consumption: bytes
) -> None:
    half = consumption.index(b"\n", len(consumption) // 2) + 1
    header = consumption[: consumption.index(b"\n") + 1]
    parts = {
        "Verbrauch Müller (1).CSV": consumption[:half],
        "a+b %1.csv": header + consumption[half:],
    }
    key = manifests.put_upload(deployment, NAME, ACME, U1, parts)
    manifest = json.loads(objects.read_bytes(deployment.s3, deployment.uploads_bucket, key, 10_000))
    manifest["files"].append({"name": ".DS_Store", "bytes": 6148, "sha256": "0" * 64})
    objects.write_json(deployment.s3, deployment.uploads_bucket, key, manifest)
    queue = RequestQueue(deployment)
    read = manifests.read_manifest(deployment, key, {"energy": ENERGY})
    queue.accept(NAME, ACME, read.request, key, "bridge", first=True)
    request = queue.get(NAME, ACME, read.request)
    assert request is not None
    made = make_training_data(deployment, ENERGY, request)
    assert made.rows == 59 * 24
    assert made.files == ("data.csv", "readings.json", "series.json")
    assert made.facts["left_out"] == [".DS_Store"]
    assert "Müller" not in made.to_json()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"hello", "timestamp"),
        (b"", "empty|columns|rows"),
        (b"timestamp,consumption\n2025-01-01T00:00:00Z,broken meter\n", "consumption"),
    ],
    ids=["no table", "empty", "a word for a number"],
)
def test_data_that_cannot_become_a_model_are_refused_in_words_for_their_owner(
    deployment: Deployment, content: bytes, reason: str
) -> None:
    request = uploaded(deployment, {"a.csv": content})
    with pytest.raises(RefusedUploadError, match=reason):
        make_training_data(deployment, ENERGY, request)
    assert deployment.s3.list_objects_v2(Bucket=deployment.data_bucket)["KeyCount"] == 0


def test_an_upload_that_changed_or_went_away_is_refused(
    deployment: Deployment, consumption: bytes
) -> None:
    request = uploaded(deployment, {"a.csv": consumption})
    file = s3_keys.upload_file(NAME, ACME, U1, ids.file_name("a.csv"))
    objects.write_bytes(deployment.s3, deployment.uploads_bucket, file, consumption[:-1] + b"9")
    with pytest.raises(RefusedUploadError, match="is not the file its manifest declares"):
        make_training_data(deployment, ENERGY, request)
    deployment.s3.delete_object(Bucket=deployment.uploads_bucket, Key=request.manifest_key)
    with pytest.raises(RefusedUploadError, match=r"manifest\.json is not there any more"):
        make_training_data(deployment, ENERGY, request)


def test_a_small_file_that_expands_to_gigabytes_is_refused_and_costs_this_process_nothing(
    deployment: Deployment, consumption: bytes
) -> None:
    """A dictionary with one customer id of 2 MB, to which 9,000 rows refer: 18 GB of text in some
    tens of kilobytes."""
    rows = 9000
    hours = pa.array([datetime(2025, 1, 1, tzinfo=UTC) + timedelta(hours=n) for n in range(rows)])
    customer = pa.DictionaryArray.from_arrays(
        pa.array([0] * rows, pa.int32()), pa.array(["x" * 2_000_000])
    )
    table = pa.table(
        {"timestamp": hours, "consumption": pa.array([1.0] * rows), "customer_id": customer}
    )
    sink = io.BytesIO()
    parquet.write_table(table, sink, compression="zstd", store_schema=False)
    assert len(sink.getvalue()) < 200_000
    request = uploaded(deployment, {"a.parquet": sink.getvalue()})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(RefusedUploadError):
        make_training_data(deployment, ENERGY, request)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 * 1024, "kilobytes"


def outcome(**changed: Any) -> dict[str, Any]:
    return {
        "format": 1,
        "task": "0" * 32,
        "tenant": "acme",
        "version": "v1",
        "status": "succeeded",
        "reason": None,
        "retryable": False,
        "seconds": 1.2,
        "cpu_seconds": 1.1,
        "archive": {"bytes": 10, "sha256": "a" * 64},
        "metrics": {"mase": 0.8},
        "card": {"model": "ridge"},
        "preview": {},
        **changed,
    }


def message(**changed: Any) -> dict[str, Any]:
    return {"event": "task_finished", "outcome": outcome(**changed)}


def test_the_outcome_a_container_reports_is_read() -> None:
    read = outcome_in_message(message())
    assert read is not None
    assert (read.tenant, read.task) == ("acme", "0" * 32)
    assert read.metrics == {"mase": 0.8}
    with_files = outcome_in_message(message(files={"00.png": {"bytes": 5, "sha256": "b" * 64}}))
    assert with_files is not None
    assert with_files.files["00.png"].bytes == 5
    failed = outcome_in_message(
        message(status="failed", archive=None, reason="too short", metrics={})
    )
    assert failed is not None
    assert (failed.status, failed.reason, failed.archive) == ("failed", "too short", None)


def test_the_outcomes_the_forecast_container_really_reports_are_read(
    trained_forecasts: list[Any],
) -> None:
    for made in trained_forecasts:
        read = outcome_in_message({"event": "task_finished", "outcome": made.outcome})
        assert read is not None
        assert read.archive is not None
        assert read.archive.bytes == len(made.archive)
        assert read.archive.sha256 == objects.sha256(made.archive)


@pytest.mark.parametrize(
    "other", [None, 7, "task_finished", [], {}, {"event": "task_started", "task": "x"}]
)
def test_a_message_about_something_else_is_no_outcome(other: Any) -> None:
    assert outcome_in_message(other) is None


@pytest.mark.parametrize(
    "changed",
    [
        {"format": 2},
        {"task": "x"},
        {"tenant": "../acme"},
        {"tenant": "ACME"},
        {"version": "v/1"},
        {"status": "done"},
        {"archive": None},
        {"archive": {"bytes": 0, "sha256": "a" * 64}},
        {"archive": {"bytes": 1, "sha256": "a"}},
        {"metrics": {"mase": "low"}},
        {"metrics": {"mase": float("nan")}},
        {"metrics": {"mase": float("inf")}},
        {"seconds": -1},
        {"seconds": float("inf")},
        {"reason": "x" * 10_001},
        {"files": {"../x": {"bytes": 5, "sha256": "b" * 64}}},
        {"files": {"x": {"bytes": 5}}},
        {"files": ["x"]},
    ],
    ids=lambda changed: str(changed)[:40],
)
def test_a_malformed_outcome_is_called_so(changed: dict[str, Any]) -> None:
    with pytest.raises(MalformedDocumentError):
        outcome_in_message(message(**changed))


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(max_examples=40)
@given(said=JSON, field=st.sampled_from(sorted(outcome())))
def test_whatever_a_container_reports_is_an_outcome_or_malformed(said: Any, field: str) -> None:
    for document in (said, outcome(**{field: said})):
        try:
            read = outcome_in_message({"event": "task_finished", "outcome": document})
        except MalformedDocumentError:
            continue
        assert isinstance(read, Outcome)
        ids.tenant_id(read.tenant)
        json.dumps(dict(read.metrics), allow_nan=False)
