"""Each package declares its dependencies, and needs no others. These tests use no network."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from tests.packages.wheels import (
    CLIENT,
    LOCAL,
    PIPES,
    ROOT,
    build_wheel,
    files_of,
    name_of,
    pyproject,
    readme,
)

OUR_OWN: Final = frozenset(
    {
        "assets",
        "benchmarks",
        "containers",
        "contracts",
        "demo",
        "infrastructure",
        "local_sagemaker",
        "orchestration",
        "pipes_sagemaker",
        "resources",
        "tenantry",
        "tests",
    }
)
WITHOUT_AN_IMPORT: Final = {
    "accelerate": "diffusers loads weights with it",
    "dagster-webserver": "a process of its own",
    "httptools": "uvicorn parses HTTP with it",
    "psycopg2-binary": "SQLAlchemy's way to PostgreSQL",
    "tzdata": "zoneinfo reads it where the system has no time zones",
    "uvloop": "uvicorn's event loop",
    "xgboost": "the module of xgboost-cpu, where there is no such build",
}
NOT_INSTALLED: Final = frozenset(
    {"bitsandbytes", "torch_neuronx", "triton_python_backend_utils"}
)  # they come with an image
SHARED: Final = {
    "opentelemetry": "opentelemetry-api",
    "opentelemetry.exporter": "opentelemetry-exporter-otlp-proto-http",
    "opentelemetry.proto": "opentelemetry-proto",
    "opentelemetry.sdk": "opentelemetry-sdk",
}
"""The modules of a namespace that several distributions share, each with its distribution."""
ROOMS: Final = {
    "": ["tenantry", "contracts"],
    "tracing": ["tenantry/tracing"],
    "cli": ["tenantry/command_line", "tenantry/capacity", "tenantry/workloads"],
    "dagster": [
        *("orchestration", "assets", "resources", "pipes_sagemaker"),
        *("tenantry/batch", "tenantry/shown"),
    ],
    "local": ["infrastructure", "local_sagemaker"],
    "forecast": ["containers/forecast", "containers/example", "containers/runtime"],
    "diffusion": [
        "containers/diffusion",
        *(f"containers/runtime/{room}" for room in ("archives", "serving", "training")),
    ],
    "tabular": ["containers/tabular", "containers/runtime"],
}
IN_THE_DAGSTER_PROCESS: Final = frozenset({"holidays", "numpy", "pandas", "pyarrow"})
"""The imports of workloads' preparations, which Dagster's processes call."""

ONLY: Final = """
import importlib, sys

class Only:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if (top in names) != allowed and top not in sys.stdlib_module_names and top[0] != "_":
            raise ModuleNotFoundError(f"No module named {top!r}", name=top)

names, allowed = set(sys.argv[2].split(",")), sys.argv[1] == "only"
sys.meta_path.insert(0, Only())
for name in sys.argv[3:]:
    importlib.import_module(name)
"""
BARE: Final = frozenset(
    [
        "annotated_types",
        "boto3",
        "botocore",
        "certifi",
        "dateutil",
        "jmespath",
        "opentelemetry",
        "pydantic",
        "pydantic_core",
        "s3transfer",
        "six",
        "typing_extensions",
        "typing_inspection",
        "urllib3",
        "yaml",
    ]
)
"""The modules of boto3, OpenTelemetry's API, pydantic and PyYAML, and of their dependencies."""


