"""Batch transform, through boto3 unchanged."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.local_sagemaker.conftest import Emulator, create_model, keys, unique, wait_for

AS_IS = {"ECHO_AS_IS": "1"}


def transform(
    client: Any,
    bucket: str,
    environment: dict[str, str] | None = None,
    /,
    *,
    input_: dict[str, Any] | None = None,
    output: dict[str, Any] | None = None,
    instances: int = 1,
    **changes: Any,
) -> str:
    """A job of the echo container over `in/`; by default the container answers with its input in
    capitals."""
    name = unique("transform")
    source = {
        "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{bucket}/in/"}}
    }
    client.create_transform_job(
        **{
            "TransformJobName": name,
            "ModelName": create_model(
                client, Environment=AS_IS if environment is None else environment
            ),
            "TransformInput": {**source, **(input_ or {})},
            "TransformOutput": {"S3OutputPath": f"s3://{bucket}/out", **(output or {})},
            "TransformResources": {"InstanceType": "ml.m5.large", "InstanceCount": instances},
            **changes,
        }
    )
    return name


def ended(client: Any, name: str) -> Any:
    return wait_for(
        lambda: client.describe_transform_job(TransformJobName=name),
        lambda job: job["TransformJobStatus"] in ("Completed", "Failed", "Stopped"),
    )


def put(s3: Any, bucket: str, **objects: str | bytes) -> None:
    for name, body in objects.items():
        s3.put_object(Bucket=bucket, Key=f"in/{name}", Body=body)


def read(s3: Any, bucket: str, key: str) -> str:
    return str(s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode())


def test_every_object_has_an_output_beside_its_relative_key(
    sagemaker: Any, s3: Any, bucket: str
) -> None:
    put(s3, bucket, **{"a.txt": "alpha", "deep/b.txt": "beta", "c.txt": "gamma"})
    job = ended(sagemaker, transform(sagemaker, bucket, instances=2))
    assert job["TransformJobStatus"] == "Completed"
    assert job["TransformStartTime"] <= job["TransformEndTime"]
    assert keys(s3, bucket, "out/") == ["out/a.txt.out", "out/c.txt.out", "out/deep/b.txt.out"]
    assert read(s3, bucket, "out/deep/b.txt.out") == "BETA"


@pytest.mark.parametrize("strategy", ["SingleRecord", "MultiRecord"])
def test_lines_are_transformed_in_order(
    sagemaker: Any, s3: Any, bucket: str, strategy: str
) -> None:
    lines = [f"line {number}" for number in range(50)]
    put(s3, bucket, **{"lines.txt": "\n".join(lines)})
    name = transform(
        sagemaker,
        bucket,
        input_={"SplitType": "Line"},
        output={"AssembleWith": "Line"},
        BatchStrategy=strategy,
        MaxConcurrentTransforms=4,
    )
    assert ended(sagemaker, name)["TransformJobStatus"] == "Completed"
    assert read(s3, bucket, "out/lines.txt.out") == "".join(f"{line.upper()}\n" for line in lines)


def test_records_are_batched_up_to_the_payload(sagemaker: Any, s3: Any, bucket: str) -> None:
    """Without the container's echo mode each answer describes the body: 1 MB holds two records of
    400 KB."""
    put(s3, bucket, **{"lines.txt": "\n".join("x" * 400_000 for _ in range(5))})
    name = transform(
        sagemaker,
        bucket,
        {},
        input_={"SplitType": "Line"},
        output={"AssembleWith": "Line"},
        MaxPayloadInMB=1,
        BatchStrategy="MultiRecord",
        MaxConcurrentTransforms=3,
    )
    ended(sagemaker, name)
    answers = [json.loads(line) for line in read(s3, bucket, "out/lines.txt.out").splitlines()]
    assert [len(answer["body"].split()) for answer in answers] == [2, 2, 1]
    environment = answers[0]["environment"]
    assert environment["SAGEMAKER_BATCH"] == "true"
    assert environment["SAGEMAKER_MAX_PAYLOAD_IN_MB"] == "1"
    assert environment["SAGEMAKER_BATCH_STRATEGY"] == "MULTI_RECORD"
    assert environment["SAGEMAKER_MAX_CONCURRENT_TRANSFORMS"] == "3"


def test_the_container_recommends_what_the_request_leaves_open(
    sagemaker: Any, s3: Any, bucket: str
) -> None:
    recommended = {
        "MaxConcurrentTransforms": 2,
        "BatchStrategy": "SINGLE_RECORD",
        "MaxPayloadInMB": 1,
    }
    put(s3, bucket, **{"lines.txt": "a\nb\nc"})
    name = transform(
        sagemaker,
        bucket,
        {"ECHO_EXECUTION_PARAMETERS": json.dumps(recommended)},
        input_={"SplitType": "Line"},
        output={"AssembleWith": "Line"},
    )
    ended(sagemaker, name)
    answers = [
        json.loads(line)["body"] for line in read(s3, bucket, "out/lines.txt.out").splitlines()
    ]
    assert answers == ["a\n", "b\n", "c\n"]


def test_a_failed_object_fails_the_job_and_keeps_the_others(
    sagemaker: Any, s3: Any, bucket: str
) -> None:
    put(s3, bucket, **{"bad.txt": "fine\npoison\nfine", "good.txt": "fine"})
    job = ended(
        sagemaker,
        transform(sagemaker, bucket, input_={"SplitType": "Line"}, BatchStrategy="SingleRecord"),
    )
    assert job["TransformJobStatus"] == "Failed"
    assert "1 of 2 input objects failed" in job["FailureReason"]
    assert "in/bad.txt: the container answered 400" in job["FailureReason"]
    assert keys(s3, bucket, "out/") == ["out/good.txt.out"]


def test_json_records_are_joined_with_their_answers(sagemaker: Any, s3: Any, bucket: str) -> None:
    put(s3, bucket, **{"r.jsonl": '{"id": 1, "f": ["a"]}\n{"id": 2, "f": ["b"]}\n'})
    name = transform(
        sagemaker,
        bucket,
        input_={"SplitType": "Line", "ContentType": "application/jsonlines"},
        output={"AssembleWith": "Line", "Accept": "application/jsonlines"},
        DataProcessing={
            "InputFilter": "$.f",
            "JoinSource": "Input",
            "OutputFilter": "$['id','SageMakerOutput']",
        },
    )
    assert ended(sagemaker, name)["TransformJobStatus"] == "Completed"
    lines = [json.loads(line) for line in read(s3, bucket, "out/r.jsonl.out").splitlines()]
    assert lines == [{"id": 1, "SageMakerOutput": ["A"]}, {"id": 2, "SageMakerOutput": ["B"]}]


def test_csv_rows_get_the_answer_as_further_columns(sagemaker: Any, s3: Any, bucket: str) -> None:
    put(s3, bucket, **{"r.csv": '7,a,"x, y"\n8,b,z\n'})
    name = transform(
        sagemaker,
        bucket,
        input_={"SplitType": "Line", "ContentType": "text/csv"},
        output={"AssembleWith": "Line", "Accept": "text/csv"},
        DataProcessing={"InputFilter": "$[1:]", "JoinSource": "Input", "OutputFilter": "$[0,-1]"},
    )
    assert ended(sagemaker, name)["TransformJobStatus"] == "Completed"
    assert read(s3, bucket, "out/r.csv.out") == '7,"X, Y"\n8,Z\n'


def test_gzip_and_manifest_inputs(sagemaker: Any, s3: Any, bucket: str) -> None:
    put(s3, bucket, **{"a.gz": gzip.compress(b"alpha"), "b.gz": b"not gzip"})
    s3.put_object(
        Bucket=bucket, Key="manifest", Body=json.dumps([{"prefix": f"s3://{bucket}/in/"}, "a.gz"])
    )
    source = {
        "DataSource": {
            "S3DataSource": {"S3DataType": "ManifestFile", "S3Uri": f"s3://{bucket}/manifest"}
        }
    }
    name = transform(sagemaker, bucket, input_={**source, "CompressionType": "Gzip"})
    assert ended(sagemaker, name)["TransformJobStatus"] == "Completed"
    assert read(s3, bucket, "out/a.gz.out") == "ALPHA"
    job = ended(sagemaker, transform(sagemaker, bucket, input_={"CompressionType": "Gzip"}))
    assert "in/b.gz: the object is no gzip file" in job["FailureReason"]


def test_a_job_without_input_fails(sagemaker: Any, bucket: str) -> None:
    assert (
        "matched no files on s3" in ended(sagemaker, transform(sagemaker, bucket))["FailureReason"]
    )


def test_a_broken_container_fails_the_job(sagemaker: Any, s3: Any, bucket: str) -> None:
    put(s3, bucket, **{"a.txt": "a"})
    job = ended(sagemaker, transform(sagemaker, bucket, {"ECHO_BROKEN": "1"}))
    assert job["FailureReason"].startswith("AlgorithmError: ")


def test_a_job_can_be_stopped(sagemaker: Any, s3: Any, bucket: str, emulator: Emulator) -> None:
    put(s3, bucket, **{"a.txt": "sleep 500"})
    name = transform(sagemaker, bucket)
    wait_for(
        lambda: emulator.control("GET", "/_local/health")["instances"]["transform job"],
        lambda used: used == 1,
    )
    sagemaker.stop_transform_job(TransformJobName=name)
    assert ended(sagemaker, name)["TransformJobStatus"] == "Stopped"
    assert keys(s3, bucket, "out/") == []
    with pytest.raises(ClientError, match="is in status Stopped"):
        sagemaker.stop_transform_job(TransformJobName=name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"MaxPayloadInMB": 20, "MaxConcurrentTransforms": 6}, "must be at most 100 MB"),
        ({"MaxPayloadInMB": 101}, "must be at most 100"),
        ({"BatchStrategy": "MultiRecord"}, "needs a SplitType"),
        ({"input_": {"SplitType": "RecordIO"}}, "SplitType RecordIO is not emulated yet"),
        ({"DataProcessing": {"JoinSource": "Input"}}, "DataProcessing needs the ContentType"),
        (
            {
                "DataProcessing": {"OutputFilter": "$..a"},
                "input_": {"ContentType": "application/json"},
            },
            "is not supported",
        ),
        ({"ExperimentConfig": {"TrialName": "t"}}, "ExperimentConfig is not emulated yet"),
    ],
)
def test_requests_that_cannot_be_honoured_are_refused(
    sagemaker: Any, bucket: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ClientError, match=message) as error:
        transform(sagemaker, bucket, **changes)
    assert error.value.response["Error"]["Code"] == "ValidationException"


def test_transform_jobs_are_listed(sagemaker: Any, s3: Any, bucket: str) -> None:
    put(s3, bucket, **{"a.txt": "a"})
    name = transform(sagemaker, bucket)
    ended(sagemaker, name)
    listed = sagemaker.list_transform_jobs(NameContains=name, StatusEquals="Completed")[
        "TransformJobSummaries"
    ]
    assert [job["TransformJobName"] for job in listed] == [name]
