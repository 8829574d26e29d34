"""The proxy makes calls fail like AWS, the same ones for the same seed, and none when faults are
off."""

from __future__ import annotations

from collections.abc import Iterator

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from infrastructure.local_cloud import LocalCloud
from tests.chaos.faulty_proxy import SHARES, FaultyProxy

CALLS = 120


@pytest.fixture
def bucket(empty_cloud: LocalCloud) -> str:
    boto3.client("s3").create_bucket(
        Bucket="faulty", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
    )
    return "faulty"


def proxies(cloud: LocalCloud, *seeds: str) -> Iterator[FaultyProxy]:
    for seed in seeds:
        proxy = FaultyProxy(cloud.ministack_port, seed, max_expired=2)
        proxy.start()
        yield proxy
        proxy.stop()


def outcomes(proxy: FaultyProxy, bucket: str) -> list[str]:
    """The outcomes of a series of writes for a client that does not retry."""
    once = Config(retries={"total_max_attempts": 1})
    s3 = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{proxy.port}", config=once)
    seen = []
    for number in range(CALLS):
        try:
            s3.put_object(Bucket=bucket, Key="k", Body=str(number).encode())
        except ClientError as error:
            seen.append(error.response["Error"]["Code"])
        except BotoCoreError as error:
            seen.append(type(error).__name__)
        else:
            seen.append("done")
    return seen


def test_the_same_seed_lets_the_same_calls_fail_and_another_others(
    empty_cloud: LocalCloud, bucket: str
) -> None:
    seen = []
    for proxy in proxies(empty_cloud, "1", "1", "2"):
        proxy.faults_on = True
        seen.append(outcomes(proxy, bucket))
        assert proxy.happened.total() > 0
    assert seen[0] == seen[1] != seen[2]
    failed = [outcome for outcome in seen[0] + seen[2] if outcome != "done"]
    assert {"SlowDown", "ConnectionClosedError"} <= set(failed)
    assert len(failed) < 4 * CALLS * sum(SHARES.values())


def test_without_faults_everything_passes_whole_and_an_sdk_gets_through_with_them(
    empty_cloud: LocalCloud, bucket: str
) -> None:
    content = bytes(range(256)) * 5_000
    for proxy in proxies(empty_cloud, "3"):
        patient = Config(retries={"mode": "standard", "total_max_attempts": 10})
        s3 = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{proxy.port}", config=patient)
        s3.put_object(Bucket=bucket, Key="large", Body=content)
        assert s3.get_object(Bucket=bucket, Key="large")["Body"].read() == content
        assert s3.head_object(Bucket=bucket, Key="large")["ContentLength"] == len(content)
        assert proxy.happened == {}
        proxy.faults_on = True
        for number in range(25):
            s3.put_object(Bucket=bucket, Key=f"k/{number}", Body=b"x")
        assert len(s3.list_objects_v2(Bucket=bucket, Prefix="k/")["Contents"]) == 25
