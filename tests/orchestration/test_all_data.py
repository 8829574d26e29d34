"""A model per tenant that holds none of its tenant's customers: each batch's request brings them
(``input: all``)."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from dagster import DagsterInstance

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


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workload:
    """A workload as its container's first file has it: a model for each tenant."""
    (tmp_path / "churn.yaml").write_text(skeleton("churn", "tabular"))
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    return at_once(read_workloads()["churn"])


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

    day, heard = datetime.now(UTC).date(), Heard()
    period = Period(own.batches[0], day)
    failures = predict(deployment, own, [scored, without], period, "one", heard, poll=0.1)
    assert failures == {
        without: "its data have nothing to predict from: there is no scored.json that it takes"
    }
    with TenantClient(deployment, own, scored) as client:
        (said,) = client.predictions(day)
    assert len(said["ids"]) == len(said["scores"]) > 10
    assert len(set(said["scores"])) > 10


def test_a_batch_of_all_data_needs_to_know_which() -> None:
    energy = read_workloads()["energy"]
    said = energy.model_dump(exclude_unset=True)
    said["batches"] = [said["batches"][0] | {"input": "all"}]
    assert Workload.model_validate(said).batches[0].input == "all"
    del said["inference"]
    with pytest.raises(ValueError, match="there is no section `inference` that says which"):
        Workload.model_validate(said)
