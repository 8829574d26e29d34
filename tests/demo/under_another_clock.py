"""Takes an upload from generation to prepared data on a local cloud of its own, and prints the
outcome: ``python -m tests.demo.under_another_clock FOLDER``."""

from __future__ import annotations

import io
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from containers.forecast.consumption.synthetic import generate, last_midnight
from infrastructure.deploy import deploy
from infrastructure.local_cloud import running
from tenantry.aws.deployment import Deployment
from tenantry.names import ids
from tenantry.requests.queue import RequestQueue
from tenantry.serving.client import TenantClient
from tenantry.uploads.intake import drain_queue
from tenantry.uploads.training_data import make_training_data
from tenantry.workloads.schema import read_workloads
from tests.conftest import ROOT


def main() -> None:
    """Print the year of the clock, the uploads taken in, and the rows of the prepared data."""
    workloads = read_workloads()
    with running(Path(sys.argv[1]), ROOT / "containers") as cloud:
        os.environ.update(cloud.environment)
        deploy()
        deployment = Deployment.from_stack()
        end, sink = last_midnight(), io.StringIO()
        frame = generate(1, end - timedelta(days=28), end, seed=1)
        frame[["timestamp", "consumption"]].to_csv(sink, index=False)
        with TenantClient(deployment, workloads["energy"], ids.tenant_id("acme")) as client:
            client.upload({"consumption.csv": sink.getvalue().encode()})
        taken = drain_queue(deployment, workloads, lambda *_: None, max_seconds=20)
        (request,) = RequestQueue(deployment).open(ids.workload_name("energy"))
        rows = make_training_data(deployment, workloads["energy"], request).rows
        sys.stdout.write(f"{datetime.now(UTC):%Y}: {taken.accepted} taken in, {rows} rows\n")


if __name__ == "__main__":
    main()
