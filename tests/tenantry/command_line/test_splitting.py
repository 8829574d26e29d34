"""One raw file of many customers, uploaded for each of them."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from tenantry.aws import objects
from tenantry.aws.deployment import Deployment
from tenantry.names import ids, s3_keys
from tenantry.uploads.manifests import read_manifest
from tenantry.workloads.schema import read_workloads
from tenantry.workloads.skeleton import skeleton
from tests.tenantry.command_line.conftest import ENERGY, Call, caller, document

CUSTOMERS = ("0", "1", "MAC_17", "jane@example.org")
JANE = f"customer-{hashlib.sha256(b'jane@example.org').hexdigest()[:16]}"
MAC = f"mac-17-{hashlib.sha256(b'MAC_17').hexdigest()[:16]}"
TENANTS = ("0", "1", JANE, MAC)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Three hours of each customer, hour by hour."""
    rows = [
        f"{customer},2026-01-01T{hour:02}:00:00Z,{hour}.5"
        for hour in range(3)
        for customer in CUSTOMERS
    ]
    path = tmp_path / "raw.csv"
    path.write_text("\n".join(["customer_id,timestamp,consumption", *rows, ""]))
    return path


@pytest.fixture
def by_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The workload energy as usual, and with a processing job for any file."""
    folder = tmp_path / "workloads"
    folder.mkdir()
    text = skeleton("energy", "forecast")
    wanted = "\\g<0>\n    max_megabytes_here: 0"
    text, count = re.subn(r"    module: \S+\.split$", wanted, text, flags=re.MULTILINE)
    assert count == 1
    (folder / "energy.yaml").write_text(text)
    monkeypatch.setenv("TENANTRY_WORKLOADS", str(folder))


def rows_of(deployment: Deployment, tenant: str, upload: str) -> list[str]:
    key = s3_keys.upload_manifest(ENERGY, ids.tenant_id(tenant), ids.upload_id(upload))
    manifest = read_manifest(deployment, key, read_workloads())
    assert manifest.parameters["timezone"] == "Europe/London"
    (file,) = manifest.files
    content = objects.read_bytes(
        deployment.s3,
        deployment.uploads_bucket,
        s3_keys.upload_file(ENERGY, ids.tenant_id(tenant), ids.upload_id(upload), file.name),
        10_000,
    )
    return content.decode().replace('"', "").splitlines()


def split(call: Call, raw: Path, *options: str, status: int = 0) -> dict[str, dict[str, object]]:
    """The tenants as the command tells them."""
    arguments = ["--workload", "energy", "--parameter", "timezone=Europe/London", *options]
    told = document(call("upload", "--split", str(raw), *arguments, "--json", status=status))
    return {row["tenant"]: row for row in told["tenants"]}


def test_each_customer_of_a_file_gets_an_upload_and_none_twice(
    call: Call, deployment: Deployment, raw: Path
) -> None:
    told = split(call, raw)
    assert tuple(told) == TENANTS
    assert [(row["customer"], row["rows"], row["new"]) for row in told.values()] == [
        ("0", 3, True),
        ("1", 3, True),
        ("jane@example.org", 3, True),
        ("MAC_17", 3, True),
    ]
    for tenant in TENANTS:
        assert rows_of(deployment, tenant, str(told[tenant]["upload"])) == [
            "customer_id,timestamp,consumption",
            *(f"{tenant},2026-01-01T{hour:02}:00:00Z,{hour}.5" for hour in range(3)),
        ]
    before = list(objects.keys_under(deployment.s3, deployment.uploads_bucket, ""))
    again = split(call, raw)
    assert not any(row["new"] for row in again.values())
    assert [row["upload"] for row in again.values()] == [row["upload"] for row in told.values()]
    assert list(objects.keys_under(deployment.s3, deployment.uploads_bucket, "")) == before
    words = call(
        *("upload", "--split", str(raw), "--workload", "energy"),
        *("--parameter", "timezone=Europe/Paris"),
    ).stdout
    assert "4 uploads are made; 0 were there before" in words


def test_a_dry_run_lists_the_tenants_and_uploads_nothing(
    call: Call, deployment: Deployment, raw: Path
) -> None:
    told = call("upload", "--split", str(raw), "--workload", "energy", "--dry-run").stdout
    assert all(name in told for name in (*TENANTS, *CUSTOMERS))
    assert "4 tenants; nothing was uploaded" in told
    assert list(objects.keys_under(deployment.s3, deployment.uploads_bucket, "")) == []


@pytest.mark.usefixtures("by_job")
def test_a_large_file_is_split_by_a_processing_job_which_a_repeated_call_adopts(
    call: Call, deployment: Deployment, raw: Path
) -> None:
    listed = split(call, raw, "--dry-run")
    assert tuple(listed) == TENANTS
    told = split(call, raw)
    assert all(row["new"] for row in told.values())
    assert rows_of(deployment, MAC, str(told[MAC]["upload"]))[1:] == [
        f"{MAC},2026-01-01T{hour:02}:00:00Z,{hour}.5" for hour in range(3)
    ]
    assert not any(row["new"] for row in split(call, raw).values())
    jobs = deployment.sagemaker.list_processing_jobs()["ProcessingJobSummaries"]
    assert [job["ProcessingJobStatus"] for job in jobs] == ["Completed"]
    job = deployment.sagemaker.describe_processing_job(
        ProcessingJobName=jobs[0]["ProcessingJobName"]
    )
    assert job["RoleArn"] == deployment.processing_role


@pytest.mark.usefixtures("by_job")
def test_a_job_that_cannot_split_says_why_and_the_next_call_makes_another(
    call: Call, deployment: Deployment, raw: Path
) -> None:
    arguments = ("upload", "--split", str(raw), "--workload", "energy", "--customers", "meter")
    for count in (1, 2):
        told = call(*arguments, status=1).stderr
        assert "is Failed: raw.csv has no column meter" in told
        jobs = deployment.sagemaker.list_processing_jobs()["ProcessingJobSummaries"]
        assert len(jobs) == count
    assert list(objects.keys_under(deployment.s3, deployment.uploads_bucket, "")) == []


def test_another_column_may_name_the_customers(call: Call, raw: Path) -> None:
    raw.write_text(raw.read_text().replace("customer_id", "meter", 1))
    assert tuple(split(call, raw, "--customers", "meter")) == TENANTS
    told = call("upload", "--split", str(raw), "--workload", "energy", status=1).stderr
    assert "has no column customer_id. Its columns are meter, timestamp, consumption" in told


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("raw.txt", "", "must end in .csv or .parquet"),
        ("raw.parquet", "no parquet", "cannot be read as CSV or Parquet"),
        ("raw.csv", "customer_id,timestamp,consumption\n,2026-01-01,1\n", "row 1: customer_id"),
    ],
)
def test_a_file_that_cannot_be_split_is_refused_in_words(
    tmp_path: Path, name: str, content: str, words: str
) -> None:
    file = tmp_path / name
    file.write_text(content)
    told = caller(None)("upload", "--split", str(file), "--workload", "energy", status=1).stderr
    assert words in told


def test_tenants_whose_rows_are_too_many_are_told_and_the_others_get_uploads(
    call: Call, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "workloads"
    folder.mkdir()
    text = skeleton("energy", "forecast").replace("max_megabytes: 64\n", "max_megabytes: 0.001\n")
    (folder / "energy.yaml").write_text(text)
    monkeypatch.setenv("TENANTRY_WORKLOADS", str(folder))
    more = "".join(f"1,2026-01-02T{hour:02}:00:00Z,1\n" for hour in range(24)) * 2
    raw.write_text(raw.read_text() + more)
    result = call("upload", "--split", str(raw), "--workload", "energy", status=1)
    assert "3 uploads are made" in result.stdout
    assert "1 of 4 tenants got no upload: 1: its rows have" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["acme", "--split", "raw.csv"], "leave TENANT, FILES"),
        (["--split", "raw.csv", "--for-inference"], "leave TENANT, FILES"),
        (["--split", "raw.csv", "--wait"], "leave TENANT, FILES"),
        (["acme", "raw.csv", "--dry-run"], "go with --split"),
        (["acme"], "name TENANT and its FILES"),
        ([], "name TENANT and its FILES"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    raw: Path, arguments: list[str], words: str
) -> None:
    given = [str(raw) if one == raw.name else one for one in arguments]
    assert words in caller(None)("upload", *given, "--workload", "energy", status=2).stderr


def test_a_workload_without_a_split_says_so(raw: Path) -> None:
    told = caller(None)("upload", "--split", str(raw), "--workload", "churn", status=1).stderr
    assert "churn splits no files" in told
