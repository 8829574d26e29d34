"""Runs Tenantry on this machine: the local cloud, Dagster, and tenants uploading their data.

It shows progress until every good tenant has a model, a first prediction from its endpoint and a
batch prediction, tells what the owner of the spoiled upload was told, and keeps the Dagster UI open
until Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Final

from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from demo.energy import shown_of, synthetic_tenants, tenants_of_file
from demo.only_one import AlreadyRunsError, only_one
from demo.portraits import (
    SLOW_REQUEST,
    portraits_tenants,
    print_pictures,
    shown_of_portraits,
    write_sheet,
)
from demo.product import DemoFailedError, Product
from infrastructure.dagster_processes import (
    DagsterProcesses,
    DagsterRefusedError,
    dagster_processes,
)
from infrastructure.deploy import DeploymentError, deploy
from infrastructure.local_cloud import LocalCloud, LocalCloudError, free_port, running
from tenantry.aws.deployment import Deployment
from tenantry.command_line import environment
from tenantry.hosting.endpoints import EndpointFailedError
from tenantry.names import ids
from tenantry.workloads.schema import read_workloads

ROOT: Final = Path(__file__).resolve().parents[1]
STATE: Final = ROOT / ".tenantry"
SHEET: Final = "portraits.png"
UI_PORT: Final = 3000
TENANTS: Final = 12
_GIVEN_UP: Final = (
    AlreadyRunsError,
    BotoCoreError,
    ClientError,
    DagsterRefusedError,
    DemoFailedError,
    DeploymentError,
    EndpointFailedError,
    LocalCloudError,
    ValueError,
)


def _told(deployment: Deployment) -> dict[ids.TenantId, str]:
    """What the app read from its queue about uploads that cannot be used, by tenant."""
    told: dict[ids.TenantId, str] = {}
    while messages := deployment.sqs.receive_message(
        QueueUrl=deployment.notices_queue_url, MaxNumberOfMessages=10
    ).get("Messages"):
        for message in messages:
            notice = json.loads(message["Body"])
            if notice["kind"] in {"upload_refused", "model_not_made"}:
                told[ids.tenant_id(notice["tenant"])] = notice["message"]
        deployment.sqs.delete_message_batch(
            QueueUrl=deployment.notices_queue_url,
            Entries=[
                {"Id": str(n), "ReceiptHandle": m["ReceiptHandle"]} for n, m in enumerate(messages)
            ],
        )
    return told


def _choose_port(console: Console, wanted: int) -> int:
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            port = free_port()
            console.print(
                f"Port {wanted} is in use; the UI takes {port} instead (choose one with PORT=…)."
            )
            return port
    return wanted


def _terminate(_signum: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument(
        "--tenants",
        type=int,
        help=f"how many energy tenants: {TENANTS} made-up ones, the last with a spoiled file, or "
        f"all of --data; "
        "three portraits tenants come along",
    )
    parser.add_argument(
        "--data", type=Path, help="CSV or Parquet with columns customer_id, timestamp, consumption"
    )
    parser.add_argument(
        "--once", action="store_true", help="end when all has happened: status 0 only if it has"
    )
    parser.add_argument("--port", type=int, default=UI_PORT, help="of the Dagster UI (%(default)s)")
    parser.add_argument(
        "--timeout",
        type=float,
        default=1800,
        help="seconds without any progress to wait (%(default)s)",
    )
    arguments = parser.parse_args()
    if arguments.tenants is not None and arguments.tenants < 1:
        parser.error("--tenants must be at least 1")
    if arguments.data and not arguments.data.is_file():
        parser.error(f"--data: there is no file {arguments.data}")
    return arguments


def main() -> int:
    """Run the demo. Returns the exit status."""
    arguments = _arguments()
    # a log file has no width of its own
    console = Console() if sys.stdout.isatty() else Console(width=160)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return _run(arguments, console)
    except KeyboardInterrupt:
        console.print(
            "Stopped; nothing is left running. `make run` goes on from here, `make clean` forgets "
            "it all."
        )
        return 130 if arguments.once else 0
    except _GIVEN_UP as error:
        _say_why(console, error)
        return 1


def _run(arguments: argparse.Namespace, console: Console) -> int:
    workloads = read_workloads()
    with (
        only_one(STATE / "lock") as ui_is_at,
        tempfile.TemporaryDirectory(prefix="tenantry-") as scratch,
        ExitStack() as later,
    ):
        # What is wrong with a user's own file is told before anything is started.
        customers = (
            tenants_of_file(arguments.data, Path(scratch), arguments.tenants)
            if arguments.data
            else synthetic_tenants(arguments.tenants or TENANTS, Path(scratch))
        )
        port = _choose_port(console, arguments.port)
        ui_is_at(f"http://127.0.0.1:{port}")
        cloud = later.enter_context(running(STATE / "cloud", ROOT / "containers"))
        console.print(
            f"The local cloud is up: S3 and the rest at {cloud.ministack_url}, SageMaker at "
            f"{cloud.sagemaker_url}"
        )
        os.environ.update(cloud.environment)
        deploy()
        deployment = Deployment.from_stack()
        variables = {
            **cloud.environment,
            "TENANTRY_POLL_SECONDS": "1",
            "TENANTRY_LOST_RUN_SECONDS": "45",
        }
        with (
            environment.written(STATE / environment.LOCAL_FILE.name, cloud.environment),
            dagster_processes(STATE / "dagster", port, variables) as dagster,
        ):
            console.print(f"The Dagster UI is open at [bold]{dagster.url}[/bold]")
            common = (deployment, dagster)
            energy, portraits = workloads["energy"], workloads["portraits"]
            products = [
                Product(*common, energy, customers, shown_of(energy), arguments.timeout),
                Product(
                    *common, portraits, portraits_tenants(), shown_of_portraits(), arguments.timeout
                ),
            ]
            try:
                _go(console, products)
            except _GIVEN_UP as error:
                if arguments.once:
                    raise
                _say_why(console, error)
                with suppress(KeyboardInterrupt):
                    _stay_open(console, dagster, cloud)
                return 1
            if not arguments.once:
                _stay_open(console, dagster, cloud)
    return 0


def _say_why(console: Console, error: Exception) -> None:
    """The reason, as it stands: a tenant's words in it are no markup."""
    console.print(str(error), style="red", markup=False)
    if not isinstance(error, AlreadyRunsError | ValueError):
        console.print(f"The logs lie below {STATE}.")


