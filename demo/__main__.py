"""Runs Tenantry on this machine: the local cloud, Dagster, and tenants uploading their data.

It shows progress until every good tenant has a model, a first prediction from its endpoint and a batch prediction, tells what
the owner of the spoiled upload was told, and keeps the Dagster UI open until Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from types import FrameType
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from demo.dagster_processes import DagsterProcesses, DagsterRefused, dagster_processes
from demo.tenants import DemoTenant, demo_tenants
from infrastructure.deploy import deploy
from infrastructure.local_cloud import LocalCloud, LocalCloudError, free_port, running
from orchestration.jobs import batch_step
from resources import hosting, keys, storage
from resources.client import NoModelYet, TenantClient
from resources.deployment import Deployment
from resources.model_registry import ModelRegistry
from resources.request_queue import Request, RequestQueue
from workloads.schema import Workload, read_workloads

ROOT: Final = Path(__file__).resolve().parents[1]
STATE: Final = ROOT / ".tenantry"
WORKLOAD: Final = "energy"
UI_PORT: Final = 3000
_SETTLED: Final = {"registered", "refused", "dead_lettered"}


class DemoFailed(RuntimeError):  # noqa: N818 - reads as the sentence it is: "demo failed"
    """Something that should have happened did not; the message says what and where to look."""


@dataclass
class Demo:
    """What the demo needs at hand."""

    console: Console
    deployment: Deployment
    dagster: DagsterProcesses
    workload: Workload
    tenants: Sequence[DemoTenant]
    timeout: float
    first_forecasts: dict[keys.TenantId, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def name(self) -> keys.WorkloadName:
        """The workload's name."""
        return keys.workload_name(self.workload.name)

    @property
    def good(self) -> list[DemoTenant]:
        """The tenants that should get a model."""
        return [tenant for tenant in self.tenants if tenant.good]

    def client(self, tenant: DemoTenant) -> TenantClient:
        """The client the product's app would use for a tenant."""
        return TenantClient(self.deployment, self.workload, tenant.tenant)

    # ---- the steps -----------------------------------------------------------------------------------------------------

    def upload(self, progress: Progress) -> None:
        """Upload every tenant's file, as the product's app does."""
        registry = ModelRegistry(self.deployment)
        bar = progress.add_task("tenants upload their data", total=len(self.tenants))
        for tenant in self.tenants:
            if tenant.tier != self.workload.tier:
                registry.set_tier(tenant.tenant, self.name, tenant.tier)
            with self.client(tenant) as client:
                client.upload({"consumption.csv": tenant.file}, tenant.parameters)
            progress.advance(bar)

    def wait_for_models(self, progress: Progress) -> None:
        """Follow the queue until every upload is settled. Raises ``DemoFailed``."""
        queue, registry = RequestQueue(self.deployment), ModelRegistry(self.deployment)
        bar = progress.add_task("models trained and registered", total=len(self.good))
        state = progress.add_task("", total=None)
        deadline = time.monotonic() + self.timeout
        while True:
            served = {champion.tenant for champion in registry.champions(self.name)}
            open_requests = queue.open(self.name)
            counts = Counter[str](request.status for request in open_requests)
            progress.update(bar, completed=sum(tenant.tenant in served for tenant in self.good))
            words = ", ".join(f"{count} {status}" for status, count in counts.items()) or "waiting for the sensors"
            progress.update(state, description=f"[dim]{words}[/dim]")
            if all(tenant.tenant in served for tenant in self.good) and self._settled(queue):
                progress.update(state, visible=False)
                return
            self._still_running(deadline, counts)
            time.sleep(1.0)

    def _settled(self, queue: RequestQueue) -> bool:
        """Whether the spoiled uploads have been refused, too, and nothing is left open."""
        spoiled = [queue.of_tenant(self.name, tenant.tenant) for tenant in self.tenants if not tenant.good]
        return all(rows and rows[-1].status in _SETTLED for rows in spoiled) and not queue.open(self.name)

    def _still_running(self, deadline: float, counts: Mapping[str, int]) -> None:
        if self.dagster.process.poll() is not None:
            raise DemoFailed(f"Dagster ended by itself; see {self.dagster.log}")
        if time.monotonic() > deadline:
            left = [t.tenant for t in self.good if ModelRegistry(self.deployment).champion(t.tenant, self.name) is None]
            raise DemoFailed(
                f"after {self.timeout:.0f} s there is no model for {', '.join(left[:10]) or 'nobody missing'}; open requests: {dict(counts)}; "
                f"see {self.dagster.log} and the runs at {self.dagster.url}/runs"
            )

    def ask_endpoints(self, progress: Progress) -> None:
        """Ask every good tenant's model for its first forecast. Raises ``DemoFailed``."""
        bar = progress.add_task("first forecasts from the endpoint", total=len(self.good))
        for tenant in self.good:
            with self.client(tenant) as client:
                try:
                    self.first_forecasts[tenant.tenant] = client.predict(self.workload.batch.request)
                except (NoModelYet, hosting.InvocationRefused) as error:
                    raise DemoFailed(f"{tenant.tenant}: no forecast from the endpoint: {error}") from error
            progress.advance(bar)

    def predict_batch(self, progress: Progress) -> date:
        """Run tonight's batch now, and see that every good tenant's prediction lies in S3. Raises ``DemoFailed``."""
        day = datetime.now(UTC).date()
        bar = progress.add_task("tonight's batch predictions, now", total=len(self.good))
        config = {"ops": {batch_step(self.name): {"config": {"day": day.isoformat()}}}}
        run = self.dagster.launch(f"{self.name}_batch_predictions", config, {"tenantry/day": day.isoformat()})
        deadline = time.monotonic() + self.timeout
        while (status := self.dagster.run_status(run)) not in {"SUCCESS", "FAILURE", "CANCELED"}:
            self._still_running(deadline, {})
            time.sleep(0.5)
        for tenant in self.good:
            with self.client(tenant) as client:
                try:
                    client.predictions(day)
                except storage.ObjectMissing as error:
                    raise DemoFailed(
                        f"{tenant.tenant} has no batch prediction; the run is {status}: {self.dagster.url}/runs/{run}"
                    ) from error
            progress.advance(bar)
        return day

    # ---- what a person sees -----------------------------------------------------------------------------------------------

    def show(self, day: date) -> None:
        """Print the tenants with their models, and the notices of those without."""
        registry = ModelRegistry(self.deployment)
        table = Table(title=f"{self.workload.title}: {len(self.good)} tenants, each with a model of its own")
        for column in (
            "tenant",
            "tier",
            "model",
            "score / naive",
            "version",
            "first forecast, kWh",
            "batch predictions",
        ):
            table.add_column(column, overflow="fold")
        shown = self.good if len(self.good) <= 40 else [*self.good[:30], *self.good[-5:]]
        for tenant in shown:
            champion = registry.champion(tenant.tenant, self.name)
            model = registry.version(tenant.tenant, self.name, champion.version) if champion else None
            if champion is None or model is None:
                raise DemoFailed(f"{tenant.tenant} lost its model")
            quality = self.workload.quality
            score, baseline = model.metrics[quality.metric], model.metrics[quality.baseline or ""]
            forecast = self.first_forecasts[tenant.tenant]["mean"][:3]
            table.add_row(
                tenant.tenant,
                champion.tier,
                str(model.card.get("model", "")),
                f"{score:.2f} / {baseline:.2f}",
                champion.version,
                " ".join(f"{value:.3g}" for value in forecast),
                keys.prediction(self.name, tenant.tenant, day),
            )
        self.console.print(table)
        if len(shown) < len(self.good):
            self.console.print(f"… and {len(self.good) - len(shown)} more")
        self.console.print(f"Everything lies in the bucket {self.deployment.data_bucket}.")
        for refused, message in self._refusals().items():
            self.console.print(f"[yellow]{refused}[/yellow] was told: {message}")

    def _refusals(self) -> dict[str, str]:
        """What the app read from its queue about uploads that cannot be used, by tenant."""
        told: dict[str, str] = {}
        while messages := self.deployment.sqs.receive_message(
            QueueUrl=self.deployment.notices_queue_url, MaxNumberOfMessages=10
        ).get("Messages"):
            for message in messages:
                notice = json.loads(message["Body"])
                if notice["kind"] in {"upload_refused", "model_not_made"}:
                    told[notice["tenant"]] = notice["message"]
            self.deployment.sqs.delete_message_batch(
                QueueUrl=self.deployment.notices_queue_url,
                Entries=[{"Id": str(n), "ReceiptHandle": m["ReceiptHandle"]} for n, m in enumerate(messages)],
            )
        for tenant in self.tenants:
            if tenant.good or tenant.tenant in told:
                continue
            rows: list[Request] = RequestQueue(self.deployment).of_tenant(self.name, tenant.tenant)
            if not rows or rows[-1].status not in {"refused", "dead_lettered"}:
                raise DemoFailed(
                    f"{tenant.tenant}'s spoiled upload was not refused: {rows[-1].status if rows else 'no row'}"
                )
            told[tenant.tenant] = rows[-1].reason or ""
        return told


