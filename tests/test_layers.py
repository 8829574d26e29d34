"""Imports run one way, and each rule has one home; the tests read the code itself."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[1]
LAYERS: Final = {
    "contracts": {"contracts"},
    "tenantry": {"tenantry", "contracts", "pipes_sagemaker"},
    "resources": {"resources", "tenantry", "contracts", "pipes_sagemaker"},
    "orchestration.private_dagster": {"orchestration.private_dagster", "tenantry", "contracts"},
    "assets": {
        "assets",
        "resources",
        "tenantry",
        "pipes_sagemaker",
        "orchestration.private_dagster",
    },
    "orchestration": {
        "orchestration",
        "orchestration.private_dagster",
        "assets",
        "resources",
        "tenantry",
    },
    "containers": {"containers", "contracts"},
    "pipes_sagemaker": {"pipes_sagemaker"},
    "local_sagemaker": {"local_sagemaker"},
}
"""The packages of this project that each package may import."""
ROOMS_OF_FORECAST: Final = {
    "consumption": set[str](),
    "models": {"consumption", "stored_forecasts"},
    "stored_forecasts": set[str](),
    "training": {"consumption", "models", "stored_forecasts"},
    "serving": {"consumption", "models", "stored_forecasts"},
}
"""The other rooms that each room of the forecast container may import."""
OF_THE_PROJECT: Final = {*LAYERS, "infrastructure", "demo", "benchmarks", "tests"}
# The product uses only the Pipes client's classes of failure.
SHARED_WITH_PIPES: Final = {"pipes_sagemaker.errors"}
# Libraries that read untrusted files. Only processes with limits import them.
PARSERS: Final = {"pandas", "pyarrow", "PIL", "torch", "diffusers", "safetensors", "numpy"}


def sources(package: str) -> Iterator[Path]:
    yield from sorted((ROOT / package.replace(".", "/")).rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """The modules that a file imports anywhere, as dotted names with their lines."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield node.lineno, name if is_module(name) else node.module


def is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def package_of(name: str) -> str | None:
    """The most specific package of the project that contains a module."""
    found = [package for package in OF_THE_PROJECT if within(name, package)]
    return max(found, key=len, default=None)


@pytest.mark.parametrize("package", LAYERS)
def test_imports_run_one_way(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sources(package)
        if package_of(module_of(path)) == package
        for line, name in imports(path)
        if (other := package_of(name)) is not None and other not in LAYERS[package]
    ]
    assert wrong == []


@pytest.mark.parametrize("room", ROOMS_OF_FORECAST)
def test_imports_between_the_rooms_of_forecast_run_one_way(room: str) -> None:
    hall = "containers.forecast"
    allowed = [f"{hall}.{other}" for other in {room, *ROOMS_OF_FORECAST[room]}]
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sources(f"{hall}.{room}")
        for line, name in imports(path)
        if within(name, hall) and not any(within(name, other) for other in allowed)
    ]
    assert wrong == []


def test_the_product_imports_no_dagster_and_of_others_values_alone() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sources("tenantry")
        for line, name in imports(path)
        if name.partition(".")[0].startswith("dagster")
        or (package_of(name) == "pipes_sagemaker" and name not in SHARED_WITH_PIPES)
    ]
    assert wrong == []


def test_the_contracts_need_the_standard_library_alone() -> None:
    """Every image has a copy of them, but may lack other packages."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sources("contracts")
        for line, name in imports(path)
        if package_of(name) is None and name.partition(".")[0] not in sys.stdlib_module_names
    ]
    assert wrong == []


def test_private_dagster_is_used_in_one_place() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for package in ("orchestration", "assets", "resources", "tenantry")
        for path in sources(package)
        if not within(module_of(path), "orchestration.private_dagster")
        for line, name in imports(path)
        if name.startswith("dagster._")
    ]
    assert wrong == []


@pytest.mark.parametrize("package", ["orchestration", "assets", "resources", "tenantry"])
def test_dagsters_processes_import_no_parser_of_strangers_files(package: str) -> None:
    """``tenantry.uploads.bounded_calls`` starts the process that imports them."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sources(package)
        for line, name in imports(path)
        if name.partition(".")[0] in PARSERS
        # This room draws pictures and plots for people, from our own containers' answers.
        and not (name.startswith("PIL") and within(module_of(path), "tenantry.shown"))
        # Nobody but the orchestrator and operators can write what these modules read.
        and module_of(path)
        not in {"tenantry.capacity.parquet_rows", "tenantry.batch.parquet_tables"}
    ]
    assert wrong == []


