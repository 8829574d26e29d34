"""Our model server beside MLServer: the same models, the same predictor, the same load, one process
each.

`python -m benchmarks.serving` creates an environment for MLServer under
.tenantry/benchmarks/mlserver if there is none, and writes forecast models of full size. It measures
both servers in turns: warm requests from 1, 8 and 32 clients spread over all models, and cold
requests, from the call that loads a model to its first answer. The last line is JSON with every
figure.

The setup favours MLServer: no process between its front and the model (`parallel_workers` 0), no
metrics, no gzip, no logging of requests, and httptools, which pip does not install by default. Two
of its properties stay in the figures:

- requests and answers are strings within V2 inference documents;
- each load reads the settings of every model in its repository, so that cold times grow with
  `--models`.
"""

import argparse
import http.client
import json
import os
import platform
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from benchmarks.processes import terminated
from containers.forecast.stored_forecasts.model_file import Points, StoredForecast, write_model

ROOT = Path(__file__).resolve().parents[1]
MLSERVER = ROOT / ".tenantry" / "benchmarks" / "mlserver"
CLIENTS = (1, 8, 32)
REQUEST = '{"period": 7}'
LEVELS = (0.1, 0.5, 0.9)
HOURS = 14 * 24


def free_port() -> int:
    """A port without a listener at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Contender(Protocol):
    """A measured server: how to load, ask and unload its models."""

    name: str

    def request(self, model: str) -> dict[str, str]:
        """Path and body of the request for a week's forecast of `model`."""
        ...

    def answer(self, body: bytes) -> bytes:
        """The forecast within the server's answer."""
        ...

    def load(self, model: str, folder: Path) -> dict[str, str]:
        """Path and body of the call that loads `model`."""
        ...

    def unload(self, model: str) -> tuple[str, str]:
        """Method and path of the call that unloads `model`."""
        ...

    def ready(self) -> str:
        """The path that answers 200 once the server runs."""
        ...

    def start(self, port: int, models: Path, scratch: Path) -> "subprocess.Popen[bytes]":
        """Start the server, with no model loaded."""
        ...


class Tenantry:
    """Our server in SageMaker's multi-model mode."""

    name = "tenantry"

    def request(self, model: str) -> dict[str, str]:
        """See `Contender`."""
        return {"path": f"/models/{model}/invoke", "body": REQUEST}

    def answer(self, body: bytes) -> bytes:
        """See `Contender`."""
        return body

    def load(self, model: str, folder: Path) -> dict[str, str]:
        """See `Contender`."""
        return {"path": "/models", "body": json.dumps({"model_name": model, "url": str(folder)})}

    def unload(self, model: str) -> tuple[str, str]:
        """See `Contender`."""
        return "DELETE", f"/models/{model}"

    def ready(self) -> str:
        """See `Contender`."""
        return "/ping"

    # `load` passes the models' folders instead.
    def start(self, port: int, models: Path, scratch: Path) -> "subprocess.Popen[bytes]":  # noqa: ARG002
        """See `Contender`."""
        environment = {
            "SAGEMAKER_BASE_DIR": str(scratch),
            "SAGEMAKER_BIND_TO_PORT": str(port),
            "SAGEMAKER_MULTI_MODEL": "true",
        }
        serve = ROOT / "containers" / "forecast" / "serve"
        return _start([sys.executable, str(serve)], environment, scratch, self.name)


class MLServer:
    """MLServer with the same predictor as a custom runtime."""

    name = "mlserver"

    def request(self, model: str) -> dict[str, str]:
        """See `Contender`."""
        document = {
            "inputs": [{"name": "request", "shape": [1], "datatype": "BYTES", "data": [REQUEST]}]
        }
        return {"path": f"/v2/models/{model}/infer", "body": json.dumps(document)}

    def answer(self, body: bytes) -> bytes:
        """See `Contender`."""
        text: str = json.loads(body)["outputs"][0]["data"][0]
        return text.encode()

    # MLServer finds the folder itself.
    def load(self, model: str, folder: Path) -> dict[str, str]:  # noqa: ARG002
        """See `Contender`."""
        return {"path": f"/v2/repository/models/{model}/load", "body": ""}

    def unload(self, model: str) -> tuple[str, str]:
        """See `Contender`."""
        return "POST", f"/v2/repository/models/{model}/unload"

    def ready(self) -> str:
        """See `Contender`."""
        return "/v2/health/ready"

    def start(self, port: int, models: Path, scratch: Path) -> "subprocess.Popen[bytes]":
        """See `Contender`."""
        settings = {
            "debug": False,
            "host": "127.0.0.1",
            "http_port": port,
            "grpc_port": free_port(),
            "parallel_workers": 0,
            "metrics_endpoint": None,
            "gzip_enabled": False,
            "load_models_at_startup": False,
        }
        (models / "settings.json").write_text(json.dumps(settings))
        command = [str(MLSERVER / "bin" / "mlserver"), "start", str(models)]
        return _start(command, {"PYTHONPATH": str(ROOT)}, scratch, self.name)


