"""Churn over many rows, beside plain XGBoost that reads the same Parquet in one process.

Training runs the container's program ``train`` on the prepared rows of many tenants, as a training
job finds them. Scoring runs ``serve`` in the mode of batch transform. It gets what a transform job
sends: a record for up to 10,000 rows in each request, and as many requests at once as it asks for.
The records lie ready on disk, as a job's objects lie in S3.

Times are of whole processes, from their start to their end, or to the server's last answer. Peak
memory is the process's greatest resident set (VmHWM of proc(5)). Both ways take turns.
"""

from __future__ import annotations

import http.client
import json
import os
import resource
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from containers.tabular.preparation import ROWS_FILE, prepare
from containers.tabular.request import MOST_ROWS
from containers.tabular.settings import LIMITS, Settings, parse_settings
from containers.tabular.synthetic import generate, uploaded
from containers.tabular.table import TABLE
from contracts.records import Record
from contracts.tasks import TASKS_FILE, ListedTask, TaskList
from infrastructure.dagster_processes import ROOT
from infrastructure.local_cloud import free_port
from tenantry.workloads.schema import Workload

_CONTAINER: Final = ROOT / "containers" / "tabular"
_CUSTOMERS: Final = 5000
"""Of a tenant, at most."""
_MONTHS: Final = 12
_ROWS_A_CUSTOMER: Final = 8
"""About as many, as customers leave."""
_FEWEST_TENANTS: Final = 4
FEWEST_ROWS: Final = 8000
"""A quarter of them is enough for a training."""
_ARCHIVE: Final = "all/v1.tar.gz"
MODEL: Final = f"checkpoints/{_ARCHIVE}"
"""The model's archive, below a job's folder."""
_PAYLOAD_MB: Final = 6
_READY_SECONDS: Final = 60.0


class ChurnFailedError(RuntimeError):
    """A process failed, or the two ways tell different scores."""


