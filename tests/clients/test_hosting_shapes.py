"""Every hosting shape, judged by clients from outside: boto3, the AWS CLI and sagemaker-core.

The steps keep to what AWS documents. With TENANTRY_AWS_VERIFIED=1 they run on AWS, which takes
more than an hour and costs money. They then take from variables:

- `TENANTRY_AWS_IMAGE`, the URI of the echo image, pushed to the account's registry;
- `TENANTRY_AWS_ROLE`, the ARN of a role that SageMaker may assume, and that may read the image and
  the bucket;
- `TENANTRY_AWS_BUCKET`, a bucket for small model archives.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from botocore.config import Config

from infrastructure.local_cloud import LocalCloud
from tests.clients.hosting_clients import AwsCli, Boto3, Client, RefusedError, SagemakerCore
from tests.local_sagemaker.conftest import ECHO, ROLE, running_emulator, tar_gz, unique, wait_for

ON_AWS = os.environ.get("TENANTRY_AWS_VERIFIED") == "1"
LAPSE = 10
PATIENCE = 1800.0 if ON_AWS else 60.0
FIVE = range(5)
pytestmark = [pytest.mark.aws_verified, *([pytest.mark.timeout(7200)] if ON_AWS else [])]


def until(read: Callable[[], Any], wanted: Callable[[Any], bool]) -> Any:
    """What `read` gives as soon as it is `wanted`."""

    def paced() -> Any:
        if ON_AWS:
            time.sleep(5)  # AWS throttles callers that describe without a pause
        return read()

    return wait_for(paced, wanted, PATIENCE)


@dataclass(frozen=True)
class Place:
    """A cloud, and what hosting on it takes."""

    image: str
    role: str
    bucket: str
    environment: dict[str, str]
    url: str | None = None  # of `local_sagemaker`
    s3_url: str | None = None

    def client(self, service: str) -> Any:
        """boto3's client of a service, which asks once."""
        url = self.s3_url if service == "s3" else self.url
        config = Config(retries={"mode": "standard", "total_max_attempts": 1})
        return boto3.Session().client(service, endpoint_url=url, config=config)  # type: ignore[call-overload]


@pytest.fixture(scope="module")
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """AWS, or an emulator on which a minute of AWS's passes in six seconds."""
    once = {"AWS_MAX_ATTEMPTS": "1"}
    if ON_AWS:
        image, role, bucket = (
            os.environ[f"TENANTRY_AWS_{name}"] for name in ("IMAGE", "ROLE", "BUCKET")
        )
        yield Place(image, role, bucket, once)
        return
    cloud: LocalCloud = request.getfixturevalue("local_cloud")
    state = tmp_path_factory.mktemp("shapes") / "state"
    for emulator in running_emulator(
        cloud, state, "--time-lapse", str(LAPSE), "--metrics-seconds", "0.5"
    ):
        bucket = unique("shapes")
        s3 = boto3.client("s3", endpoint_url=cloud.ministack_url, region_name="eu-west-1")
        s3.create_bucket(
            Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
        )
        environment = emulator.environment | once
        yield Place(ECHO, ROLE, bucket, environment, emulator.url, cloud.ministack_url)


def boto3_of(place: Place) -> Boto3:
    return Boto3(place.client("sagemaker"), place.client("sagemaker-runtime"))


@pytest.fixture(scope="module")
def client(
    request: pytest.FixtureRequest, place: Place, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Client]:
    """The client that a case names."""
    made: Client
    if request.param == "boto3":
        made = boto3_of(place)
    elif request.param == "aws-cli":
        made = AwsCli(place.environment, tmp_path_factory.mktemp("aws-cli"))
    else:
        made = SagemakerCore(place.environment)
    yield made
    made.close()


