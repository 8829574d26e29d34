"""The cost of a trace for a request without export: in the container, and in an app's client.

`python -m benchmarks.tracing` asks the forecast container's server for two models in turn, one with
a trace in its card. Then it asks a champion through `TenantClient.predict` on the local cloud, in
turn with the client's span and without. No answer comes from the cache. The last line is JSON with
the medians, in milliseconds, and the trace's extra time in percent.
"""

import argparse
import hashlib
import io
import json
import os
import shutil
import signal
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from unittest import mock

from benchmarks.processes import terminated
from benchmarks.serving import Tenantry, running, write_models
from infrastructure import local_cloud
from infrastructure.deploy import deploy
from tenantry.aws import objects
from tenantry.aws.deployment import Deployment
from tenantry.hosting.endpoints import ensure_endpoint
from tenantry.hosting.shapes.multi_model import MULTI_MODEL
from tenantry.models.registry import Champion, ModelRegistry, ModelVersion
from tenantry.names import ids, s3_keys
from tenantry.names.tiers import Shared
from tenantry.serving.client import TenantClient
from tenantry.workloads.schema import Workload, read_workloads

ROOT: Final = Path(__file__).resolve().parents[1]
TRACE_ID: Final = "4bf92f3577b34da6a3ce929d0e0e4736"
WARM_UP: Final = 50


def by_turns(rounds: int, without: Callable[[], object], with_trace: Callable[[], object]) -> Any:
    """Median milliseconds of a call without a trace, and of the trace's extra time in the paired
    call; the two take turns at being first. ``own_cpu`` is this thread's time on a core."""
    took: dict[str, list[float]] = {"without": [], "added": [], "own_cpu": [], "own_cpu_added": []}
    for number in range(-WARM_UP, rounds):
        wall, cpu = [0.0, 0.0], [0.0, 0.0]
        for which in (0, 1) if number % 2 else (1, 0):
            began, began_cpu = time.perf_counter(), time.thread_time()
            (without, with_trace)[which]()
            wall[which] = time.perf_counter() - began
            cpu[which] = time.thread_time() - began_cpu
        if number >= 0:
            figures = (wall[0], wall[1] - wall[0], cpu[0], cpu[1] - cpu[0])
            for kept, figure in zip(took.values(), figures, strict=True):
                kept.append(1000 * figure)
    found = {name: statistics.median(figures) for name, figures in took.items()}
    return {
        **{f"{name}_ms": round(figure, 4) for name, figure in found.items()},
        "added_percent": round(100 * found["added"] / found["without"], 2),
        "own_cpu_added_percent": round(100 * found["own_cpu_added"] / found["own_cpu"], 2),
    }


def models_of(folder: Path) -> tuple[str, str]:
    """One forecast model twice, the second with a trace in its card."""
    (without,) = write_models(folder, 1)
    with_trace = "tenant-0001"
    shutil.copytree(folder / without, folder / with_trace)
    card = {"format": 1, "family": "forecast", "version": "v1", "workload": "energy"}
    for name, trace in ((without, {}), (with_trace, {"trace_id": TRACE_ID})):
        (folder / name / "card.json").write_text(json.dumps({**card, "tenant": name, **trace}))
    return without, with_trace


def in_the_container(folder: Path, rounds: int) -> Any:
    """Requests to the server, over one connection."""
    without, with_trace = models_of(folder / "models")
    with running(Tenantry(), folder / "models", folder) as server:
        for name in (without, with_trace):
            server.load(name, folder / "models" / name)
        return by_turns(
            rounds, lambda: server.forecast(without), lambda: server.forecast(with_trace)
        )


def crowned(deployment: Deployment, energy: Workload, model: Path) -> ids.TenantId:
    """A tenant whose champion is the model in a folder."""
    sink, name = io.BytesIO(), ids.workload_name(energy.name)
    with tarfile.open(fileobj=sink, mode="w:gz") as tar:
        for file in ("card.json", "model.json"):
            tar.add(model / file, file)
    archive, tenant = sink.getvalue(), ids.tenant_id(model.name)
    version = ids.version_of(model.name, datetime.now(UTC))
    endpoint = ensure_endpoint(deployment, energy, Shared("bridge"), MULTI_MODEL)
    key = s3_keys.endpoint_model(endpoint.name, tenant, version)
    objects.write_bytes(deployment.s3, deployment.data_bucket, key, archive)
    made = ModelVersion(
        tenant,
        name,
        version,
        "bridge",
        key,
        len(archive),
        hashlib.sha256(archive).hexdigest(),
        ids.request_id(f"{1:032x}"),
        "job",
        metrics={},
        card={},
        traceparent=f"00-{TRACE_ID}-00f067aa0ba902b7-01",
    )
    registry = ModelRegistry(deployment)
    registry.add(made)
    registry.crown(made, MULTI_MODEL.route(endpoint.name, tenant, version), None)
    return tenant


class Untraced(TenantClient):
    """A client without spans."""

    def _span(self, name: str, champion: Champion) -> AbstractContextManager[str]:  # noqa: ARG002
        return nullcontext("")


def in_the_client(folder: Path, rounds: int) -> Any:
    """Calls of an app's client, with and without its span."""
    models, request = folder / "client-models", {"period": 7}
    _, with_trace = models_of(models)
    with (
        local_cloud.running(folder / "cloud", ROOT / "containers") as cloud,
        mock.patch.dict(os.environ, cloud.environment),
    ):
        deploy()
        deployment = Deployment.from_stack()
        energy = read_workloads()["energy"].model_copy(update={"moment": None})
        tenant = crowned(deployment, energy, models / with_trace)
        with (
            Untraced(deployment, energy, tenant) as untraced,
            TenantClient(deployment, energy, tenant) as client,
        ):
            return by_turns(
                rounds, lambda: untraced.predict(request), lambda: client.predict(request)
            )


def main() -> int:
    """Measure and print the report."""
    parser = argparse.ArgumentParser(description="What a trace costs a request.")
    parser.add_argument("--requests", type=int, default=5000, help="to the container, of each kind")
    parser.add_argument("--calls", type=int, default=400, help="of the client, of each kind")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, terminated)
    with tempfile.TemporaryDirectory(prefix="tracing-") as folder:
        container = in_the_container(Path(folder), asked.requests)
        client = in_the_client(Path(folder), asked.calls)
    report = {"benchmark": "tracing", "container": container, "client": client}
    sys.stdout.write(json.dumps(report) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