@dataclass(frozen=True)
class Ran:
    """What a program took: seconds, CPU seconds, and its greatest resident set in bytes."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int


def measure(
    workload: Workload, scratch: Path, rows: int, trees: int, rounds: int
) -> dict[str, object]:
    """All figures of about ``rows`` rows, and of a quarter of them, as medians of ``rounds``
    rounds. Both ways learn from all rows, so the container's ``most_rows`` is lifted.

    Raises:
        ChurnFailedError: a process fails, or the scores differ.
    """
    told = {
        **workload.training.hyperparameters,
        "rounds": str(trees),
        "patience": str(min(trees, int(LIMITS["patience"][1]))),
        "most_rows": str(int(LIMITS["most_rows"][1])),
    }
    data = _Data.make(scratch, rows)
    print(
        f"{data.rows:,} rows of {data.tenants} tenants, of which {data.known:,} have a target",
        flush=True,
    )
    ways: dict[str, list[Ran]] = {}
    for number in range(rounds):
        for part, folder in (("quarter", data.quarter), ("whole", data.whole)):
            one = train(scratch / f"{part}-{number}", folder, told)
            other = _plain_training(folder, scratch / "plain.json", parse_settings(told))
            ways.setdefault(f"{part} ours", []).append(one)
            ways.setdefault(f"{part} plain", []).append(other)
            _print(f"training, {part}", one, other)
    fewest = {**told, "most_rows": str(data.known_of_quarter)}
    bounded = train(scratch / "bounded", data.whole, fewest)
    archive = scratch / "whole-0" / MODEL
    figures = _of_training(data, ways, bounded)
    return figures | _scoring(workload, scratch, data, archive, rounds)


def trained(workload: Workload, scratch: Path, rows: int) -> Path:
    """The archive of a model that the container makes of about ``rows`` rows."""
    data = _Data.make(scratch, rows)
    train(scratch / "job", data.whole, workload.training.hyperparameters)
    return scratch / "job" / MODEL


@dataclass(frozen=True)
class _Data:
    """Prepared rows: the folders of all tenants and of a quarter of them, counts, and the records
    that ask for the scores of all rows."""

    whole: Path
    quarter: Path
    tenants: int
    rows: int
    known: int
    known_of_quarter: int
    records: Sequence[Path]

    @classmethod
    def make(cls, scratch: Path, rows: int) -> _Data:
        """Generate and prepare tenants with about so many rows together."""
        tenants = max(_FEWEST_TENANTS, rows // (_ROWS_A_CUSTOMER * _CUSTOMERS))
        customers = min(_CUSTOMERS, rows // (_ROWS_A_CUSTOMER * tenants))
        with ProcessPoolExecutor() as processes:
            counts = list(processes.map(partial(_tenant, scratch, customers), range(tenants)))
        for number in range(tenants // 4):
            tenant = f"tenant-{number:04}"
            (scratch / "quarter" / tenant / "v1").mkdir(parents=True)
            (scratch / "quarter" / tenant / "v1" / ROWS_FILE).hardlink_to(
                scratch / "whole" / tenant / "v1" / ROWS_FILE
            )
        return cls(
            scratch / "whole",
            scratch / "quarter",
            tenants,
            sum(rows for rows, _ in counts),
            sum(known for _, known in counts),
            sum(known for _, known in counts[: tenants // 4]),
            sorted((scratch / "records").iterdir()),
        )


def _tenant(scratch: Path, customers: int, number: int) -> tuple[int, int]:
    """Prepare a tenant's rows, and write their records; returns how many rows there are, and how
    many have a target."""
    tenant = f"tenant-{number:04}"
    folder = scratch / "whole" / tenant / "v1"
    folder.mkdir(parents=True)
    upload = scratch / f"{tenant}.parquet"
    parquet.write_table(uploaded(generate(1, customers, _MONTHS, number)), upload)
    known: int = prepare([upload], folder, {})["rows"]
    upload.unlink()
    for other in folder.iterdir():
        if other.name != ROWS_FILE:
            other.unlink()
    table = parquet.read_table(folder / ROWS_FILE)
    (scratch / "records").mkdir(exist_ok=True)
    for part, start in enumerate(range(0, len(table), MOST_ROWS)):
        line = Record(_ARCHIVE, {"rows": _requested(table.slice(start, MOST_ROWS))}).line()
        (scratch / "records" / f"{tenant}-{part:02}.jsonl").write_bytes(line + b"\n")
    return len(table), known


def _requested(table: pa.Table) -> list[dict[str, Any]]:
    names = [column.name for column in TABLE.features]
    renamed = table.select([TABLE.id, *names]).rename_columns(["id", *names])
    rows: list[dict[str, Any]] = renamed.to_pylist()
    return rows


def train(base: Path, rows: Path, told: Mapping[str, str]) -> Ran:
    """Run the container's program on a job's folders below ``base``. Raises ``ChurnFailedError``
    where it makes no model."""
    channel = base / "input" / "data" / "training"
    channel.mkdir(parents=True)
    rows.rename(channel / "all")
    task = ListedTask("t-all", "all", "v1", "pool", "all", shard=0)
    documents = {
        "config/resourceconfig.json": {"current_host": "algo-1", "hosts": ["algo-1"]},
        "config/hyperparameters.json": dict(told),
        f"data/tasks/{TASKS_FILE}": TaskList("churn", "p-1", [task]).document(),
    }
    for path, document in documents.items():
        file = base / "input" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(document))
    try:
        ran = _run([str(_CONTAINER / "train")], {"SAGEMAKER_BASE_DIR": str(base)}, base / "log")
    finally:
        (channel / "all").rename(rows)
    outcome = json.loads((base / "checkpoints" / "all" / "v1.json").read_bytes())
    if outcome["status"] != "succeeded":
        raise ChurnFailedError(f"the training made no model: {outcome}")
    return ran


def _plain_training(rows: Path, model: Path, settings: Settings) -> Ran:
    arguments = [str(rows), str(model), json.dumps(settings.parameters()), str(settings.rounds)]
    return _plain("train", *arguments, log=model.with_suffix(".log"))


def _plain(*arguments: str, log: Path) -> Ran:
    return _run(["-m", "benchmarks.plain_xgboost", *arguments], {}, log)


def _run(arguments: Sequence[str], variables: Mapping[str, str], log: Path) -> Ran:
    """Run a Python program to its end. Raises ``ChurnFailedError`` where it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    peak = 0
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={**os.environ, **variables},
            stdout=output,
            stderr=output,
        )
        while process.poll() is None:
            peak = max(peak, _peak_of(process.pid))
            time.sleep(0.01)
    seconds = time.monotonic() - began
    if process.returncode:
        said = log.read_text(errors="replace")[-2000:]
        raise ChurnFailedError(f"{arguments[:3]} ended with {process.returncode}:\n{said}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Ran(seconds, used, peak)


def _peak_of(pid: int) -> int:
    """The greatest resident set of a process so far, in bytes; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


def _of_training(data: _Data, ways: Mapping[str, Sequence[Ran]], bounded: Ran) -> dict[str, object]:
    ours, plain = _median(ways["whole ours"]), _median(ways["whole plain"])
    more = data.known - data.known_of_quarter

    def bytes_a_row(way: str) -> int:
        grown = _median(ways[f"whole {way}"]).peak_bytes
        return round((grown - _median(ways[f"quarter {way}"]).peak_bytes) / more)

    return {
        "churn_rows": data.known,
        "churn_tenants": data.tenants,
        "churn_rows_per_s": round(data.known / ours.seconds),
        "churn_plain_rows_per_s": round(data.known / plain.seconds),
        "churn_rows_per_s_over_plain": _ratio(ways["whole plain"], ways["whole ours"]),
        "churn_cpu_s_over_plain": round(ours.cpu_seconds / plain.cpu_seconds, 3),
        "churn_peak_memory_mb": round(ours.peak_bytes / 1e6),
        "churn_peak_memory_mb_of_a_quarter": round(_median(ways["quarter ours"]).peak_bytes / 1e6),
        "churn_peak_memory_mb_at_most_a_quarter": round(bounded.peak_bytes / 1e6),
        "churn_bytes_a_row": bytes_a_row("ours"),
        "churn_plain_peak_memory_mb": round(plain.peak_bytes / 1e6),
        "churn_plain_bytes_a_row": bytes_a_row("plain"),
    }


def _median(runs: Sequence[Ran]) -> Ran:
    return Ran(
        statistics.median(run.seconds for run in runs),
        statistics.median(run.cpu_seconds for run in runs),
        round(statistics.median(run.peak_bytes for run in runs)),
    )


def _ratio(over: Sequence[Ran], under: Sequence[Ran]) -> float:
    """The median of the rounds' ratios of seconds: a busy moment meets both ways of a round."""
    pairs = zip(over, under, strict=True)
    return round(statistics.median(one.seconds / other.seconds for one, other in pairs), 3)


def _print(what: str, ours: Ran, plain: Ran) -> None:
    figures = "; ".join(
        f"{name} {ran.seconds:.1f} s, CPU {ran.cpu_seconds:.1f} s, {ran.peak_bytes / 1e6:.0f} MB"
        for name, ran in (("ours", ours), ("plain", plain))
    )
    print(f"{what}: {figures}", flush=True)


def _scoring(
    workload: Workload, scratch: Path, data: _Data, archive: Path, rounds: int
) -> dict[str, object]:
    """Figures of scoring all rows, by the server and by plain XGBoost."""
    ours, plain, quarter = list[Ran](), list[Ran](), list[Ran]()
    with tarfile.open(archive) as files:
        files.extractall(scratch / "model", filter="data")
    base = scratch / "serving"
    (base / "model" / "all").mkdir(parents=True)
    (base / "model" / _ARCHIVE).hardlink_to(archive)
    for _ in range(rounds):
        few = data.records[: len(data.records) // 4]
        quarter.append(_serve(base, workload.serving.variables, few)[0])
        ran, told = _serve(base, workload.serving.variables, data.records)
        ours.append(ran)
        arguments = [str(data.whole), str(scratch / "model" / "trees.json"), str(scratch / "s.npy")]
        plain.append(_plain("score", *arguments, log=scratch / "score.log"))
        _print("scoring", ours[-1], plain[-1])
        if not np.allclose(told, np.load(scratch / "s.npy"), rtol=1e-5, atol=0):
            raise ChurnFailedError("the server and plain XGBoost tell different scores")
    one, other = _median(ours), _median(plain)
    return {
        "scored_rows": data.rows,
        "scored_rows_per_s": round(data.rows / one.seconds),
        "plain_scored_rows_per_s": round(data.rows / other.seconds),
        "scored_rows_per_s_over_plain": _ratio(plain, ours),
        "scored_cpu_s_over_plain": round(one.cpu_seconds / other.cpu_seconds, 2),
        "scored_peak_memory_mb": round(one.peak_bytes / 1e6),
        "scored_peak_memory_mb_of_a_quarter": round(_median(quarter).peak_bytes / 1e6),
        "plain_scored_peak_memory_mb": round(other.peak_bytes / 1e6),
    }


def _serve(
    base: Path, variables: Mapping[str, str], records: Sequence[Path]
) -> tuple[Ran, NDArray[np.float32]]:
    """Have a server score records; what it took, from its start to the last answer, and all
    scores in order."""
    began = time.monotonic()
    with _server(base, variables) as (process, port):
        answer = json.loads(_answer(port, "GET", "/execution-parameters"))

        def ask(record: Path) -> bytes:
            return _answer(port, "POST", "/invocations", record.read_bytes())

        with ThreadPoolExecutor(answer["MaxConcurrentTransforms"]) as clients:
            answers = list(clients.map(ask, records))
        seconds = time.monotonic() - began
        peak = _peak_of(process.pid)
        ticks = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        cpu_seconds = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    told = [np.array(json.loads(content)["scores"], np.float32) for content in answers]
    return Ran(seconds, cpu_seconds, peak), np.concatenate(told)


def _answer(port: int, method: str, path: str, body: bytes | None = None) -> bytes:
    """The body of a 200 answer. Raises ``ChurnFailedError`` for another."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    with closing(connection):
        connection.request(method, path, body, {"Content-Type": "application/jsonlines"})
        response = connection.getresponse()
        content: bytes = response.read()
    if response.status != 200:
        raise ChurnFailedError(f"the server answers {content[:500]!r}")
    return content


@contextmanager
def _server(
    base: Path, variables: Mapping[str, str]
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The container's server in the mode of batch transform, with a folder of models."""
    port = free_port()
    environment = {
        **os.environ,
        **variables,
        "SAGEMAKER_BASE_DIR": str(base),
        "SAGEMAKER_BIND_TO_PORT": str(port),
        "SAGEMAKER_BATCH": "true",
        "SAGEMAKER_BATCH_STRATEGY": "SINGLE_RECORD",
        "SAGEMAKER_MAX_PAYLOAD_IN_MB": str(_PAYLOAD_MB),
    }
    with (base / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(_CONTAINER / "serve")], env=environment, stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + _READY_SECONDS
        while True:
            try:
                _answer(port, "GET", "/ping")
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    said = (base / "log").read_text(errors="replace")[-2000:]
                    raise ChurnFailedError(f"the server did not start:\n{said}") from None
                time.sleep(0.05)
        yield process, port
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
