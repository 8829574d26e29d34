"""Archives that match their promise are kept for good; others are not."""

from __future__ import annotations

import hashlib

import pytest

from tenantry.aws import objects
from tenantry.aws.deployment import Deployment
from tenantry.models.artifacts import ArchiveDiffersError, Promise, keep
from tenantry.names import ids, s3_keys

ENERGY, ACME = ids.workload_name("energy"), ids.tenant_id("acme")
VERSION = ids.version_name("20260101t000000-aaaaaaaa")
LEFT = s3_keys.checkpoint_archive(ENERGY, ids.pack_id("p-1"), ACME, VERSION)
CONTENT = b"an archive"
PROMISE = Promise(len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


def kept(deployment: Deployment, promise: Promise = PROMISE, wait: float = 0.0) -> str | None:
    return keep(deployment, LEFT, ENERGY, ACME, VERSION, promise, wait=wait)


def put(deployment: Deployment, content: bytes) -> None:
    objects.write_bytes(deployment.s3, deployment.data_bucket, LEFT, content)


def test_an_archive_is_kept_once_it_is_there(deployment: Deployment) -> None:
    assert kept(deployment, wait=0.2) is None
    put(deployment, CONTENT)
    key = kept(deployment)
    assert key == "artifacts/energy/acme/20260101t000000-aaaaaaaa.tar.gz"
    assert kept(deployment) == key, "a run that takes it up again keeps the same"
    assert objects.read_bytes(deployment.s3, deployment.data_bucket, key, 100) == CONTENT


@pytest.mark.parametrize(
    ("content", "code"),
    [(CONTENT[:-1], "archive_size_differs"), (b"another ar", "archive_digest_differs")],
)
def test_what_was_not_promised_is_not_kept(
    deployment: Deployment, content: bytes, code: str
) -> None:
    put(deployment, content)
    with pytest.raises(ArchiveDiffersError) as refused:
        kept(deployment)
    assert refused.value.code == code
    assert not objects.exists(
        deployment.s3, deployment.data_bucket, s3_keys.artifact(ENERGY, ACME, VERSION)
    )


def test_what_is_written_between_the_look_and_the_copy_is_looked_at_too(
    deployment: Deployment,
) -> None:
    put(deployment, CONTENT)
    events, written = deployment.s3.meta.events, list[bytes]()

    def write_something_else(**_: object) -> None:
        if not written:
            written.append(b"another ar")
            put(deployment, written[0])

    events.register("before-call.s3.CopyObject", write_something_else)
    try:
        with pytest.raises(ArchiveDiffersError):
            kept(deployment)
    finally:
        events.unregister("before-call.s3.CopyObject", write_something_else)
    assert written
    assert not objects.exists(
        deployment.s3, deployment.data_bucket, s3_keys.artifact(ENERGY, ACME, VERSION)
    )
