"""Quotas by instance type, warm pools, hung instances, and the bill, on an emulator with its own
flags."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from infrastructure.local_cloud import LocalCloud
from local_sagemaker.__main__ import parse_arguments
from local_sagemaker.account.billing import Account, Bill, Meter
from local_sagemaker.account.prices import Prices, read_prices
from local_sagemaker.account.rates import (
    SPOT_TRAINING,
    TRAINING,
    WARM_POOL,
    InstanceQuota,
    Machine,
    TypeQuota,
)
from local_sagemaker.account.state import Store
from local_sagemaker.clock import MACHINE
from local_sagemaker.errors import ServiceError
from local_sagemaker.faults.client import FaultsClient
from local_sagemaker.faults.plan import Rule, Strike
from tests.local_sagemaker.conftest import (
    Emulator,
    create_endpoint_config,
    create_model,
    create_training_job,
    ended_training_job,
    settled_endpoint,
    unique,
    wait_for,
)

TYPE, LARGER = "ml.m5.large", "ml.m5.xlarge"
PRICES = {TYPE: 3.6, LARGER: 7.2}
LAPSE = 10
"""A hung container is replaced within 6 seconds of the machine, the limit of a response."""


@pytest.fixture(scope="module")
def frugal(local_cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """An emulator that provisions jobs, and endpoints of some names, in about a second of the
    machine, with small quotas, prices, and a short limit for hung containers."""
    folder = tmp_path_factory.mktemp("frugal")
    (folder / "prices.json").write_text(json.dumps(PRICES))
    running = Emulator(
        local_cloud,
        folder / "state",
        "--provisioning-seconds",
        "10",
        "--endpoint-provisioning-seconds",
        "60:80",
        "--endpoint-provisioning-seconds",
        "*=0",
        "--endpoint-provisioning-seconds",
        "slow-*=8:12",
        "--create-training-job-rate",
        "100",
        "--quota",
        f"{TYPE} for training warm pool usage=2",
        "--quota",
        f"{LARGER} for training job usage=1",
        "--quota",
        "ml.m5.4xlarge for endpoint usage=0",
        "--prices",
        str(folder / "prices.json"),
        "--time-lapse",
        str(LAPSE),
        "--ping-seconds",
        "0.1",
        "--failed-pings",
        "2",
        "--metrics-seconds",
        "1",
    )
    running.start()
    yield running
    running.stop()
    assert running.containers() == []


@pytest.fixture
def api(frugal: Emulator) -> Any:
    return frugal.client("sagemaker")


def job(api: Any, bucket: str, *, keep: int = 0, name: str | None = None, **changes: Any) -> str:
    resources = {
        "InstanceType": TYPE,
        "InstanceCount": 1,
        "VolumeSizeInGB": 1,
        **changes.pop("resources", {}),
    }
    if keep:
        resources["KeepAlivePeriodInSeconds"] = keep
    return create_training_job(api, bucket, name, ResourceConfig=resources, **changes)


def pool(api: Any, name: str) -> dict[str, Any]:
    found: dict[str, Any] = api.describe_training_job(TrainingJobName=name).get(
        "WarmPoolStatus", {}
    )
    return found


def seconds_before_download(description: Any) -> float:
    return float((description["TrainingStartTime"] - description["CreationTime"]).total_seconds())


def bill(emulator: Emulator) -> Bill:
    return Bill.model_validate(emulator.control("GET", "/_local/bill"))


def test_a_matching_job_takes_the_warm_pool_and_is_not_provisioned(
    api: Any, frugal: Emulator, bucket: str
) -> None:
    role = "arn:aws:iam::123456789012:role/matching"
    first = job(api, bucket, keep=600, RoleArn=role)
    assert pool(api, first) == {"Status": "InUse"}
    assert seconds_before_download(ended_training_job(api, first)) >= 1.0
    assert pool(api, first)["Status"] == "Available"
    # Each of these differs in one property that must match.
    for changes in (
        {"RoleArn": "arn:aws:iam::123456789012:role/another"},
        {"RoleArn": role, "resources": {"VolumeSizeInGB": 2}},
        {"RoleArn": role, "EnableNetworkIsolation": True},
        {"RoleArn": role, "EnableInterContainerTrafficEncryption": True},
        {"RoleArn": role, "VpcConfig": {"Subnets": ["subnet-1"], "SecurityGroupIds": ["sg-1"]}},
        {"RoleArn": role, "SessionChainingConfig": {"EnableSessionTagChaining": True}},
    ):
        other = job(api, bucket, **changes)
        api.stop_training_job(TrainingJobName=other)
        assert pool(api, first)["Status"] == "Available"
    second = job(api, bucket, keep=600, RoleArn=role)
    reused = pool(api, first)
    assert (reused["Status"], reused["ReusedByJob"]) == ("Reused", second)
    assert reused["ResourceRetainedBillableTimeInSeconds"] >= 0
    assert seconds_before_download(ended_training_job(api, second)) < 1.0
    api.update_training_job(TrainingJobName=second, ResourceConfig={"KeepAlivePeriodInSeconds": 0})
    wait_for(lambda: pool(api, second)["Status"], lambda status: status == "Terminated")
    with pytest.raises(ClientError, match="no warm pool that could be updated"):
        api.update_training_job(
            TrainingJobName=second, ResourceConfig={"KeepAlivePeriodInSeconds": 60}
        )
    retained = {
        line.resource.rpartition("/")[2]
        for line in bill(frugal).resources
        if line.usage == WARM_POOL and line.resource
    }
    assert retained == {first, second}


def test_a_pool_ends_by_itself_and_is_made_within_the_quota_only(api: Any, bucket: str) -> None:
    role = "arn:aws:iam::123456789012:role/alone"
    brief = job(api, bucket, keep=10, RoleArn=role)
    large = job(api, bucket, keep=600, RoleArn=role, resources={"InstanceCount": 3})
    failed = job(
        api,
        bucket,
        keep=600,
        RoleArn=role,
        hyperparameters={"fail_on": "all"},
        resources={"VolumeSizeInGB": 3},
    )
    for name in (brief, large, failed):
        ended_training_job(api, name)
    # There is no error although the quota of 2 is too small for 3 instances. An error of the
    # algorithm does not end the pool.
    assert pool(api, large)["Status"] == "Terminated"
    assert pool(api, failed)["Status"] == "Available"
    wait_for(lambda: pool(api, brief)["Status"], lambda status: status == "Terminated")
    assert pool(api, brief)["ResourceRetainedBillableTimeInSeconds"] >= 10
    api.update_training_job(TrainingJobName=failed, ResourceConfig={"KeepAlivePeriodInSeconds": 0})


def test_a_pool_outlives_a_restart(api: Any, frugal: Emulator, bucket: str) -> None:
    role = "arn:aws:iam::123456789012:role/restarted"
    first = job(api, bucket, keep=600, RoleArn=role)
    ended_training_job(api, first)
    frugal.stop()
    frugal.start()
    assert pool(api, first)["Status"] == "Available"
    assert frugal.control("GET", "/_local/health")["instances"][WARM_POOL] == 1
    second = job(api, bucket, RoleArn=role)
    assert pool(api, first)["ReusedByJob"] == second
    ended_training_job(api, second)
    assert pool(api, second)["Status"] == "Terminated"
    health = frugal.control("GET", "/_local/health")["instances"]
    assert (health[WARM_POOL], health[TRAINING]) == (0, 0)


def test_spot_jobs_have_no_warm_pools(api: Any, bucket: str) -> None:
    stopping = {"MaxRuntimeInSeconds": 3600, "MaxWaitTimeInSeconds": 3600}
    with pytest.raises(ClientError, match="not supported with EnableManagedSpotTraining"):
        job(api, bucket, keep=60, EnableManagedSpotTraining=True, StoppingCondition=stopping)


def test_a_type_has_a_quota_of_its_own(api: Any, frugal: Emulator, bucket: str) -> None:
    larger = {"InstanceType": LARGER}
    running = job(api, bucket, resources=larger, hyperparameters={"sleep": 600})
    with pytest.raises(
        ClientError,
        match=rf"'{LARGER} for training job usage' is 1 Instances, with current utilization of 1",
    ):
        job(api, bucket, resources=larger)
    job(api, bucket)
    api.stop_training_job(TrainingJobName=running)
    ended_training_job(api, running)
    config = create_endpoint_config(api, create_model(api), InstanceType="ml.m5.4xlarge")
    with pytest.raises(ClientError) as error:
        api.create_endpoint(EndpointName=unique("none"), EndpointConfigName=config)
    assert error.value.response["Error"]["Code"] == "ResourceLimitExceeded"


def test_the_bill_has_seconds_and_dollars_by_usage_type_and_resource(
    api: Any, frugal: Emulator, bucket: str
) -> None:
    name = job(api, bucket, hyperparameters={"sleep": 0.5}, resources={"InstanceCount": 2})
    ended = ended_training_job(api, name)
    total = bill(frugal)
    (line,) = [line for line in total.resources if line.resource == ended["TrainingJobArn"]]
    real_seconds = (ended["TrainingEndTime"] - ended["TrainingStartTime"]).total_seconds()
    # A description's times are in whole milliseconds.
    assert 2 * 0.5 * LAPSE < line.instance_seconds <= 2 * (real_seconds + 0.01) * LAPSE
    assert line.cost == pytest.approx(line.instance_seconds / 3600 * PRICES[TYPE])
    assert total.cost == pytest.approx(sum(line.cost or 0 for line in total.lines))
    assert total.instance_seconds == pytest.approx(
        sum(line.instance_seconds for line in total.usages)
    )
    assert total.without_price == []


def test_a_spot_job_is_billed_less_than_it_trained(api: Any, frugal: Emulator, bucket: str) -> None:
    stopping = {"MaxRuntimeInSeconds": 3600, "MaxWaitTimeInSeconds": 3600}
    name = job(
        api,
        bucket,
        EnableManagedSpotTraining=True,
        StoppingCondition=stopping,
        hyperparameters={"sleep": 2},
    )
    ended = ended_training_job(api, name)
    assert 1 <= ended["BillableTimeInSeconds"] < ended["TrainingTimeInSeconds"]
    (line,) = [line for line in bill(frugal).resources if line.resource == ended["TrainingJobArn"]]
    assert line.usage == SPOT_TRAINING
    assert line.instance_seconds < ended["TrainingTimeInSeconds"]


def test_a_hung_instance_is_replaced_and_its_requests_fail(api: Any, frugal: Emulator) -> None:
    runtime, faults = frugal.client("sagemaker-runtime"), FaultsClient(frugal.url)
    name = unique("endpoint")
    api.create_endpoint(
        EndpointName=name, EndpointConfigName=create_endpoint_config(api, create_model(api))
    )
    assert settled_endpoint(api, name)["EndpointStatus"] == "InService"

    def pid() -> Any:
        return json.loads(runtime.invoke_endpoint(EndpointName=name, Body=b"x")["Body"].read())[
            "pid"
        ]

    before = pid()
    faults.now(Strike(kind="hang_container", endpoint=name))
    with pytest.raises(ClientError) as error:
        pid()
    assert error.value.response["Error"]["Code"] == "ModelError"
    assert "The container did not answer" in error.value.response["Error"]["Message"]

    def answering() -> Any:
        try:
            return pid()
        except ClientError:
            return before

    wait_for(answering, lambda found: found != before)
    api.delete_endpoint(EndpointName=name)
    (line,) = [
        line
        for line in bill(frugal).resources
        if line.resource and line.resource.endswith(f"endpoint/{name}")
    ]
    assert line.instance_seconds > 0


def test_endpoints_of_some_names_wait_for_their_instances_and_are_billed_for_it(
    api: Any, frugal: Emulator
) -> None:
    config = create_endpoint_config(api, create_model(api))
    name = unique("slow")
    asked = time.monotonic()
    api.create_endpoint(EndpointName=name, EndpointConfigName=config)
    assert settled_endpoint(api, name)["EndpointStatus"] == "InService"
    assert 0.8 < time.monotonic() - asked < 20
    (line,) = [line for line in bill(frugal).resources if str(line.resource).endswith(name)]
    assert line.instance_seconds > 0.8 * LAPSE
    api.delete_endpoint(EndpointName=name)


def test_the_lines_of_an_endpoint_and_a_job_have_their_tags_and_the_prices_of_the_region(
    api: Any, frugal: Emulator, bucket: str
) -> None:
    tags = [{"Key": "tenantry:tenant", "Value": unique("tenant")}]
    config = create_endpoint_config(api, create_model(api), VolumeSizeInGB=5)
    name = unique("endpoint")
    api.create_endpoint(EndpointName=name, EndpointConfigName=config, Tags=tags)
    settled_endpoint(api, name)
    runtime = frugal.client("sagemaker-runtime")
    answer = runtime.invoke_endpoint(EndpointName=name, Body=b"pass 1234")["Body"].read()
    api.delete_endpoint(EndpointName=name)
    ended_training_job(api, job(api, bucket, resources={"VolumeSizeInGB": 2}, Tags=tags))
    wait_for(
        lambda: frugal.control("GET", "/_local/health")["instances"]["endpoint"], lambda n: not n
    )
    mine = [line for line in bill(frugal).lines if tags[0]["Value"] in line.tags.values()]
    lines = {(line.what, line.usage): line for line in mine}
    for usage, gigabytes in (("endpoint", 5), (TRAINING, 2)):
        held, storage = lines["instance", usage], lines["storage", usage]
        assert (held.price, held.price_source) == (PRICES[TYPE], "the caller's prices")
        assert storage.quantity == pytest.approx(held.quantity * gigabytes / (30 * 24))
        assert storage.price == 0.154
        assert "eu-west-1" in storage.price_source
    sizes = [lines[what, "endpoint"].quantity * 1024**3 for what in ("data in", "data out")]
    assert sizes == pytest.approx([len(b"pass 1234"), len(answer)])
    assert lines["requests", "endpoint"].quantity == 1
    assert lines["requests", "endpoint"].cost is None
    assert lines["data in", "endpoint"].price == 0.016


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--discount", "endpoint=2"), "is no discount"),
        (("--serverless-setup-sigma", "-1"), "must be 0 or more"),
        (("--quota", "ml.m5.large=3"), "is no quota"),
        (("--quota", "ml.m5.large for dancing usage=3"), "is no quota"),
        (("--prices", "/nowhere/prices.yaml"), "No such file"),
        (("--endpoint-provisioning-seconds", "portraits"), "is no provisioning delay"),
        (("--endpoint-provisioning-seconds", "5:2"), "is no provisioning delay"),
        (("--endpoint-provisioning-seconds", "=5"), "is no provisioning delay"),
        (("--endpoint-provisioning-seconds", "nan"), "is no provisioning delay"),
        (("--time-lapse", "0"), "invalid choice"),
        (("--time-lapse", "61"), "invalid choice"),
        (("--time-lapse", "1.5"), "invalid int value"),
        (("--metrics-time-lapse", "60"), "unrecognized arguments"),
    ],
)
def test_a_flag_that_is_wrong_ends_the_start_with_a_reason(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(["--port", "1", "--state", "s", "--containers", "c", *arguments])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("text", ["[1]", "{ml.m5.large: dear}", "{ml.m5.large: -1}", "{: ["])
def test_prices_that_are_none_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "prices.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"prices\.yaml|validation error"):
        read_prices(tmp_path / "prices.yaml")


def test_what_was_settled_is_billed_after_a_crash(tmp_path: Path) -> None:
    store = Store(tmp_path)
    meter = Meter(store, MACHINE, Prices(None, "eu-west-1", "USD"))
    running = meter.begin(Account(TRAINING, "arn", TYPE), count=2)
    time.sleep(0.02)
    meter.settle()
    settled = Meter(store, MACHINE, Prices(None, "eu-west-1", "USD")).bill()
    assert settled.instance_seconds >= 0.04
    assert (settled.cost, settled.without_price) == (None, [TYPE])
    running.end()
    running.end()
    assert meter.bill().instance_seconds >= settled.instance_seconds
    store.close()


types = st.sampled_from([TYPE, LARGER])


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), types, st.integers(0, 4))))
def test_no_quota_is_ever_passed_and_a_refusal_changes_nothing(
    steps: list[tuple[str, bool, str, int]],
) -> None:
    machine = Machine(6)
    limits = [TypeQuota(TRAINING, TYPE, 3), TypeQuota(SPOT_TRAINING, LARGER, 2)]
    quotas = {
        usage: InstanceQuota(usage, limits, within=machine) for usage in (TRAINING, SPOT_TRAINING)
    }
    held: dict[tuple[str, str], tuple[str, int]] = {}
    for owner, spot, kind, count in steps:
        usage = SPOT_TRAINING if spot else TRAINING
        before, refused = machine.used, None
        try:
            quotas[usage].hold(owner, {kind: count})
            held[usage, owner] = (kind, count)
        except ServiceError as error:
            refused = error.code
        assert refused in (None, "ResourceLimitExceeded")
        assert refused is None or machine.used == before
        assert machine.used == sum(count for _, count in held.values()) <= 6
        assert (
            sum(
                count
                for (used, _), (kind, count) in held.items()
                if (used, kind) == (TRAINING, TYPE)
            )
            <= 3
        )
        assert (
            sum(
                count
                for (used, _), (kind, count) in held.items()
                if (used, kind) == (SPOT_TRAINING, LARGER)
            )
            <= 2
        )


def test_a_slow_instance_is_not_taken_for_a_hung_one(api: Any, frugal: Emulator) -> None:
    runtime, faults = frugal.client("sagemaker-runtime"), FaultsClient(frugal.url)
    name = unique("endpoint")
    api.create_endpoint(
        EndpointName=name, EndpointConfigName=create_endpoint_config(api, create_model(api))
    )
    settled_endpoint(api, name)
    pids = set()
    with faults.planned(Rule(kind="slow_container", endpoint=name, seconds=0.5)):
        for _ in range(3):
            pids.add(
                json.loads(runtime.invoke_endpoint(EndpointName=name, Body=b"x")["Body"].read())[
                    "pid"
                ]
            )
    assert len(pids) == 1
    api.delete_endpoint(EndpointName=name)
