"""A batch that is killed at any write, and run again, leaves each prediction of its period once."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from tenantry.batch.periods import Period
from tenantry.batch.predictions import predict
from tenantry.names import ids, s3_keys
from tenantry.serving.client import TenantClient
from tenantry.tenants.unused import remove_unused
from tests.tenantry.batch.dies_predicting import with_batch
from tests.tenantry.batch.test_transform import Heard
from tests.tenantry.onboarding.registration import NAME
from tests.tenantry.serving.conftest import world  # noqa: F401 - a fixture
from tests.tenantry.serving.tiny_family import MEANS, World

ROOT = Path(__file__).resolve().parents[3]
DAY = date(2026, 3, 2)
CADENCES = ("nightly", "weekly", "monthly")
MOST_WRITES = 60


def killed(cadence: str, day: date, tenants: list[ids.TenantId], write: int) -> bool:
    """Whether a process that predicts was killed at this write."""
    program = "tests.tenantry.batch.dies_predicting"
    said = (cadence, day.isoformat(), f"dies-{write}", ",".join(tenants), str(write))
    done = subprocess.run(
        [sys.executable, "-m", program, *said],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode in {0, -9}, done.stderr
    return done.returncode == -9


def files_of(world: World, tenants: list[ids.TenantId]) -> Mapping[str, str]:  # noqa: F811
    """The ETag of each prediction of the tenants."""
    found = dict[str, str]()
    for tenant in tenants:
        listed = world.deployment.s3.list_objects_v2(
            Bucket=world.deployment.data_bucket, Prefix=s3_keys.predictions_prefix(NAME, tenant)
        )
        found |= {one["Key"]: one["ETag"] for one in listed.get("Contents", [])}
    return found


def rows_of(world: World, cadence: str, day: date) -> list[tuple[str, float]]:  # noqa: F811
    """The tenants and means in a day's files of the table of results, in order."""
    from pyarrow import parquet

    prefix = s3_keys.result_table_day_prefix(NAME, ids.batch_name(cadence), day)
    s3, bucket = world.deployment.s3, world.deployment.data_bucket
    rows = list[tuple[str, float]]()
    for one in s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", []):
        content = s3.get_object(Bucket=bucket, Key=one["Key"])["Body"].read()
        table = parquet.read_table(io.BytesIO(content), columns=["tenant", "mean"])
        rows += [(row["tenant"], row["mean"]) for row in table.to_pylist()]
    return sorted(rows)


def see_a_batch_killed(world: World, cadence: str, write: int) -> bool:  # noqa: F811
    """Kill a batch at a write, make it up as the sensor does, and look at what there is; returns
    whether it was killed."""
    tenants = [world.tenant(tier=tier) for tier in ("bridge", "bridge", "pool", "silo")]
    workload = with_batch(world.tiny, cadence)
    batch, before = workload.batches[0], DAY - timedelta(days=1)
    # Those of the period before, and of another cadence of the same day, stay as they are.
    for period in (Period(batch, before), Period(batch.model_copy(update={"name": "own"}), DAY)):
        some = tenants[:1]
        assert not predict(world.deployment, workload, some, period, "r", Heard(), poll=0.1)
    others = files_of(world, tenants)

    died = killed(cadence, DAY, tenants, write)
    heard = Heard()
    period = Period(batch, DAY)
    assert not predict(
        world.deployment, workload, tenants, period, f"again-{write}", heard, poll=0.1
    )
    assert set(heard.materialized_) == set(tenants)
    files = files_of(world, tenants)
    expected = {s3_keys.prediction(NAME, one, ids.batch_name(cadence), DAY) for one in tenants}
    assert set(files) == expected | set(others)
    assert {key: files[key] for key in others} == others
    for tenant in tenants:
        with TenantClient.of_model(world.deployment, workload, tenant) as client:
            assert client.predictions(DAY) == [{"mean": MEANS[tenant] + 1}]
    means = sorted((str(tenant), MEANS[tenant] + 1) for tenant in tenants)
    written = [row for row in rows_of(world, cadence, DAY) if row[0] in set(tenants)]
    assert written == means
    # What the killed one left at SageMaker goes with what is unused.
    later = datetime.now(UTC) + timedelta(days=1)
    remove_unused(world.deployment, workload, later, after_days=0)
    left = world.deployment.sagemaker.list_models(NameContains=f"-{DAY:%Y%m%d}-")["Models"]
    assert left == []
    return died


@pytest.mark.parametrize("write", [5, 12, 22])
def test_a_batch_that_is_killed_ends_with_each_prediction_once(
    world: World,  # noqa: F811 - the fixture
    write: int,
) -> None:
    assert see_a_batch_killed(world, CADENCES[write % 3], write)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_at_whatever_write_a_batch_is_killed_it_ends_with_each_prediction_once(
    world: World,  # noqa: F811 - the fixture
) -> None:
    for write in range(1, MOST_WRITES):
        if not see_a_batch_killed(world, CADENCES[write % 3], write):
            assert write > 20
            return
    raise AssertionError(f"a batch writes {MOST_WRITES} times")
