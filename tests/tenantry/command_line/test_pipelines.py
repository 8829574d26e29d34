"""A workload's training as a SageMaker Pipeline, and with it the way of the article on thousands of
models: one raw file, a processing job, a training job, a multi-model endpoint."""

from __future__ import annotations

import io
import json
import tarfile
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from containers.forecast.consumption.synthetic import generate
from tenantry.aws import objects
from tenantry.aws.deployment import Deployment
from tenantry.hosting.endpoints import ensure_endpoint
from tenantry.hosting.shapes.multi_model import MULTI_MODEL
from tenantry.names import ids, s3_keys, sagemaker_names
from tenantry.names.tiers import Shared
from tenantry.requests.queue import RequestQueue
from tenantry.requests.rows import Request
from tenantry.training import jobs
from tenantry.training.jobs import TrainingTask
from tenantry.uploads.intake import drain_queue
from tenantry.uploads.training_data import make_training_data
from tenantry.workloads.folder import FOLDER_VARIABLE, workload_file
from tenantry.workloads.schema import read_workloads
from tests.conftest import TODAY
from tests.tenantry.command_line.conftest import ENERGY, Call, caller, document

if TYPE_CHECKING:
    from mypy_boto3_sagemaker.type_defs import DescribeTrainingJobResponseTypeDef

PACK = ids.pack_id("p-0123456789abcdef")


def resolved(value: Any, parameters: dict[str, Any]) -> Any:
    """A part of a definition with the parameters' values in it."""
    match value:
        case {"Get": str(name)}:
            return parameters[name.removeprefix("Parameters.")]
        case {"Std:Join": {"On": str(on), "Values": list(values)}}:
            return on.join(resolved(one, parameters) for one in values)
        case dict():
            return {name: resolved(part, parameters) for name, part in value.items()}
        case list():
            return [resolved(part, parameters) for part in value]
    return value


@pytest.mark.parametrize("workload", ["energy", "portraits"])
def test_the_definition_has_the_request_of_tenantrys_own_job(
    call: Call, deployment: Deployment, workload: str
) -> None:
    told = call("pipeline", workload).stdout
    definition = json.loads(told)
    assert definition == document(call("pipeline", workload, "--json"))
    assert definition["Version"] == "2020-12-01"
    (step,) = definition["Steps"]
    known = read_workloads()[workload]
    rung = jobs.rungs(known)[0]
    most = known.training.max_instances
    own: dict[str, Any] = {
        **jobs.create_training_job_request(
            deployment, known, known.shared_machines.tier, PACK, most, None, rung
        )
    }
    del own["TrainingJobName"]
    given = {"Pack": PACK, "InstanceType": rung.instance_type, "InstanceCount": most}
    assert resolved(step["Arguments"], given) == own
    assert {one["Name"] for one in definition["Parameters"]} == set(given)