def _choose_port(console: Console, wanted: int) -> int:
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            port = free_port()
            console.print(f"Port {wanted} is in use; the UI takes {port} instead (choose one with PORT=…).")
            return port
    return wanted


def _terminate(_signum: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument(
        "--tenants", type=int, default=12, help="how many tenants, one of them with a spoiled file (12)"
    )
    parser.add_argument("--data", type=Path, help="CSV or Parquet with columns customer_id, timestamp, consumption")
    parser.add_argument("--once", action="store_true", help="end when all has happened: status 0 only if it has")
    parser.add_argument("--port", type=int, default=UI_PORT, help="of the Dagster UI (%(default)s)")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds to wait for all models (%(default)s)")
    arguments = parser.parse_args()
    if arguments.tenants < 1:
        parser.error("--tenants must be at least 1")
    if arguments.data and not arguments.data.is_file():
        parser.error(f"--data: there is no file {arguments.data}")
    return arguments


def main() -> int:
    """Run the demo. Returns the exit status."""
    arguments = _arguments()
    console = Console() if sys.stdout.isatty() else Console(width=160)  # a log file has no width of its own
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return _run(arguments, console)
    except KeyboardInterrupt:
        console.print("Stopped; nothing is left running. `make run` goes on from here, `make clean` forgets it all.")
        return 130 if arguments.once else 0
    except (DemoFailed, DagsterRefused, LocalCloudError, ValueError) as error:
        console.print(f"[red]{error}[/red]")
        return 1


def _run(arguments: argparse.Namespace, console: Console) -> int:
    workload = read_workloads()[WORKLOAD]
    port = _choose_port(console, arguments.port)
    with (
        tempfile.TemporaryDirectory(prefix="tenantry-") as scratch,
        running(STATE / "cloud", ROOT / "containers") as cloud,
    ):
        console.print(
            f"The local cloud is up: S3 and the rest at {cloud.ministack_url}, SageMaker at {cloud.sagemaker_url}"
        )
        os.environ.update(cloud.environment)
        deploy()
        tenants = demo_tenants(arguments.tenants, Path(scratch), arguments.data)
        environment = {**cloud.environment, "TENANTRY_POLL_SECONDS": "1", "TENANTRY_LOST_RUN_SECONDS": "45"}
        with dagster_processes(STATE / "dagster", port, environment) as dagster:
            console.print(f"The Dagster UI is open at [bold]{dagster.url}[/bold]")
            demo = Demo(console, Deployment.from_stack(), dagster, workload, tenants, arguments.timeout)
            began = time.monotonic()
            with _progress(console) as progress:
                demo.upload(progress)
                demo.wait_for_models(progress)
                demo.ask_endpoints(progress)
                day = demo.predict_batch(progress)
            console.print(f"All of it took {time.monotonic() - began:.0f} s.")
            demo.show(day)
            if not arguments.once:
                _stay_open(console, dagster, cloud)
    return 0


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, refresh_per_second=4)


def _stay_open(console: Console, dagster: DagsterProcesses, cloud: LocalCloud) -> None:
    console.print(f"The UI stays open at [bold]{dagster.url}/asset-groups[/bold] until Ctrl-C.")
    while True:
        for name, process in {**cloud.processes, "dagster": dagster.process}.items():
            if process.poll() is not None:
                raise DemoFailed(f"{name} ended by itself with status {process.returncode}; see the logs below {STATE}")
        time.sleep(1.0)


if __name__ == "__main__":
    sys.exit(main())