def _go(console: Console, products: Sequence[Product]) -> None:
    """Take all products from upload to batch prediction, then show what came of it. Raises
    ``DemoFailedError``."""
    began, day = time.monotonic(), datetime.now(UTC).date()
    with _progress(console) as progress:
        for product in products:
            product.upload(progress)
        for product in products:
            product.wait_for_models(progress)
        for product in products:
            product.ask_endpoints(progress)
        products[-1].ask_asynchronously(progress, SLOW_REQUEST)
        for product in products:
            product.predict_batch(progress, day)
    console.print(f"All of it took {time.monotonic() - began:.0f} s.")
    for product in products:
        console.print(product.table(day))
    pictured = products[-1]
    drawn = write_sheet(STATE / SHEET, pictured.good, pictured.first_answers)
    print_pictures(console, drawn)
    console.print(
        f"What the portraits tenants uploaded, and what their models drew: "
        f"[bold]{STATE / SHEET}[/bold]"
    )
    console.print(f"Everything lies in the bucket {products[0].deployment.data_bucket}.")
    told = _told(products[0].deployment)
    for product in products:
        for refused, message in product.refusals(told).items():
            console.print(f"[yellow]{refused}[/yellow] was told: {escape(message)}")


def _progress(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=console, refresh_per_second=4)


def _stay_open(console: Console, dagster: DagsterProcesses, cloud: LocalCloud) -> None:
    console.print(f"The UI stays open at [bold]{dagster.url}/asset-groups[/bold] until Ctrl-C.")
    console.print(
        "Beside it, in another terminal: [bold].venv/bin/tenantry status --local --watch[/bold]"
    )
    while True:
        for name, process in {**cloud.processes, "dagster": dagster.process}.items():
            if process.poll() is not None:
                raise DemoFailedError(
                    f"{name} ended by itself with status {process.returncode}; see the logs below "
                    f"{STATE}"
                )
        time.sleep(1.0)


if __name__ == "__main__":
    sys.exit(main())