@dataclass
class Hosting:
    """What a test makes through a client, and its removal."""

    client: Client
    place: Place
    folder: str = field(default_factory=lambda: unique("models"))
    _made: list[tuple[str, str]] = field(default_factory=list)

    def archive(self, name: str, **files: str) -> str:
        """The URI of a new model archive."""
        key = f"{self.folder}/{name}"
        self.place.client("s3").put_object(Bucket=self.place.bucket, Key=key, Body=tar_gz(**files))
        return f"s3://{self.place.bucket}/{key}"

    def container(self, **more: Any) -> dict[str, Any]:
        """A container of the echo image."""
        return {"Image": self.place.image, **more}

    def model(self, *containers: dict[str, Any], **more: Any) -> str:
        """The name of a new model of one container or several."""
        one = {"PrimaryContainer": containers[0]} if len(containers) == 1 else {}
        several = {} if one else {"Containers": list(containers)}
        name = unique("model")
        self.client.call(
            "create_model",
            ModelName=name,
            ExecutionRoleArn=self.place.role,
            **one,
            **several,
            **more,
        )
        self._made.append(("model", name))
        return name

    def version(self, name: str) -> str:
        """A model that tells its version."""
        return self.model(self.container(Environment={"ECHO_VERSION": name}))

    def config(self, *variants: dict[str, Any], client: Client | None = None, **more: Any) -> str:
        """The name of a new configuration of these variants, made through another client where one
        is given."""
        name = unique("config")
        (client or self.client).call(
            "create_endpoint_config",
            EndpointConfigName=name,
            ProductionVariants=list(variants),
            **more,
        )
        self._made.append(("endpoint_config", name))
        return name

    def endpoint(self, config: str) -> str:
        """The name of a new endpoint in service."""
        name = unique("endpoint")
        self.client.call("create_endpoint", EndpointName=name, EndpointConfigName=config)
        self._made.append(("endpoint", name))
        self.settled(name)
        return name

    def described(self, endpoint: str) -> Any:
        """The endpoint's description."""
        return self.client.call("describe_endpoint", EndpointName=endpoint)

    def settled(self, endpoint: str) -> Any:
        """The description of the endpoint once it is in service."""
        found = until(
            lambda: self.described(endpoint),
            lambda one: one["EndpointStatus"] in ("InService", "Failed"),
        )
        assert found["EndpointStatus"] == "InService", found.get("FailureReason")
        return found

    def text(self, endpoint: str, body: str, **request: Any) -> str:
        """The answer to a request."""
        answer = self.client.call("invoke_endpoint", EndpointName=endpoint, Body=body, **request)
        return str(answer["Body"])

    def told(self, endpoint: str, **request: Any) -> Any:
        """What the echo container tells of a request and itself."""
        return json.loads(self.text(endpoint, "hello", **request))

    def told_version(self, endpoint: str, **request: Any) -> str:
        """The version of the model that answers."""
        return str(self.told(endpoint, **request)["environment"]["ECHO_VERSION"])

    def refused(self, code: str, operation: str, **request: Any) -> str:
        """The message of a refusal with this code."""
        with pytest.raises(RefusedError) as error:
            self.client.call(operation, **request)
        assert error.value.code == code, error.value
        return error.value.message

    def refused_request(self, code: str, endpoint: str, body: str = "hello", **more: Any) -> str:
        """The message of a refused request to an endpoint."""
        return self.refused(code, "invoke_endpoint", EndpointName=endpoint, Body=body, **more)

    def remove(self) -> list[tuple[str, str]]:
        """Delete all that was made, endpoints first; their kinds and names."""
        removed: list[tuple[str, str]] = []
        while self._made:
            kind, name = self._made.pop()
            self.client.call(f"delete_{kind}", **{_named(kind): name})
            removed.append((kind, name))
        return removed


def _named(kind: str) -> str:
    """The member that holds the name of such a resource."""
    return f"{kind.title().replace('_', '')}Name"


@pytest.fixture
def hosting(client: Client, place: Place) -> Iterator[Hosting]:
    """What the test leaves is removed, since it costs money on AWS."""
    made = Hosting(client, place)
    yield made
    made.remove()


