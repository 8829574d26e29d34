"""Serverless endpoints, through boto3 unchanged."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from infrastructure.local_cloud import LocalCloud
from local_sagemaker.account.billing import Bill, Line
from tests.local_sagemaker.conftest import (
    Emulator,
    create_model,
    made_endpoints,
    running_emulator,
    unique,
    wait_for,
)

LAPSE = 6
IDLE_SECONDS = 12.0
SETUP_SECONDS = 1.2
Endpoint = Callable[..., str]


@pytest.fixture(scope="module")
def cloud(local_cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """An emulator whose environments are idle for two of the machine's seconds."""
    yield from running_emulator(
        local_cloud,
        tmp_path_factory.mktemp("serverless") / "state",
        *("--time-lapse", str(LAPSE), "--metrics-seconds", "0.5"),
        *("--serverless-idle-seconds", str(IDLE_SECONDS)),
        *("--serverless-setup-seconds", str(SETUP_SECONDS), "--serverless-setup-sigma", "0"),
    )


@pytest.fixture(scope="module")
def sagemaker(cloud: Emulator) -> Any:
    return cloud.client("sagemaker")


@pytest.fixture(scope="module")
def runtime(cloud: Emulator) -> Any:
    return cloud.client("sagemaker-runtime")


@pytest.fixture
def endpoint(sagemaker: Any) -> Iterator[Endpoint]:
    yield from made_endpoints(sagemaker)


def serverless(
    sagemaker: Any,
    *models: str,
    memory: int = 2048,
    most: int = 5,
    warm: int = 0,
    environment: dict[str, str] | None = None,
    more: dict[str, Any] | None = None,
    **variant: Any,
) -> str:
    """A configuration with one serverless variant per model, `variant-1` and so on."""
    name = unique("config")
    config = {"MemorySizeInMB": memory, "MaxConcurrency": most}
    config |= {"ProvisionedConcurrency": warm} if warm else {}
    models = models or (create_model(sagemaker, Environment=environment or {}),)
    sagemaker.create_endpoint_config(
        EndpointConfigName=name,
        ProductionVariants=[
            {
                "VariantName": f"variant-{number}",
                "ModelName": model,
                "ServerlessConfig": config,
                **variant,
            }
            for number, model in enumerate(models, 1)
        ],
        **(more or {}),
    )
    return name


def ask(runtime: Any, endpoint: str, body: str = "hello") -> Any:
    answer = runtime.invoke_endpoint(EndpointName=endpoint, Body=body.encode())
    return json.loads(answer["Body"].read())


def at_once(runtime: Any, endpoint: str, count: int, body: str = "sleep 0.7") -> list[Any]:
    """The answers to so many requests at once; an error's code in the place of an answer."""

    def one(_: int) -> Any:
        try:
            return ask(runtime, endpoint, body)["pid"]
        except ClientError as error:
            return error.response["Error"]["Code"]

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def total(cloud: Emulator, endpoint: str, metric: str, statistic: str = "Sum") -> float:
    """A statistic of a metric of the endpoint's variant, over all that was recorded."""
    monitored = cloud.client("cloudwatch").get_metric_statistics(
        Namespace="/aws/sagemaker/Endpoints" if metric == "MemoryUtilization" else "AWS/SageMaker",
        MetricName=metric,
        Dimensions=[
            {"Name": "EndpointName", "Value": endpoint},
            {"Name": "VariantName", "Value": "variant-1"},
        ],
        StartTime=datetime.now(UTC) - timedelta(hours=1),
        EndTime=datetime.now(UTC) + timedelta(minutes=5),
        Period=86_400,
        Statistics=[statistic],
    )["Datapoints"]
    assert monitored, f"{metric} has no values"
    values = [float(point[statistic]) for point in monitored]
    return max(values) if statistic == "Maximum" else sum(values)


def lines(cloud: Emulator, endpoint: str) -> dict[str, Line]:
    """The endpoint's lines of the bill, by what they count."""
    bill = Bill.model_validate(cloud.control("GET", "/_local/bill"))
    return {line.what: line for line in bill.lines if line.resource.endswith(f"/{endpoint}")}


def test_an_endpoint_is_in_service_without_a_container_and_the_first_request_starts_one(
    cloud: Emulator, sagemaker: Any, runtime: Any, endpoint: Endpoint
) -> None:
    before = len(cloud.containers())
    name = endpoint(serverless(sagemaker))
    assert len(cloud.containers()) == before
    (variant,) = sagemaker.describe_endpoint(EndpointName=name)["ProductionVariants"]
    wanted = {"MemorySizeInMB": 2048, "MaxConcurrency": 5}
    assert variant["CurrentServerlessConfig"] == variant["DesiredServerlessConfig"] == wanted
    assert not {"CurrentInstanceCount", "DesiredInstanceCount"} & variant.keys()
    assert ask(runtime, name)["pid"] == ask(runtime, name)["pid"]
    assert total(cloud, name, "Invocations") == 2
    assert total(cloud, name, "ModelSetupTime", "SampleCount") == 1
    assert total(cloud, name, "ModelSetupTime") >= SETUP_SECONDS * 1e6 * 0.99
    assert total(cloud, name, "OverheadLatency", "Maximum") >= SETUP_SECONDS * 1e6 * 0.99
    wait_for(lambda: len(cloud.containers()), lambda count: count == before)


def test_concurrent_requests_each_have_an_environment_and_more_are_throttled(
    cloud: Emulator, sagemaker: Any, runtime: Any, endpoint: Endpoint
) -> None:
    name = endpoint(serverless(sagemaker, most=3))
    answers = at_once(runtime, name, 5, "sleep 2")
    pids = [answer for answer in answers if isinstance(answer, int)]
    assert len(pids) == len(set(pids)) == 3
    assert answers.count("ThrottlingException") == 2
    assert total(cloud, name, "Invocation4XXErrors") == 2
    assert total(cloud, name, "ServerlessConcurrentExecutionsUtilization", "Maximum") == 1.0
    assert ask(runtime, name)["pid"] in pids
