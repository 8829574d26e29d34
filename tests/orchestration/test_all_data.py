"""A model per tenant that holds none of its tenant's customers: each batch's request brings them
(``input: all``)."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster import DagsterInstance

from containers.tabular.table import TABLE
from tenantry.aws.deployment import Deployment
from tenantry.batch.periods import Period
from tenantry.batch.predictions import predict
from tenantry.names import ids
from tenantry.serving.client import TenantClient
from tenantry.workloads.folder import FOLDER_VARIABLE
from tenantry.workloads.schema import Workload, read_workloads
from tenantry.workloads.skeleton import skeleton
from tests.orchestration.running import at_once, onboard, take_in
from tests.orchestration.test_shared_model import customers, known  # noqa: F401 - a fixture
from tests.tenantry.batch.test_transform import Heard

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workload:
    """A workload as its container's first file has it: a model for each tenant."""
    (tmp_path / "churn.yaml").write_text(skeleton("churn", "tabular"))
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    return at_once(read_workloads()["churn"])


def unshared(**changes: Any) -> Workload:
    """The repository's ``churn`` without its shared model, and with another batch."""
    said = yaml.safe_load((ROOT / "workloads/churn.yaml").read_text())
    del said["shared_model"]
    batch = said["batches"][0] | changes
    return Workload.model_validate(said | {"tier": "bridge", "batches": [batch]})


def to_score(file: bytes) -> set[str]:
    """The customers of a file whose newest month has no target yet."""
    from pyarrow import parquet

    rows = parquet.read_table(io.BytesIO(file)).to_pylist()
    newest = {row[TABLE.id]: row for row in sorted(rows, key=lambda row: str(row[TABLE.period]))}
    return {one for one, row in newest.items() if row[TABLE.target] is None}


def test_each_batch_scores_the_customers_of_a_model_that_holds_none(
    deployment: Deployment,
    dagster_instance: DagsterInstance,
    own: Workload,
    customers: dict[str, bytes],  # noqa: F811 - the fixture
) -> None:
    scored, without = ids.tenant_id("t0"), ids.tenant_id("t1")
    for tenant, content in ((scored, customers["t0"]), (without, known(customers["t1"]))):
        with TenantClient(deployment, own, tenant) as client:
            client.upload({"customers.parquet": content})
    assert take_in(deployment, dagster_instance).accepted == 2
    for result in onboard(deployment, dagster_instance, own):
        assert result.success
    for tenant in (scored, without):
        with TenantClient(deployment, own, tenant) as client:
            assert client.champion().version.startswith("20"), "a model of its own"

    day = datetime.now(UTC).date()

    def predicted(workload: Workload, tenants: list[ids.ModelId]) -> dict[ids.ModelId, str]:
        batch, heard = workload.batches[0], Heard()
        salt = f"{batch.name} {batch.input}"
        return predict(deployment, workload, tenants, Period(batch, day), salt, heard, poll=0.1)

    everyone, weekly = to_score(customers["t0"]), unshared(input="all")
    assert len(everyone) > 10
    for workload in (own, weekly):
        assert predicted(workload, [scored, without]) == {
            without: "its data have nothing to predict from: there is no scored.json"
        }
        with TenantClient(deployment, workload, scored) as client:
            (said,) = client.predictions(day)
        assert set(said["ids"]) == everyone
        assert len(said["scores"]) == len(everyone)
        assert len(set(said["scores"])) > 10
    # Without them, the request is empty, and the container refuses it.
    refused = predicted(unshared(name="daily", input="latest"), [scored])
    assert "row 1 lacks tenure_months" in refused[scored]
    assert predicted(with_limit(weekly, 1), [scored]) == {
        scored: "its scored.json is larger than inference.max_kilobytes, 1"
    }


def with_limit(workload: Workload, kilobytes: int) -> Workload:
    assert workload.inference is not None
    section = workload.inference.model_copy(update={"max_kilobytes": kilobytes})
    return workload.model_copy(update={"inference": section})


def test_a_batch_of_all_data_needs_to_know_which() -> None:
    energy = read_workloads()["energy"]
    said = energy.model_dump(exclude_unset=True)
    said["batches"] = [said["batches"][0] | {"input": "all"}]
    assert Workload.model_validate(said).batches[0].input == "all"
    del said["inference"]
    with pytest.raises(ValueError, match="there is no section `inference` that says which"):
        Workload.model_validate(said)


def test_a_request_with_its_data_fits_into_what_a_transform_job_takes() -> None:
    for asked in ("latest", "all"):
        with pytest.raises(ValueError, match="max_payload_megabytes takes 4096 kB in all; raise"):
            unshared(input=asked, max_payload_megabytes=4)
    assert unshared(input="all", max_payload_megabytes=5)
    assert unshared(input="request", max_payload_megabytes=4)