@pytest.fixture
def as_in_the_article(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The workload energy, with a processing job for any file of many customers, and training data
    that its instances share by key."""
    folder = tmp_path / "workloads"
    folder.mkdir()
    text = workload_file("energy").read_text()
    for before, after in (
        ("max_megabytes_here: 64", "max_megabytes_here: 0"),
        ("  max_instances: 2", "  data_distribution: ShardedByS3Key\n  max_instances: 2"),
    ):
        assert text.count(before) == 1
        text = text.replace(before, after)
    (folder / "energy.yaml").write_text(text)
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder))


def prepared(deployment: Deployment, instances: int = 1) -> list[Request]:
    """The requests of all uploads, with their data prepared and a pack written down."""
    workloads = read_workloads()
    energy = workloads["energy"]
    drain_queue(deployment, workloads, lambda *_: None, max_seconds=60)
    queue = RequestQueue(deployment, by="test")
    rows = queue.claim(queue.due(ENERGY), PACK)
    tasks = []
    for row in rows:
        data = make_training_data(deployment, energy, row)
        assert row.version is not None
        tasks.append(
            TrainingTask(
                row.request, row.tenant, row.version, data.version, data.files, 1.0, data.parameters
            )
        )
    jobs.write_job_inputs(deployment, energy, "bridge", PACK, tasks, instances)
    return rows


def summaries(deployment: Deployment, job: DescribeTrainingJobResponseTypeDef) -> list[Any]:
    """What each instance of a job counted."""
    key = job["ModelArtifacts"]["S3ModelArtifacts"].split("/", 3)[3]
    content = objects.read_bytes(deployment.s3, deployment.data_bucket, key, 1_000_000)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return [json.load(file) for member in tar if (file := tar.extractfile(member))]


@pytest.mark.usefixtures("as_in_the_article")
@pytest.mark.parametrize(
    "customers", [3, pytest.param(1000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_one_raw_file_becomes_models_that_answer_from_one_endpoint(
    call: Call, deployment: Deployment, tmp_path: Path, customers: int
) -> None:
    raw = tmp_path / "raw.parquet"
    generate(customers, TODAY - timedelta(days=60), TODAY).to_parquet(raw)
    told = document(call("upload", "--split", str(raw), "--workload", "energy", "--json"))
    named = sorted(str(number) for number in range(customers))
    assert [row["tenant"] for row in told["tenants"]] == named
    (split,) = deployment.sagemaker.list_processing_jobs()["ProcessingJobSummaries"]
    assert split["ProcessingJobStatus"] == "Completed"
    rows = prepared(deployment, instances=2)
    manifest = s3_keys.job_file(ENERGY, PACK, jobs.MANIFEST_FILE)
    content = objects.read_bytes(deployment.s3, deployment.data_bucket, manifest, 1_000_000)
    listed = [Path(path) for path in json.loads(content)[1:]]
    assert sorted(path.parent.name for path in listed) == named, "one object a customer"
    assert {path.suffix for path in listed} == {".tar"}
    assert sorted(row.tenant for row in rows) == named

    followed = document(call("pipeline", "energy", "--create", "--start", PACK, "--wait", "--json"))
    assert followed["execution"]["status"] == "Succeeded"
    (step,) = followed["execution"]["steps"]
    assert (step["name"], step["status"]) == ("Train", "Succeeded")
    job = deployment.sagemaker.describe_training_job(TrainingJobName=step["job"])
    assert job["RoleArn"] == deployment.training_role
    assert job["ResourceConfig"]["InstanceCount"] == 2
    channels = {channel["ChannelName"]: channel for channel in job["InputDataConfig"]}
    source = channels["training"]["DataSource"]["S3DataSource"]
    assert source["S3DataDistributionType"] == "ShardedByS3Key"
    counted = summaries(deployment, job)
    assert sorted(one["host"] for one in counted) == ["algo-1", "algo-2"]
    assert {one["succeeded"] for one in counted} == {customers // 2, customers - customers // 2}
    assert sum(one["tasks"] for one in counted) == customers, "each task is one instance's"
    shown = call("pipeline", "energy", "--show").stdout
    assert "Succeeded" in shown
    assert step["job"] in shown

    energy = read_workloads()["energy"]
    endpoint = ensure_endpoint(deployment, energy, Shared("bridge"), MULTI_MODEL).name
    for row in rows:
        assert row.version is not None
        archive = s3_keys.checkpoint_archive(ENERGY, PACK, row.tenant, row.version)
        served = s3_keys.endpoint_model(endpoint, row.tenant, row.version)
        objects.copy(deployment.s3, deployment.data_bucket, archive, served)
        answer = deployment.runtime.invoke_endpoint(
            EndpointName=endpoint,
            TargetModel=sagemaker_names.target_model(row.tenant, row.version),
            ContentType="application/json",
            Body=json.dumps({"period": 7}),
        )
        assert len(json.loads(answer["Body"].read())["mean"]) == 7 * 24

    again = call("pipeline", "energy", "--create", "--start", PACK, "--wait")
    assert "is updated" in again.stderr


def test_a_pipeline_that_cannot_train_says_why(call: Call, deployment: Deployment) -> None:
    key = s3_keys.job_file(ENERGY, PACK, jobs.TASKS)
    task = {
        "task": "0" * 32,
        "tenant": "acme",
        "version": "v1",
        "tier": "bridge",
        "shard": 0,
        "data": "acme/v1",
        "parameters": {},
    }
    tasks = {"format": 1, "workload": "energy", "pack": PACK, "tasks": [task]}
    objects.write_json(deployment.s3, deployment.data_bucket, key, tasks)
    told = call("pipeline", "energy", "--create", "--start", PACK, "--wait", status=1)
    assert "is created" in told.stderr
    assert "the execution is Failed: " in told.stderr
    assert "training.manifest" in told.stderr


def test_a_pack_that_was_written_down_otherwise_is_not_started(
    call: Call, deployment: Deployment, request: pytest.FixtureRequest
) -> None:
    key = s3_keys.job_file(ENERGY, PACK, jobs.TASKS)
    task = {
        "task": "0" * 32,
        "tenant": "acme",
        "version": "v1",
        "tier": "bridge",
        "data": "acme/v1",
    }
    tasks = {"format": 1, "workload": "energy", "pack": PACK, "tasks": [{**task, "shard": 0}]}
    objects.write_json(deployment.s3, deployment.data_bucket, key, tasks)
    request.getfixturevalue("as_in_the_article")
    told = call("pipeline", "energy", "--create", "--start", PACK, status=1).stderr
    assert "was written down as FullyReplicated" in told
    assert "training.data_distribution: ShardedByS3Key" in told
    assert deployment.sagemaker.list_pipelines()["PipelineSummaries"] == []


def test_what_is_not_there_is_told(call: Call, deployment: Deployment) -> None:
    assert "has no execution" in call("pipeline", "energy", "--show", status=1).stderr
    told = call("pipeline", "energy", "--create", "--start", "p-none", status=1).stderr
    assert "energy has no pack p-none" in told
    assert deployment.sagemaker.list_pipelines()["PipelineSummaries"] == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--wait"], "--wait goes with --start"),
        (["--show", "--create"], "--show goes alone"),
        (["--show", "--start", PACK], "--show goes alone"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: list[str], words: str) -> None:
    assert words in caller(None)("pipeline", "energy", *options, status=2).stderr