def variant(model: str, name: str = "all", **more: Any) -> dict[str, Any]:
    """A variant on one instance."""
    instances = {"InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    return {"VariantName": name, "ModelName": model, **instances, **more}


def one_model(hosting: Hosting) -> None:
    archive = hosting.archive("one.tar.gz", weights="1")
    name = hosting.endpoint(
        hosting.config(variant(hosting.model(hosting.container(ModelDataUrl=archive))))
    )
    told = hosting.told(name, ContentType="text/csv", Accept="text/html", InferenceId="i-7")
    assert told["files"] == {"weights": "1"}
    assert (told["body"], told["content_type"], told["accept"]) == (
        "hello",
        "text/csv",
        "text/html",
    )
    assert told["inference"] == "i-7"
    assert "Received client error (400)" in hosting.refused_request("ModelError", name, "fail 400")
    assert "Received server error (503)" in hosting.refused_request("ModelError", name, "fail 503")


def many_models(hosting: Hosting) -> None:
    for tenant in ("acme", "globex"):
        hosting.archive(f"{tenant}.tar.gz", weights=tenant)
    container = hosting.container(
        Mode="MultiModel", ModelDataUrl=f"s3://{hosting.place.bucket}/{hosting.folder}/"
    )
    name = hosting.endpoint(hosting.config(variant(hosting.model(container))))
    for tenant in ("acme", "globex"):
        assert hosting.told(name, TargetModel=f"{tenant}.tar.gz")["files"] == {"weights": tenant}
    hosting.archive("later.tar.gz", weights="later")  # a model needs no update of the endpoint
    assert hosting.told(name, TargetModel="later.tar.gz")["files"] == {"weights": "later"}
    hosting.refused_request("ValidationError", name, TargetModel="nobody.tar.gz")
    hosting.refused_request("ValidationError", name)


def direct_containers(hosting: Hosting) -> None:
    containers = [
        hosting.container(ContainerHostname=name, Environment={"ECHO_VERSION": name})
        for name in ("first", "second")
    ]
    model = hosting.model(*containers, InferenceExecutionConfig={"Mode": "Direct"})
    name = hosting.endpoint(hosting.config(variant(model)))
    for hostname in ("second", "first"):
        assert hosting.told_version(name, TargetContainerHostname=hostname) == hostname
    hosting.refused_request("ValidationError", name)
    hosting.refused_request("ValidationError", name, TargetContainerHostname="third")


def pipeline(hosting: Hosting) -> None:
    name = hosting.endpoint(hosting.config(variant(hosting.model(*[hosting.container()] * 3))))
    assert hosting.text(name, "pass pass upper abc") == "ABC"
    hosting.refused_request("ModelError", name, "pass fail 503")
    hosting.refused_request("ValidationError", name, TargetContainerHostname="container-1")


def serverless(hosting: Hosting) -> None:
    memory = {
        "VariantName": "all",
        "ModelName": hosting.version("serverless"),
        "ServerlessConfig": {"MemorySizeInMB": 1024, "MaxConcurrency": 1},
    }
    client = hosting.client
    if not client.writes_memory_sizes:
        # When the client can, the detour through boto3 goes.
        message = hosting.refused(
            "ParamValidationError",
            "create_endpoint_config",
            EndpointConfigName=unique("config"),
            ProductionVariants=[memory],
        )
        assert 'Unknown parameter in ProductionVariants[0].ServerlessConfig: "MemorySizeInMb"' in (
            message
        )
        client = boto3_of(hosting.place)
    config = hosting.config(memory, client=client)
    name = hosting.endpoint(config)
    assert hosting.told_version(name) == "serverless"
    runtime = hosting.place.client("sagemaker-runtime")
    enough = threading.Event()

    def occupy() -> None:
        """Hold the only environment nearly all the time."""
        while not enough.is_set():
            try:
                runtime.invoke_endpoint(EndpointName=name, Body=b"sleep 0.5")
            except runtime.exceptions.ClientError as error:
                if error.response["Error"]["Code"] != "ThrottlingException":
                    raise

    def throttled() -> bool:
        try:
            hosting.told(name)
        except RefusedError as error:
            if error.code != "ThrottlingException":
                raise
            return True
        return False

    occupying = threading.Thread(target=occupy)
    occupying.start()
    try:
        until(throttled, bool)
    finally:
        enough.set()
        occupying.join()
    assert hosting.told_version(name) == "serverless"


def weighted_variants(hosting: Hosting) -> None:
    first_gets_all = 1.0, 1e-9  # sagemaker-core leaves a weight of 0 out of the request
    second_gets_all = first_gets_all[::-1]

    name = hosting.endpoint(
        hosting.config(
            *(
                variant(hosting.version(which), which, InitialVariantWeight=weight)
                for which, weight in zip(("one", "two"), first_gets_all, strict=True)
            )
        )
    )
    assert {hosting.told_version(name) for _ in FIVE} == {"one"}
    hosting.client.call(
        "update_endpoint_weights_and_capacities",
        EndpointName=name,
        DesiredWeightsAndCapacities=[
            {"VariantName": which, "DesiredWeight": weight}
            for which, weight in zip(("one", "two"), second_gets_all, strict=True)
        ],
    )
    found = hosting.settled(name)
    weights = {one["VariantName"]: one["CurrentWeight"] for one in found["ProductionVariants"]}
    assert (weights["one"], weights["two"]) == pytest.approx(second_gets_all)
    assert {hosting.told_version(name) for _ in FIVE} == {"two"}
    answer = hosting.client.call(
        "invoke_endpoint", EndpointName=name, Body="hello", TargetVariant="one"
    )
    assert answer["InvokedProductionVariant"] == "one"
    assert json.loads(answer["Body"])["environment"]["ECHO_VERSION"] == "one"
    hosting.refused_request("ValidationError", name, TargetVariant="three")


def shadow(hosting: Hosting) -> None:
    live, copied = hosting.version("live"), hosting.version("copied")
    name = hosting.endpoint(
        hosting.config(
            variant(live, "live", InitialVariantWeight=1.0),
            ShadowProductionVariants=[variant(copied, "shadow", InitialVariantWeight=1.0)],
        )
    )
    (found,) = hosting.described(name)["ShadowProductionVariants"]
    assert (found["VariantName"], found["CurrentInstanceCount"]) == ("shadow", 1)
    assert {hosting.told_version(name) for _ in FIVE} == {"live"}
    cloudwatch = hosting.place.client("cloudwatch")

    def copies() -> float:
        """The requests that reached the shadow."""
        points = cloudwatch.get_metric_statistics(
            Namespace="AWS/SageMaker",
            MetricName="Invocations",
            Dimensions=[
                {"Name": "EndpointName", "Value": name},
                {"Name": "VariantName", "Value": "shadow"},
            ],
            StartTime=datetime.now(UTC) - timedelta(hours=1),
            EndTime=datetime.now(UTC) + timedelta(minutes=5),
            Period=60,
            Statistics=["Sum"],
        )["Datapoints"]
        return float(sum(point["Sum"] for point in points))

    until(copies, lambda count: count == len(FIVE))


def canary(hosting: Hosting) -> None:
    def guarded(kind: str, canaries: int) -> dict[str, Any]:
        routing = {
            "Type": "CANARY",
            "CanarySize": {"Type": kind, "Value": canaries},
            "WaitIntervalInSeconds": 10,
        }
        return {"BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": routing}}

    old, new = (
        hosting.config(variant(hosting.version(name), InitialInstanceCount=2))
        for name in ("old", "new")
    )
    name = hosting.endpoint(old)
    assert hosting.told_version(name) == "old"
    hosting.refused(
        "ValidationException",
        "update_endpoint",
        EndpointName=name,
        EndpointConfigName=new,
        DeploymentConfig=guarded("CAPACITY_PERCENT", 60),  # AWS allows a half at most
    )
    assert hosting.described(name)["EndpointStatus"] == "InService"
    hosting.client.call(
        "update_endpoint",
        EndpointName=name,
        EndpointConfigName=new,
        DeploymentConfig=guarded("INSTANCE_COUNT", 1),
    )
    seen: list[str] = []

    def status() -> str:
        seen.append(hosting.told_version(name))
        return str(hosting.described(name)["EndpointStatus"])

    until(status, lambda now: now != "Updating")
    found = hosting.settled(name)
    assert found["EndpointConfigName"] == new
    used = found["LastDeploymentConfig"]["BlueGreenUpdatePolicy"]["TrafficRoutingConfiguration"]
    assert (used["Type"], used["CanarySize"]["Value"]) == ("CANARY", 1)
    assert set(seen) <= {"old", "new"}  # each request had an answer
    assert {hosting.told_version(name) for _ in FIVE} == {"new"}