def sources(*folders: str) -> Iterator[Path]:
    """The programs in these folders of the repository."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix == ".py" and not {"build", "__pycache__"} & set(path.parts):
                yield path


def imported(paths: Iterable[Path]) -> set[str]:
    """The top-level modules that programs import, or those of ``SHARED``, except Python's own and
    imports only for types."""
    found: set[str] = set()
    for path in paths:
        waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
        while waiting:
            node = waiting.pop()
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                waiting += node.orelse
                continue
            if isinstance(node, ast.Import):
                found.update(_module(alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                found.add(_module(node.module))
            waiting += ast.iter_child_nodes(node)
    return found - sys.stdlib_module_names


def _module(name: str) -> str:
    below = ".".join(name.split(".")[:2])
    return below if below in SHARED else name.partition(".")[0]


@cache
def providers() -> Mapping[str, list[str]]:
    """The distributions of each installed module."""
    return importlib.metadata.packages_distributions()


def distributions(modules: Iterable[str]) -> set[str]:
    """The distributions of modules; botocore comes with boto3, in the version that boto3 needs."""
    known = providers()
    found = set()
    for module in set(modules) - OUR_OWN - NOT_INSTALLED:
        names = {SHARED[module]} if module in SHARED else {name_of(name) for name in known[module]}
        found |= {"boto3"} if names == {"botocore"} else names
    return found


def declared(folder: str, extra: str = "") -> set[str]:
    """The distributions that a package declares, or those of the named extra."""
    project = pyproject(folder)["project"]
    listed = project["optional-dependencies"][extra] if extra else project["dependencies"]
    return {name_of(requirement) for requirement in listed}


def run_importing(only: bool, names: Iterable[str], *modules: str) -> None:
    """Import modules in a process that finds, besides Python's, only these top-level modules, or
    all except these."""
    done = subprocess.run(
        [sys.executable, "-c", ONLY, "only" if only else "but", ",".join(names), *modules],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("folder", "package"), [(LOCAL, LOCAL), (PIPES, PIPES)])
def test_a_wheel_names_each_of_its_packages(folder: str, package: str) -> None:
    listed = pyproject(folder)["tool"]["setuptools"]["packages"]
    there = {
        path.parent.relative_to(ROOT) for path in sources(folder) if path.name == "__init__.py"
    }
    assert listed == sorted(path.as_posix().replace("/", ".") for path in there)


@pytest.mark.parametrize("folder", [LOCAL, PIPES, CLIENT])
def test_a_wheel_holds_its_programs_and_nothing_else(folder: str, tmp_path: Path) -> None:
    folders = ["tenantry", "contracts", "containers"] if folder == CLIENT else [folder]
    expected = {path.relative_to(ROOT).as_posix() for path in sources(*folders)}
    if folder == CLIENT:  # the files that `tenantry new-workload` writes
        files = (ROOT / "containers").glob("*/workload.yaml")
        expected |= {path.relative_to(ROOT).as_posix() for path in files}
    assert files_of(build_wheel(folder, tmp_path)) == expected


@pytest.mark.parametrize("folder", [LOCAL, PIPES])
def test_a_wheel_declares_what_it_imports_and_nothing_else(folder: str) -> None:
    assert imported(sources(folder)) & OUR_OWN == {folder}
    needed = distributions(imported(sources(folder)))
    assert needed <= declared(folder)
    assert declared(folder) - needed <= set(WITHOUT_AN_IMPORT)


def test_the_extras_hold_what_their_rooms_import_and_nothing_else() -> None:
    base = declared(CLIENT)
    for extra, folders in ROOMS.items():
        paths = set(sources(*folders))
        if not extra:
            paths -= set(sources("tenantry/command_line", "tenantry/shown"))
            paths -= {ROOT / "tenantry/tracing/export.py"}
            # Capacity and the tables of results are the orchestrator's and the operator's.
            paths -= {*sources("tenantry/capacity"), ROOT / "tenantry/workloads/holidays.py"}
            paths -= {ROOT / "tenantry/batch/parquet_tables.py"}
        needed = distributions(imported(paths))
        here = declared(CLIENT, extra) - {"tenantry"} if extra else base
        assert needed <= base | here, extra
        more = here - needed - set(WITHOUT_AN_IMPORT)
        assert more <= (IN_THE_DAGSTER_PROCESS if extra == "dagster" else set()), extra
    # Clients that cannot share this environment have separate ones, in tests/clients.
    paths = set(sources("tests", "demo")) - set(sources("tests/clients"))
    # Many distributions share these two; tritonclient and sagemaker install them.
    needed = distributions(imported(paths) - {"google", "sagemaker"})
    everything = base.union(*(declared(CLIENT, extra) for extra in [*ROOMS, "dev"] if extra))
    assert needed <= everything


def test_what_weighs_most_is_only_where_it_is_used() -> None:
    extras = pyproject(CLIENT)["project"]["optional-dependencies"]
    where = {
        name: {extra for extra in extras if name in declared(CLIENT, extra)}
        for name in ("prophet", "sagemaker", "torch", "xgboost-cpu")
    }
    assert where == {
        "prophet": {"forecast"},
        "sagemaker": {"dev"},
        "torch": {"diffusion"},
        "xgboost-cpu": {"tabular"},
    }


def test_the_bare_client_needs_what_it_declares() -> None:
    assert declared(CLIENT) == {"boto3", "opentelemetry-api", "pydantic", "pyyaml"}
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in sources("tenantry")
        if "command_line" not in path.parts
    ]
    assert "tenantry.serving.client" in modules
    # The second gives energy's questions their moment.
    run_importing(
        True,
        {*BARE, "tenantry", "contracts", "containers"},
        *modules,
        "containers.forecast.stored_forecasts.starts",
    )


def test_the_extra_dagster_is_enough_for_dagsters_processes() -> None:
    others = ["local", "forecast", "diffusion", "tabular", "dev"]
    theirs = set().union(*(declared(CLIENT, extra) for extra in others))
    theirs -= declared(CLIENT) | declared(CLIENT, "dagster")
    known = providers()
    blocked = {
        module for module, names in known.items() if {name_of(name) for name in names} <= theirs
    }
    # dagster-webserver and boto3 install these.
    blocked -= {"uvicorn", "starlette", "httptools", "uvloop", "urllib3"}
    assert {"moto", "prophet", "torch", "xgboost"} <= blocked
    run_importing(
        False,
        {*blocked, "sagemaker"},
        "orchestration.definitions",
        "containers.forecast.consumption.preparation",
        "containers.forecast.serving.drift",
        "containers.forecast.serving.imported",
        "containers.example.preparation",
        "containers.example.drift",
        "containers.tabular.preparation",
        "containers.tabular.drift",
        "containers.diffusion.adapters.imported",
        "containers.diffusion.pictures.preparation",
        "containers.diffusion.pictures.previews",
    )


@pytest.mark.parametrize("package", ["tenantry", "pipes_sagemaker"])
def test_what_a_package_offers_is_there(package: str) -> None:
    module = importlib.import_module(package)
    assert sorted(module._WHERE) == module.__all__
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        _ = module.nothing_of_this_name


def test_errors_and_the_containers_half_of_pipes_load_no_dagster() -> None:
    blocked = ["dagster", "dagster_aws", "dagster_shared", "tenantry", "contracts", "containers"]
    run_importing(False, blocked, "pipes_sagemaker.errors", "pipes_sagemaker.container")


def test_the_command_line_says_what_to_install_where_it_is_missing() -> None:
    program = ONLY.replace("importlib.import_module(name)", "importlib.import_module(name).main()")
    done = subprocess.run(
        [sys.executable, "-c", program, "but", "click,rich", "tenantry.__main__"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "pip install 'tenantry[cli]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_readmes_show_a_quick_start_with_the_ministack_of_the_tests() -> None:
    pins = pyproject(CLIENT)["project"]["optional-dependencies"]["local"]
    (ministack,) = [pin for pin in pins if pin.startswith("ministack")]
    told = {folder: readme(folder) for folder in (LOCAL, PIPES)}
    assert told[LOCAL].installed == ("./local_sagemaker", ministack)
    assert told[PIPES].installed == ("./pipes_sagemaker", "./local_sagemaker", ministack)
    assert set(told[LOCAL].files) == {
        "containers/mean/train",
        "containers/mean/serve",
        "quick_start.py",
    }
    assert set(told[PIPES].files) == {"containers/halving/train", "quick_start.py"}
    for page in told.values():
        assert page.printed
        assert page.commands.rstrip().endswith("python quick_start.py")
        for path, text in page.files.items():
            compile(text, path, "exec")
