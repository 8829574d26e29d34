"""The demo's run: it starts the local cloud and Dagster, and follows the tenants' way."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Final

from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console
from rich.markup import escape

from demo.churn import churn_tenants, shown_of_churn
from demo.energy import shown_of, synthetic_tenants, tenants_of_file
from demo.only_one import AlreadyRunsError, only_one
from demo.own_process import ProcessKilledError, call_in_own_process
from demo.portraits import (
    SLOW_REQUEST,
    portraits_tenants,
    print_pictures,
    shown_of_portraits,
    write_sheet,
)
from demo.product import DemoFailedError, Product
from demo.steps import Steps
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
SHEET: Final = "portraits.png"
_GIVEN_UP: Final = (
    AlreadyRunsError,
    BotoCoreError,
    ClientError,
    DagsterRefusedError,
    DemoFailedError,
    DeploymentError,
    EndpointFailedError,
    LocalCloudError,
    ProcessKilledError,
    ValueError,
)


def _told(deployment: Deployment) -> dict[ids.TenantId, str]:
    """The notices in the app's queue about uploads that cannot be used, by tenant."""
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


@dataclass(frozen=True)
class _Wanted:
    """The options of a run of the demo. ``tenants`` is how many energy tenants; None for all of
    ``data``."""

    state: Path
    data: Path | None
    tenants: int | None
    once: bool
    port: int
    timeout: float


def run(
    state: Path, *, data: Path | None, tenants: int | None, once: bool, port: int, timeout: float
) -> int:
    """Run the demo. Returns the exit status.

    Args:
        state: folder of all files that it makes.
        data: a user's own customers, CSV or Parquet; None for made-up ones.
        tenants: how many energy tenants; None for all of ``data``.
        once: whether it ends when all has happened.
        port: of the Dagster UI; another one is taken if it is in use.
        timeout: seconds without any progress to wait.
    """
    # a log file has no width of its own
    console = Console() if sys.stdout.isatty() else Console(width=100)
    signal.signal(signal.SIGTERM, _terminate)
    # A shell starts background jobs of scripts with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return _run(_Wanted(state, data, tenants, once, port, timeout), console)
    except KeyboardInterrupt:
        console.print(
            "Stopped; nothing is left running. `make run` goes on from here, `make clean` forgets "
            "it all."
        )
        return 130 if once else 0
    except _GIVEN_UP as error:
        _say_why(console, error, state)
        return 1


def _run(wanted: _Wanted, console: Console) -> int:
    workloads, steps = read_workloads(), Steps(console)
    with (
        only_one(wanted.state / "lock") as ui_is_at,
        tempfile.TemporaryDirectory(prefix="tenantry-") as scratch,
        ExitStack() as later,
    ):
        # A fault in a user's own file is reported before anything is started.
        if wanted.data is not None:
            with steps.step(f"Reading {wanted.data.name}"):
                customers = call_in_own_process(
                    tenants_of_file, wanted.data, Path(scratch), wanted.tenants
                )
        else:
            with steps.step("Making up customers and their data"):
                customers = call_in_own_process(
                    synthetic_tenants, wanted.tenants or 1, Path(scratch)
                )
        port = _choose_port(console, wanted.port)
        ui_is_at(f"http://127.0.0.1:{port}")
        with steps.step("Starting the local cloud"):
            cloud = later.enter_context(running(wanted.state / "cloud", ROOT / "containers"))
        os.environ.update(cloud.environment)
        with steps.step("Creating buckets, tables, queues and roles"):
            deploy()
        deployment = Deployment.from_stack()
        variables = {
            **cloud.environment,
            "TENANTRY_POLL_SECONDS": "1",
            "TENANTRY_LOST_RUN_SECONDS": "45",
        }
        later.enter_context(
            environment.written(wanted.state / environment.LOCAL_FILE.name, cloud.environment)
        )
        with steps.step("Starting Dagster"):
            dagster = later.enter_context(
                dagster_processes(wanted.state / "dagster", port, variables)
            )
        steps.say(f"The Dagster UI is open: [bold]{dagster.url}[/bold]")
        common = (deployment, dagster)
        energy, portraits, churn = (workloads[name] for name in ("energy", "portraits", "churn"))
        products = [
            Product(*common, energy, customers, shown_of(energy), wanted.timeout),
            Product(*common, churn, churn_tenants(), shown_of_churn(), wanted.timeout),
            Product(*common, portraits, portraits_tenants(), shown_of_portraits(), wanted.timeout),
        ]
        try:
            _go(steps, products, wanted.state)
        except _GIVEN_UP as error:
            if wanted.once:
                raise
            _say_why(console, error, wanted.state)
            with suppress(KeyboardInterrupt):
                _stay_open(console, dagster, cloud, wanted.state)
            return 1
        if not wanted.once:
            _stay_open(console, dagster, cloud, wanted.state)
    return 0


def _say_why(console: Console, error: Exception, state: Path) -> None:
    """Print the reason as plain text: a tenant's words in it are no markup."""
    console.print(str(error), style="red", markup=False)
    if not isinstance(error, AlreadyRunsError | ValueError):
        console.print(f"The logs lie below {state}.")


def _go(steps: Steps, products: Sequence[Product], state: Path) -> None:
    """Take each product from upload to first answers, then all to slow answers and a batch; show
    the results. Raises ``DemoFailedError``."""
    day = datetime.now(UTC).date()
    for product in products:
        product.upload(steps)
        product.wait_for_models(steps)
        product.ask_endpoints(steps)
        steps.say(f"First answer: {product.first_answer_in_words()}")
    pictured = products[-1]
    pictured.ask_asynchronously(steps, SLOW_REQUEST)
    for product in products:
        product.predict_batch(steps, day)
    _show_fleets(steps, products)
    console = steps.console
    console.print(f"All of it took {steps.seconds:.0f} s.")
    for product in products:
        console.print(product.table(day))
        if sql := product.query(day):
            console.print(f'$ tenantry query "{sql}"', markup=False, soft_wrap=True)
            console.print(product.queried(day))
    drawn = write_sheet(state / SHEET, pictured.good, pictured.first_answers)
    print_pictures(console, drawn)
    console.print("What the portraits tenants uploaded, and what their models drew:")
    console.print(f"  [bold]{state / SHEET}[/bold]", soft_wrap=True)
    console.print(f"All files are in the bucket {products[0].deployment.data_bucket}.")
    told = _told(products[0].deployment)
    for product in products:
        for refused, message in product.refusals(told).items():
            console.print(f"[yellow]{refused}[/yellow] was told: {escape(message)}")


def _show_fleets(steps: Steps, products: Sequence[Product]) -> None:
    """Bring the UI's tables of all tenants up to date, side by side."""
    with steps.step("A table of all tenants in the UI", len(products)) as step:
        runs = [product.launch_fleet() for product in products]
        for product, run in zip(products, runs, strict=True):
            product.wait_for_fleet(run)
            step.advance()


def _stay_open(console: Console, dagster: DagsterProcesses, cloud: LocalCloud, state: Path) -> None:
    console.print(f"The UI stays open until Ctrl-C: [bold]{dagster.url}/asset-groups[/bold]")
    console.print("Beside it, in another terminal: [bold].venv/bin/tenantry status --watch[/bold]")
    while True:
        for name, process in {**cloud.processes, "dagster": dagster.process}.items():
            if process.poll() is not None:
                raise DemoFailedError(
                    f"{name} ended by itself with status {process.returncode}; see the logs below "
                    f"{state}"
                )
        time.sleep(1.0)