SHAPES: tuple[Callable[[Hosting], None], ...] = (
    one_model,
    many_models,
    direct_containers,
    pipeline,
    serverless,
    weighted_variants,
    shadow,
    canary,
)


def _case(client: str, shape: Callable[[Hosting], None]) -> Any:
    """The quick cases are all shapes through boto3, and as much of the others as time allows."""
    others = {"aws-cli": (one_model,), "sagemaker-core": (serverless,)}
    quick = client == "boto3" or shape in others[client]
    marks = () if quick else pytest.mark.slow
    return pytest.param(client, shape, marks=marks, id=f"{client}-{shape.__name__}")


@pytest.mark.parametrize(
    ("client", "shape"),
    [_case(client, shape) for client in ("boto3", "aws-cli", "sagemaker-core") for shape in SHAPES],
    indirect=["client"],
)
def test_a_shape_serves_and_leaves_nothing(
    hosting: Hosting, shape: Callable[[Hosting], None]
) -> None:
    shape(hosting)
    for kind, name in hosting.remove():
        if kind == "endpoint":
            _gone(hosting, name)
        else:
            message = hosting.refused(
                "ValidationException", f"delete_{kind}", **{_named(kind): name}
            )
            assert "Could not find" in message


def _gone(hosting: Hosting, endpoint: str) -> None:
    """The endpoint can soon be neither described nor asked."""

    def described() -> str:
        try:
            return str(hosting.described(endpoint)["EndpointStatus"])
        except RefusedError as error:
            if error.code != "ValidationException":
                raise
            return error.message

    until(described, lambda told: "Could not find endpoint" in told)
    hosting.refused_request("ValidationError", endpoint)
