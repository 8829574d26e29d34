"""Planned and immediate faults, through boto3 and the control calls."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError, HTTPClientError
from hypothesis import given
from hypothesis import strategies as st

from local_sagemaker.account.storage import failure_reason
from local_sagemaker.faults.client import FaultsClient, NothingStruckError
from local_sagemaker.faults.plan import Faults, Plan, Rule, Strike, Subject
from tests.local_sagemaker.conftest import (
    Emulator,
    create_endpoint_config,
    create_model,
    create_training_job,
    ended_training_job,
    keys,
    model_files,
    settled_endpoint,
    unique,
    wait_for,
)

Endpoint = Callable[..., str]


def put(emulator: Emulator, path: str, body: bytes, method: str = "PUT") -> tuple[int, Any]:
    request = urllib.request.Request(  # noqa: S310
        f"{emulator.url}/_local/faults{path}", method=method, data=body
    )
    try:
        # The URL is a loopback address.
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.parametrize(
    ("rule", "field", "problem"),
    [
        ({"kind": "gremlin"}, "rules.0.kind", "Input should be"),
        (
            {"kind": "throttle", "probability": 1.5},
            "rules.0.probability",
            "less than or equal to 1",
        ),
        ({"kind": "throttle", "endpiont": "x"}, "rules.0.endpiont", "not permitted"),
        ({"kind": "lost_notification", "job": "x"}, "rules.0.job", "only by endpoint"),
        ({"kind": "throttle", "seconds": 3}, "rules.0.seconds", "Leave it out"),
        ({"kind": "throttle", "after_seconds": [0, 1]}, "rules.0.after_seconds", "strikes at once"),
        ({"kind": "slow_provisioning"}, "rules.0", "needs after_seconds"),
        (
            {"kind": "kill_container", "after_seconds": [2, 1]},
            "rules.0.after_seconds",
            "must not be larger",
        ),
        ({"kind": "kill_container", "most": -1}, "rules.0.most", "greater than or equal to 0"),
    ],
)
def test_a_plan_that_is_wrong_is_refused_with_the_field_and_changes_nothing(
    emulator: Emulator, faults: FaultsClient, rule: dict[str, Any], field: str, problem: str
) -> None:
    faults.plan([Rule(kind="s3_error", probability=0)], seed=3)
    status, answer = put(emulator, "", json.dumps({"seed": 1, "rules": [rule]}).encode())
    assert status == 400
    assert [wrong["field"] for wrong in answer["errors"]] == [field]
    assert problem in answer["errors"][0]["problem"]
    assert (faults.report().seed, len(faults.report().rules)) == (3, 1)


def test_a_body_that_is_no_plan_is_refused(emulator: Emulator) -> None:
    assert put(emulator, "", b"no json")[0] == 400
    assert put(emulator, "", b"[]")[0] == 400
    assert (
        put(emulator, "", b'{"rules": [' + b" " * 300_000 + b"]}")[1]["errors"][0]["field"]
        == "body"
    )
    status, answer = put(emulator, "/now", b'{"kind": "throttle"}', "POST")
    assert (status, answer["errors"][0]["field"]) == (400, "kind")


def test_a_call_is_throttled_as_often_as_planned(sagemaker: Any, faults: FaultsClient) -> None:
    faults.plan(
        [
            Rule(kind="throttle", operation="List*Models", most=0),
            Rule(kind="throttle", operation="List*", most=2),
        ]
    )
    for _ in range(2):
        with pytest.raises(ClientError, match="Rate exceeded") as error:
            sagemaker.list_models()
        assert error.value.response["Error"]["Code"] == "ThrottlingException"
    sagemaker.list_models()
    with pytest.raises(ClientError, match="Could not find"):
        sagemaker.describe_model(ModelName="none")
    report = faults.report()
    assert [rule.happened for rule in report.rules] == [0, 2]
    assert [(event.kind, event.where) for event in report.happened] == [
        ("throttle", "ListModels")
    ] * 2
    assert abs(report.happened[0].at - time.time()) < 60


def test_the_same_seed_and_calls_meet_the_same_faults(sagemaker: Any, faults: FaultsClient) -> None:
    def struck(seed: int) -> list[bool]:
        outcomes = []
        with faults.planned(
            Rule(kind="server_error", operation="ListModels", probability=0.5), seed=seed
        ):
            for _ in range(30):
                try:
                    sagemaker.list_models()
                    outcomes.append(False)
                except ClientError as error:
                    outcomes.append(
                        error.response["ResponseMetadata"]["HTTPStatusCode"] in (500, 503)
                    )
        return outcomes

    first = struck(7)
    assert 3 < sum(first) < 27
    assert struck(7) == first
    assert struck(8) != first


names = st.sampled_from(["a", "b", "c"])


@given(
    calls=st.lists(names, max_size=40), seed=st.integers(0, 9), most=st.none() | st.integers(0, 5)
)
def test_what_strikes_a_name_depends_on_its_own_calls_and_never_exceeds_the_bound(
    calls: list[str], seed: int, most: int | None
) -> None:
    def outcomes(order: list[str]) -> dict[str, list[bool]]:
        faults = Faults()
        faults.replace(Plan(seed=seed, rules=[Rule(kind="throttle", probability=0.4, most=most)]))
        found: dict[str, list[bool]] = {name: [] for name in order}
        for name in order:
            found[name].append(
                faults.strikes("throttle", Subject(name, operation=name)) is not None
            )
        report = faults.report()
        assert report.rules[0].happened == len(report.happened) == sum(map(sum, found.values()))
        assert most is None or report.rules[0].happened <= most
        return found

    in_turn, sorted_by_name = outcomes(calls), outcomes(sorted(calls))
    if most is None:
        assert in_turn == sorted_by_name


def test_a_strike_that_waits_for_what_ended_before_hits_another() -> None:
    async def run() -> list[str]:
        faults, struck = Faults(), list[str]()
        faults.replace(
            Plan(seed=0, rules=[Rule(kind="kill_container", most=1, after_seconds=(0, 0))])
        )

        def kill(name: str, running: bool = True) -> Callable[[float | None], bool]:
            def strike(_: float | None) -> bool:
                struck.append(name)
                return running

            return strike

        faults.expose(Subject("gone", job="x"), {"kill_container": kill("gone")}).withdraw()
        faults.expose(Subject("ended", job="x"), {"kill_container": kill("ended", running=False)})
        await asyncio.sleep(0.01)
        faults.expose(Subject("hit", job="x"), {"kill_container": kill("hit")})
        faults.expose(Subject("spared", job="x"), {"kill_container": kill("spared")})
        await asyncio.sleep(0.01)
        assert [event.where for event in faults.report().happened] == ["hit"]
        return struck

    assert asyncio.run(run()) == ["ended", "hit"]


def test_a_lost_answer_leaves_what_was_carried_out(
    sagemaker: Any, runtime: Any, faults: FaultsClient
) -> None:
    faults.plan(
        [
            Rule(kind="lost_answer", operation="CreateModel", most=1),
            Rule(kind="lost_answer", endpoint="lost-*"),
        ]
    )
    name = unique("model")
    with pytest.raises((ConnectionClosedError, HTTPClientError)):
        sagemaker.create_model(
            ModelName=name,
            PrimaryContainer={"Image": "x/echo:1"},
            ExecutionRoleArn="arn:aws:iam::123456789012:role/execution",
        )
    assert sagemaker.describe_model(ModelName=name)["ModelName"] == name
    # A refused call has no answer to lose, so that its error arrives.
    with pytest.raises(ClientError, match="not found"):
        runtime.invoke_endpoint(EndpointName="lost-1", Body=b"x")


def test_a_limit_that_is_reached_by_plan_is_told_before_anything_is_made(
    sagemaker: Any, bucket: str, faults: FaultsClient
) -> None:
    faults.plan([Rule(kind="resource_limit", job="limited-*")])
    name = unique("limited")
    with pytest.raises(ClientError) as error:
        create_training_job(sagemaker, bucket, name)
    assert error.value.response["Error"]["Code"] == "ResourceLimitExceeded"
    with pytest.raises(ClientError, match="Requested resource not found"):
        sagemaker.describe_training_job(TrainingJobName=name)
    assert (
        ended_training_job(sagemaker, create_training_job(sagemaker, bucket))["TrainingJobStatus"]
        == "Completed"
    )


def test_a_job_without_capacity_is_accepted_and_fails(
    sagemaker: Any, bucket: str, faults: FaultsClient
) -> None:
    faults.plan([Rule(kind="capacity", image="*/recorder:*", most=1)])
    job = ended_training_job(sagemaker, create_training_job(sagemaker, bucket))
    assert job["TrainingJobStatus"] == "Failed"
    assert job["FailureReason"].startswith(
        "CapacityError: Unable to provision requested ML compute capacity"
    )
    assert "TrainingStartTime" not in job
    assert (
        ended_training_job(sagemaker, create_training_job(sagemaker, bucket))["TrainingJobStatus"]
        == "Completed"
    )


def test_a_killed_training_container_fails_its_job_and_no_other(
    sagemaker: Any, bucket: str, faults: FaultsClient
) -> None:
    faults.plan([Rule(kind="kill_container", job="doomed-*", after_seconds=(0.0, 0.2))])
    doomed = create_training_job(
        sagemaker, bucket, unique("doomed"), hosts=2, hyperparameters={"sleep": 600}
    )
    spared = create_training_job(sagemaker, bucket)
    job = ended_training_job(sagemaker, doomed)
    assert job["FailureReason"].startswith("AlgorithmError: ")
    assert job["FailureReason"].endswith("exit code: 137")
    assert ended_training_job(sagemaker, spared)["TrainingJobStatus"] == "Completed"


def test_a_hung_training_container_goes_on_when_the_plan_ends(
    sagemaker: Any, s3: Any, bucket: str, faults: FaultsClient
) -> None:
    settings, checkpoints = {"checkpoint": "up", "sleep": 0.5}, {"S3Uri": f"s3://{bucket}/up"}
    faults.plan([Rule(kind="hang_container", job="*", after_seconds=(0.0, 0.0))])
    name = create_training_job(
        sagemaker, bucket, hyperparameters=settings, CheckpointConfig=checkpoints
    )
    wait_for(faults.report, lambda report: bool(report.happened))
    time.sleep(1.0)
    assert (
        sagemaker.describe_training_job(TrainingJobName=name)["TrainingJobStatus"] == "InProgress"
    )
    faults.end()
    assert ended_training_job(sagemaker, name)["TrainingJobStatus"] == "Completed"


def test_a_slow_training_container_stands_still_for_a_while(
    sagemaker: Any, bucket: str, faults: FaultsClient
) -> None:
    faults.plan([Rule(kind="slow_container", job="*", seconds=0.7)])
    begun = time.monotonic()
    job = ended_training_job(sagemaker, create_training_job(sagemaker, bucket))
    assert (job["TrainingJobStatus"], time.monotonic() - begun > 0.7) == ("Completed", True)


def test_s3_under_load_is_asked_again(
    sagemaker: Any, s3: Any, bucket: str, faults: FaultsClient
) -> None:
    s3.put_object(Bucket=bucket, Key="data/1", Body="one")
    source = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{bucket}/data/"}}
    faults.plan(
        [
            Rule(kind="s3_error", operation="GetObject", most=1),
            Rule(kind="s3_error", operation="PutObject", most=1),
        ]
    )
    channels = [{"ChannelName": "training", "DataSource": source}]
    job = ended_training_job(
        sagemaker, create_training_job(sagemaker, bucket, InputDataConfig=channels)
    )
    assert job["TrainingJobStatus"] == "Completed"
    assert {event.where.partition(" ")[0] for event in faults.report().happened} == {
        "GetObject",
        "PutObject",
    }


@pytest.mark.parametrize(
    ("status", "blamed"),
    [
        (503, "InternalServerError"),
        (500, "InternalServerError"),
        (404, "ClientError"),
        (403, "ClientError"),
    ],
)
def test_a_failure_reason_blames_the_client_only_for_what_is_its_own(
    status: int, blamed: str
) -> None:
    answer: Any = {
        "Error": {"Code": "Code", "Message": "told"},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    reason = failure_reason(ClientError(answer, "GetObject"), "Data download failed: ")
    assert reason.startswith(f"{blamed}: ")
    assert "Data download failed: " in reason
    assert reason.endswith("told")


def spot_job(
    sagemaker: Any, bucket: str, max_wait: int = 60, max_runtime: int = 60, **settings: Any
) -> str:
    return create_training_job(
        sagemaker,
        bucket,
        EnableManagedSpotTraining=True,
        StoppingCondition={"MaxRuntimeInSeconds": max_runtime, "MaxWaitTimeInSeconds": max_wait},
        CheckpointConfig={"S3Uri": f"s3://{bucket}/checkpoints"},
        hyperparameters=settings,
    )


def test_an_interrupted_spot_job_goes_on_from_its_checkpoints(
    sagemaker: Any, s3: Any, bucket: str, faults: FaultsClient
) -> None:
    name = spot_job(sagemaker, bucket, checkpoint="half", resumes="yes", sleep=600)
    wait_for(lambda: keys(s3, bucket, "checkpoints/"), bool)
    assert faults.now(Strike(kind="spot_interruption", job=name)) == [f"job {name}"]
    job = ended_training_job(sagemaker, name)
    assert [transition["Status"] for transition in job["SecondaryStatusTransitions"]] == [
        "Starting",
        "Downloading",
        "Training",
        "Interrupted",
        "Starting",
        "Downloading",
        "Training",
        "Uploading",
        "Completed",
    ]
    assert json.loads(model_files(s3, job)["algo-1.json"])["checkpoints"] == ["algo-1.new"]
    assert job["TrainingTimeInSeconds"] >= 1


def test_a_spot_job_that_never_gets_capacity_is_stopped(
    sagemaker: Any, bucket: str, faults: FaultsClient
) -> None:
    faults.plan([Rule(kind="capacity", job="*")])
    job = ended_training_job(sagemaker, spot_job(sagemaker, bucket, max_wait=1, max_runtime=1))
    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Stopped", "MaxWaitTimeExceeded")
    statuses = [transition["Status"] for transition in job["SecondaryStatusTransitions"]]
    assert statuses == ["Starting", "Stopping", "MaxWaitTimeExceeded"]
    assert "BillableTimeInSeconds" not in job


def test_a_spot_job_that_is_interrupted_for_too_long_is_stopped(
    sagemaker: Any, bucket: str, faults: FaultsClient
) -> None:
    faults.plan([Rule(kind="spot_interruption", after_seconds=(0.1, 0.1), seconds=600)])
    job = ended_training_job(
        sagemaker, spot_job(sagemaker, bucket, max_wait=3, max_runtime=3, sleep=600)
    )
    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Stopped", "MaxWaitTimeExceeded")
    assert "ModelArtifacts" not in job


def test_only_spot_jobs_are_interrupted(sagemaker: Any, bucket: str, faults: FaultsClient) -> None:
    name = create_training_job(sagemaker, bucket, hyperparameters={"sleep": 600})
    wait_for(
        lambda: sagemaker.describe_training_job(TrainingJobName=name),
        lambda job: job["SecondaryStatus"] == "Training",
    )
    with pytest.raises(NothingStruckError):
        faults.now(Strike(kind="spot_interruption", job=name))
    sagemaker.stop_training_job(TrainingJobName=name)


def pid(runtime: Any, endpoint: str) -> int | None:
    try:
        return int(
            json.loads(runtime.invoke_endpoint(EndpointName=endpoint, Body=b"x")["Body"].read())[
                "pid"
            ]
        )
    except ClientError:
        return None


def test_a_killed_serving_container_is_replaced(
    sagemaker: Any, runtime: Any, endpoint: Endpoint, faults: FaultsClient
) -> None:
    name = endpoint(create_endpoint_config(sagemaker, create_model(sagemaker)))
    before = pid(runtime, name)
    faults.now(Strike(kind="kill_container", endpoint=name))
    wait_for(lambda: pid(runtime, name), lambda found: found not in (None, before))


def test_a_plan_strikes_what_runs_already_and_its_end_relieves_it(
    sagemaker: Any, runtime: Any, endpoint: Endpoint, faults: FaultsClient
) -> None:
    name = endpoint(create_endpoint_config(sagemaker, create_model(sagemaker)))
    faults.plan([Rule(kind="slow_container", endpoint=name, seconds=0.5)])
    wait_for(faults.report, lambda report: bool(report.happened))
    begun = time.monotonic()
    assert pid(runtime, name)
    assert time.monotonic() - begun > 0.5
    assert faults.end().rules[0].happened == 1
    assert faults.report().rules == []


def test_an_update_that_is_accepted_and_fails_leaves_the_old_configuration(
    sagemaker: Any, runtime: Any, emulator: Emulator, endpoint: Endpoint, faults: FaultsClient
) -> None:
    first, second = (create_endpoint_config(sagemaker, create_model(sagemaker)) for _ in range(2))
    name = endpoint(first)
    before = pid(runtime, name)
    faults.plan([Rule(kind="failed_update", endpoint=name, most=1)])
    sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=second)
    settled = settled_endpoint(sagemaker, name)
    assert (settled["EndpointStatus"], settled["EndpointConfigName"]) == ("InService", first)
    assert "Unable to provision" in settled["FailureReason"]
    assert pid(runtime, name) == before
    sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=second)
    settled = settled_endpoint(sagemaker, name)
    assert (settled["EndpointConfigName"], "FailureReason" in settled) == (second, False)
