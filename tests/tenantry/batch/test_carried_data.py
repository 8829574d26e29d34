"""What a batch's requests carry of their tenants' newest data, and what holds without any."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import pytest

from tenantry.aws import objects
from tenantry.batch.periods import Period
from tenantry.batch.predictions import predict
from tenantry.models.registry import ModelRegistry
from tenantry.names import ids, s3_keys
from tenantry.names.tiers import Tier
from tenantry.requests.queue import RequestQueue
from tenantry.uploads.current_data import note_base
from tenantry.uploads.training_data import TrainingData
from tenantry.workloads.batches import Inference
from tests.tenantry.batch.test_transform import Heard
from tests.tenantry.onboarding.registration import NAME
from tests.tenantry.serving.conftest import world  # noqa: F401 - a fixture
from tests.tenantry.serving.tiny_family import MEANS, World

DAY = date(2026, 3, 2)
FILE = ids.file_name("number.json")
NOTHING = "its data have nothing to predict from: there is no number.json"


def carrying(world: World, asked: str, card: str | None = None) -> World:  # noqa: F811
    """The world, with a batch whose requests carry a number of the tenant's."""
    section = Inference(field="add", file=FILE, card=card, max_kilobytes=1)
    batch = world.tiny.batches[0].model_copy(update={"request": {}, "input": asked})
    tiny = world.tiny.model_copy(update={"batches": (batch,), "inference": section})
    return replace(world, tiny=tiny)


def give(
    world: World,  # noqa: F811
    tenant: ids.TenantId,
    number: int,
    *,
    version: ids.Version | None = None,
    files: tuple[ids.FileName, ...] = (FILE,),
    content: bytes | None = None,
) -> None:
    """Make a number the newest data of a tenant, which its next request carries; or ``content``,
    which may be no number."""
    deployment = world.deployment
    version, request = version or ids.version_name(f"v{number}"), ids.request_id(f"{number:032x}")
    key = s3_keys.training_data_file(NAME, tenant, version, FILE)
    content = str(number).encode() if content is None else content
    objects.write_bytes(deployment.s3, deployment.data_bucket, key, content, "application/json")
    queue = RequestQueue(deployment)
    uploaded = datetime(2026, 3, number, tzinfo=UTC)
    queue.accept(NAME, tenant, request, f"m{number}", "bridge", first=False, uploaded=uploaded)
    row = queue.get(NAME, tenant, request)
    assert row is not None
    note_base(deployment, row, TrainingData(version, files, 1, f"f{number}"))


def made_from(world: World, tenant: ids.TenantId) -> ids.Version:  # noqa: F811
    champion = ModelRegistry(world.deployment).champion(tenant, NAME)
    assert champion is not None
    return champion.version


def predicted(
    world: World,  # noqa: F811
    tenants: list[ids.ModelId] | None,
    salt: str,
) -> dict[ids.ModelId, str]:
    """The reasons of those without a prediction; the report tells of each of them, too."""
    heard, period = Heard(), Period(world.tiny.batches[0], DAY)
    failures = predict(world.deployment, world.tiny, tenants, period, salt, heard, poll=0.1)
    assert heard.failed_ == failures
    return failures


def answers(world: World, tenant: ids.TenantId) -> list[Any]:  # noqa: F811
    with world.client(tenant) as client:
        return client.predictions(DAY)


@pytest.mark.parametrize("tier", ["bridge", "silo"])
def test_all_data_are_carried_that_the_model_was_made_from_and_the_latest_are_not(
    world: World,  # noqa: F811 - the fixture
    tier: Tier,
) -> None:
    tenant = world.tenant(tier=tier)
    give(world, tenant, 5, version=made_from(world, tenant))
    for asked, added in (("request", 0), ("latest", 0), ("all", 5)):
        assert predicted(carrying(world, asked), [tenant], f"{asked} {tier}") == {}
        assert answers(world, tenant) == [{"mean": MEANS[tenant] + added}]


def test_all_data_that_are_not_there_are_a_reason_and_no_answer(
    world: World,  # noqa: F811 - the fixture
) -> None:
    own = carrying(world, "all")
    good, never, nobody, gone, large, torn = tenants = [own.tenant() for _ in range(6)]
    give(own, good, 5)
    give(own, nobody, 5, files=())
    give(own, gone, 5)
    key = s3_keys.training_data_file(NAME, gone, ids.version_name("v5"), FILE)
    own.deployment.s3.delete_object(Bucket=own.deployment.data_bucket, Key=key)
    give(own, large, 5, content=b"5" + b" " * 1024)
    give(own, torn, 5, content=b"5,")
    unusable = {
        gone: "its number.json is gone",
        large: "its number.json is larger than inference.max_kilobytes, 1",
        torn: "its number.json is no JSON",
    }
    named = predicted(own, list(tenants), "named")
    assert named == {never: NOTHING, nobody: NOTHING, **unusable}
    assert answers(own, good) == [{"mean": MEANS[good] + 5}]
    for tenant in named:
        with own.client(ids.tenant_id(tenant)) as client, pytest.raises(LookupError):
            client.predictions(DAY)

    # A round for all leaves out who has nothing to predict from, and fails for what is faulty.
    everyone = predicted(own, None, "all")
    assert everyone == unusable

    # What need not be there costs no prediction: the models hold what they were made from.
    assert predicted(carrying(world, "latest"), list(tenants), "latest") == {}
    assert answers(own, large) == [{"mean": MEANS[large]}]


def test_a_version_that_takes_no_data_is_asked_as_it_stands(
    world: World,  # noqa: F811 - the fixture
) -> None:
    own = carrying(world, "all", card="takes")
    takes, without = own.tenant(card={"takes": "numbers"}), own.tenant(card={"takes": None})
    for tenant in (takes, without):
        give(own, tenant, 5)
    assert predicted(own, [takes, without], "by card") == {}
    assert answers(own, takes) == [{"mean": MEANS[takes] + 5}]
    assert answers(own, without) == [{"mean": MEANS[without]}]