def test_one_module_orders_uploads() -> None:
    """No other module compares the times of uploads or of versions' names."""
    wrong = []
    for package in ("orchestration", "assets", "resources", "tenantry"):
        for path in sources(package):
            if module_of(path) in {"tenantry.requests.newest", "tenantry.names.ids"}:
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                compared = isinstance(node, ast.Compare) and any(
                    isinstance(side, ast.Attribute) and side.attr == "uploaded"
                    for side in (node.left, *node.comparators)
                    if not isinstance(node.ops[0], ast.Is | ast.IsNot)
                )
                named = isinstance(node, ast.Attribute) and node.attr == "upload_moment"
                ordered = isinstance(node, ast.Lambda) and "uploaded" in ast.dump(node)
                if compared or named or ordered:
                    wrong.append(f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}")
    assert wrong == []


KEY_PARTS: Final = ("uploads/", "archive/", "predictions/", "artifacts/", "cache/", "jobs/")


def test_keys_are_built_in_one_room() -> None:
    """No other module of the product starts a text with the first part of an S3 key."""
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for package in ("orchestration", "assets", "resources", "tenantry")
        for path in sources(package)
        if not within(module_of(path), "tenantry.names")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.startswith(KEY_PARTS)
    ]
    assert wrong == []


def test_one_module_writes_the_expressions_of_dynamodb() -> None:
    """No other module calls its client's operations or writes an expression."""
    wrong = []
    for package in ("orchestration", "assets", "resources", "tenantry"):
        for path in sources(package):
            if module_of(path) in {"tenantry.aws.tables", "tenantry.aws.deployment"}:
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                called = (
                    isinstance(node, ast.Attribute)
                    and isinstance(node.value, ast.Attribute)
                    and node.value.attr == "dynamodb"
                )
                written = isinstance(node, ast.keyword) and str(node.arg).endswith("Expression")
                if called or written:
                    wrong.append(f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}")
    assert wrong == []


CLOCK: Final = "local_sagemaker.clock"
WITHOUT_THE_CLOCK: Final = {"local_sagemaker.processes.watcher"}
"""The watcher is a process of its own, which outlives the emulator."""
READS_OR_WAITS: Final = {
    "asyncio": {"sleep"},
    "datetime": {"now", "utcnow", "today"},
    "date": {"today"},
}
OF_THE_EVENT_LOOP: Final = {"call_later", "call_at", "time"}


def past_the_clock(path: Path) -> Iterator[tuple[int, str]]:
    """The lines in which a module reads the machine's time or waits without the clock."""
    for line, name in imports(path):
        if name == "time":
            yield line, "imports time"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "asyncio":
            for alias in node.names:
                if alias.name in READS_OR_WAITS["asyncio"]:
                    yield node.lineno, f"imports {alias.name}"
        if not isinstance(node, ast.Attribute):
            continue
        owner = ast.unparse(node.value)
        of = READS_OR_WAITS.get(owner.rpartition(".")[2], set())
        through_the_clock = owner == "MACHINE" or owner.rpartition(".")[2] in {"clock", "_clock"}
        if node.attr in of or (node.attr in OF_THE_EVENT_LOOP and not through_the_clock):
            yield node.lineno, f"uses {owner}.{node.attr}"


def test_one_module_of_local_sagemaker_has_the_time() -> None:
    """AWS's seconds are the clock's: a module that asks the machine would not keep its lapse."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line} {what}"
        for path in sources("local_sagemaker")
        if module_of(path) not in {CLOCK, *WITHOUT_THE_CLOCK}
        for line, what in past_the_clock(path)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "line",
    [
        "import time",
        "from time import monotonic",
        "from asyncio import sleep",
        "async def f():\n    await asyncio.sleep(1)",
        "datetime.now(UTC)",
        "datetime.datetime.now()",
        "asyncio.get_running_loop().call_later(1, f)",
        "loop.time()",
    ],
)
def test_time_past_the_clock_is_found(line: str, tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text(line)
    assert list(past_the_clock(module)) != []
    module.write_text("clock.call_later(1, f)\nself._cloud.clock.now()\nMACHINE.sleep(1)")
    assert list(past_the_clock(module)) == []


@pytest.mark.parametrize("package", [*LAYERS, "infrastructure", "demo", "benchmarks", "tests"])
def test_no_module_is_longer_than_600_lines(package: str) -> None:
    long = [
        f"{path.relative_to(ROOT)}: {count}"
        for path in sources(package)
        if (count := len(path.read_text().splitlines())) > 600
    ]
    assert long == []
