"""One tenant's way from upload to predictions in one process. Its environment decides where logs
and spans go. It prints the trace that each asset shows."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from dagster import DagsterInstance

from tenantry.aws.deployment import Deployment
from tenantry.names import ids
from tenantry.serving.client import TenantClient
from tenantry.workloads.schema import read_workloads
from tests.conftest import TODAY
from tests.orchestration.running import at_once, metadata_of, onboard, run, take_in

ASSETS = ("training_data", "fine_tuned_artifact", "endpoint_registration", "batch_predictions")


def main(folder: Path) -> None:
    """Walk with the folder's file ``consumption.csv``."""
    deployment, energy = Deployment.from_stack(), at_once(read_workloads()["energy"])
    with (
        DagsterInstance.local_temp(
            str(folder), overrides={"telemetry": {"enabled": False}}
        ) as instance,
        TenantClient(deployment, energy, ids.tenant_id("acme")) as client,
    ):
        file = (folder / "consumption.csv").read_bytes()
        client.upload({"consumption.csv": file}, {"timezone": "Europe/London"})
        assert take_in(deployment, instance).accepted == 1
        (result,) = onboard(deployment, instance, energy)
        assert result.success
        client.predict({"period": 2})
        day = {"ops": {"energy_predict_everyone": {"config": {"day": f"{TODAY:%Y-%m-%d}"}}}}
        assert run(instance, "energy_batch_predictions", day).success
        shown = {name: metadata_of(instance, "energy", name)["acme"]["trace_id"] for name in ASSETS}
    sys.stdout.write(json.dumps(shown))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