def _start(
    command: list[str], environment: dict[str, str], scratch: Path, name: str
) -> "subprocess.Popen[bytes]":
    with (scratch / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            command,
            cwd=scratch,
            env={**os.environ, **environment},
            stdout=log,
            stderr=subprocess.STDOUT,
        )


@dataclass
class Running:
    """A running server, with one connection for calls outside the measured load."""

    contender: Contender
    port: int
    process: "subprocess.Popen[bytes]"
    connection: http.client.HTTPConnection

    def call(self, method: str, path: str, body: str = "") -> bytes:
        """The body of a 200 answer; raises `RuntimeError` for any other."""
        self.connection.request(method, path, body, {"Content-Type": "application/json"})
        response = self.connection.getresponse()
        content = response.read()
        if response.status != 200:
            raise RuntimeError(
                f"{self.contender.name}: {method} {path} gave {response.status}: {content[:300]!r}"
            )
        return content

    def load(self, model: str, folder: Path) -> None:
        """Load a model."""
        self.call("POST", **self.contender.load(model, folder))

    def forecast(self, model: str) -> bytes:
        """The forecast of a loaded model."""
        return self.contender.answer(self.call("POST", **self.contender.request(model)))


@contextmanager
def running(contender: Contender, models: Path, scratch: Path) -> Iterator[Running]:
    """Start a server, wait until it is ready, and stop it at the end of the block."""
    port = free_port()
    process = contender.start(port, models, scratch)
    server = Running(
        contender, port, process, http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                server.call("GET", contender.ready())
                break
            except (OSError, RuntimeError, http.client.HTTPException):
                server.connection.close()
                if process.poll() is not None or time.monotonic() > deadline:
                    log = (scratch / f"{contender.name}.log").read_text()[-3000:]
                    raise RuntimeError(f"{contender.name} did not start:\n{log}") from None
                time.sleep(0.05)
        yield server
    finally:
        server.connection.close()
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def make_environment() -> str:
    """Create MLServer's environment if there is none; returns its version."""
    python = MLSERVER / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if not (MLSERVER / "bin" / "mlserver").exists():
        print(f"installing MLServer into {MLSERVER.relative_to(ROOT)}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(MLSERVER)], check=True)
        subprocess.run([*pip, "mlserver"], check=True)
    if not any(MLSERVER.glob("lib/*/site-packages/httptools")):
        subprocess.run([*pip, "httptools"], check=True)
    version = "import importlib.metadata as m; print(m.version('mlserver'))"
    return subprocess.run(
        [str(python), "-c", version], check=True, capture_output=True, text=True
    ).stdout.strip()


def _points(mean: list[float]) -> Points:
    return Points(
        mean, {level: [round(value * (0.5 + level), 4) for value in mean] for level in LEVELS}
    )


def write_models(folder: Path, count: int) -> list[str]:
    """Write `count` forecast models of full size in the form that both servers read; returns their
    names."""
    values = random.Random(7)
    # a night's training ended at midnight
    end = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    names = [f"tenant-{number:04}" for number in range(count)]
    for name in names:
        model = folder / name
        model.mkdir(parents=True)
        week = _points([round(values.gammavariate(2, 0.3), 4) for _ in range(168)])
        spread = [round(number**0.1, 3) for number in range(1, 14)]
        stored = StoredForecast(
            "ridge", "h", "kWh", "Europe/London", end, 63, HOURS, week, week, week, spread
        )
        write_model(model, stored)
        (model / "card.json").write_text(
            json.dumps({"format": 1, "family": "forecast", "version": "v1"})
        )
        settings = {
            "name": name,
            "implementation": "benchmarks.mlserver_runtime.ForecastRuntime",
            "parameters": {"uri": str(model)},
        }
        (model / "model-settings.json").write_text(json.dumps(settings))
    return names


def warm(server: Running, models: Sequence[str], clients: int, seconds: float) -> dict[str, Any]:
    """Figures of one measurement with a generator process."""
    requests = [server.contender.request(model) for model in models]
    plan = {"port": server.port, "clients": clients, "seconds": seconds, "requests": requests}
    generator = [sys.executable, "-m", "benchmarks.http_load"]
    result = subprocess.run(
        generator,
        cwd=ROOT,
        input=json.dumps(plan).encode(),
        stdout=subprocess.PIPE,
        check=True,
        timeout=seconds + 60,
    )
    figures: dict[str, Any] = json.loads(result.stdout)
    if figures["refused"]:
        raise RuntimeError(f"{server.contender.name} refused {figures['refused']} requests")
    return figures


def cold(server: Running, folder: Path, models: Sequence[str]) -> list[float]:
    """Milliseconds from the call that loads a model to its first answer, for each of `models`;
    leaves them loaded."""
    # The server may have closed the connection while the generator ran.
    server.connection.close()
    times = []
    for model in models:
        server.call(*server.contender.unload(model))
        started = time.perf_counter()
        server.load(model, folder / model)
        server.forecast(model)
        times.append(1000 * (time.perf_counter() - started))
    return times


def measure(count: int, seconds: float, rounds: int) -> dict[str, Any]:
    """All figures. The servers take turns in every round, so that a busy moment of the machine
    affects both."""
    version = make_environment()
    scratch = Path(tempfile.mkdtemp(prefix="serving-"))
    try:
        folder = scratch / "models"
        models = write_models(folder, count)
        with (
            running(Tenantry(), folder, scratch) as ours,
            running(MLServer(), folder, scratch) as theirs,
        ):
            servers = (ours, theirs)
            for server in servers:
                for model in models:
                    server.load(model, folder / model)
                server.connection.close()
            for model in models:
                if ours.forecast(model) != theirs.forecast(model):
                    raise RuntimeError(f"the servers answer differently for {model}")
            runs: dict[tuple[str, int], list[dict[str, Any]]] = {}
            colds: dict[str, list[float]] = {server.contender.name: [] for server in servers}
            for server in servers:
                warm(server, models, 8, 1.0)
            for _ in range(rounds):
                for clients in CLIENTS:
                    for server in servers:
                        figures = warm(server, models, clients, seconds)
                        runs.setdefault((server.contender.name, clients), []).append(figures)
                        print(
                            f"{server.contender.name:9} {clients:3} clients  {json.dumps(figures)}",
                            file=sys.stderr,
                        )
                for server in servers:
                    colds[server.contender.name] += cold(server, folder, models)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    report: dict[str, Any] = {
        "benchmark": "serving",
        "mlserver_version": version,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "models": count,
        "seconds": seconds,
        "rounds": rounds,
    }
    for name in colds:
        report[name] = {
            "warm": {str(clients): _median(runs[name, clients]) for clients in CLIENTS},
            "cold_ms": {"p50": _percentile(colds[name], 50), "p99": _percentile(colds[name], 99)},
        }
    report["warm_rps_over_mlserver"] = {
        clients: round(figures["per_second"] / report["mlserver"]["warm"][clients]["per_second"], 2)
        for clients, figures in report["tenantry"]["warm"].items()
    }
    return report


def _median(runs: Sequence[dict[str, Any]]) -> dict[str, float]:
    return {
        name: round(statistics.median(run[name] for run in runs), 3)
        for name in runs[0]
        if name != "refused"
    }


def _percentile(values: Sequence[float], percent: int) -> float:
    return round(sorted(values)[min(len(values) - 1, len(values) * percent // 100)], 3)


def main() -> int:
    """Measure and print the report."""
    parser = argparse.ArgumentParser(description="Our model server beside MLServer.")
    parser.add_argument("--models", type=int, default=100, help="models loaded in each server")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of one warm measurement")
    parser.add_argument(
        "--rounds", type=int, default=3, help="measurements of each kind; the median is reported"
    )
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, terminated)
    print(json.dumps(measure(arguments.models, arguments.seconds, arguments.rounds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
