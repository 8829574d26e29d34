"""After a kill, ministack has its tables and queues of seconds before again, and the stack can be
deployed."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from infrastructure.deploy import DeploymentError, deploy
from infrastructure.local_cloud import LocalCloud, free_port
from tenantry.aws.deployment import Deployment

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def ministack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalCloud]:
    """Only ministack, which a test may kill."""
    cloud = LocalCloud(state=tmp_path / "cloud", containers=ROOT / "containers")
    start(cloud, monkeypatch)
    try:
        yield cloud
    finally:
        cloud.stop()


def start(cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud.ministack_port = free_port()
    cloud.state.mkdir(exist_ok=True)
    cloud.start_ministack()
    for name, value in cloud.environment.items():
        monkeypatch.setenv(name, value)


def kill(cloud: LocalCloud) -> None:
    process = cloud.processes["ministack"]
    process.kill()
    process.wait()


def saved(cloud: LocalCloud, service: str, words: str) -> bool:
    file = cloud.state / "ministack" / f"{service}.json"
    return file.exists() and words in file.read_text()


def test_a_killed_ministack_has_its_tables_and_stack_again(
    ministack: LocalCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = deploy()
    deployment = Deployment.from_stack()
    deployment.s3.put_object(
        Bucket=deployment.uploads_bucket, Key="uploads/acme/energy/u1/manifest.json", Body=b"{}"
    )
    row = {"pk": {"S": "energy"}, "sk": {"S": "acme"}}
    keys = [
        k["AttributeName"]
        for k in deployment.dynamodb.describe_table(TableName=deployment.models_table)["Table"][
            "KeySchema"
        ]
    ]
    item = dict(zip(keys, row.values(), strict=False))
    deployment.dynamodb.put_item(TableName=deployment.models_table, Item=item)
    while not (saved(ministack, "dynamodb", '"acme"') and saved(ministack, "sqs", "manifest.json")):
        assert ministack.processes["ministack"].poll() is None
        time.sleep(0.05)
    kill(ministack)

    start(ministack, monkeypatch)
    assert deploy() == outputs
    found = Deployment.from_stack()
    assert found.dynamodb.get_item(TableName=found.models_table, Key=item)["Item"] == item
    waiting = found.sqs.receive_message(QueueUrl=found.uploads_queue_url, MaxNumberOfMessages=10)[
        "Messages"
    ]
    assert any("manifest.json" in message["Body"] for message in waiting)


def test_buckets_that_lost_their_stack_are_told_with_what_to_do(
    ministack: LocalCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy()
    deployment = Deployment.from_stack()
    deployment.s3.put_object(
        Bucket=deployment.uploads_bucket, Key="uploads/acme/energy/u1/manifest.json", Body=b"{}"
    )
    kill(ministack)
    for saved in (ministack.state / "ministack").glob("*.json"):
        saved.unlink()
    start(ministack, monkeypatch)
    with pytest.raises(DeploymentError, match="make clean"):
        deploy()


def test_a_second_one_on_the_same_state_waits_for_the_first(ministack: LocalCloud) -> None:
    with (ministack.state / "ministack" / "lock").open() as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
