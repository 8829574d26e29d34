"""Checks Dockerfiles by reading them. Without a build, it finds faults that would make a build fail
or differ from day to day."""

import ast
import fnmatch
import importlib.metadata
import os
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from infrastructure.set_up import LOCK, locked

ROOT = Path(__file__).resolve().parents[3]
DOCKERFILES = sorted((ROOT / "containers").glob("**/Dockerfile"), key=str)
# https://docs.docker.com/reference/dockerfile/
INSTRUCTIONS = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
]
# Modules that a base image provides, or whose absence gives an error with a cure.
NOT_INSTALLED = {"torch", "torch_neuronx", "triton_python_backend_utils", "bitsandbytes"}


@dataclass(frozen=True)
class Instruction:
    name: str
    words: list[str]

    @property
    def text(self) -> str:
        return " ".join(self.words)


def instructions(content: str) -> list[Instruction]:
    """The instructions of a Dockerfile: comments left out, continued lines joined."""
    lines = [line for line in content.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [
        Instruction(
            line.split()[0], shlex.split(line)[1:] if line.split()[0] != "RUN" else line.split()[1:]
        )
        for line in joined.splitlines()
        if line.strip()
    ]


def problems(content: str) -> list[str]:
    """The faults of a Dockerfile that is built from the repository's root."""
    parsed = instructions(content)
    found = [
        f"there is no instruction {each.name}" for each in parsed if each.name not in INSTRUCTIONS
    ]
    arguments: dict[str, str] = {}
    for each in parsed:
        match each.name:
            case "ARG":
                name, _, default = each.text.partition("=")
                arguments[name] = default
            case "FROM":
                image = re.sub(
                    r"\$\{(\w+)\}", lambda name: arguments.get(name[1], ""), each.words[0]
                )
                tag = image.rpartition("/")[2].partition(":")[2]
                if image != "scratch" and (not tag or tag == "latest"):
                    found.append(f"image {image!r} has no fixed tag")
            case "COPY" | "ADD":
                found += [
                    problem for source in each.words[:-1] for problem in _source_problems(source)
                ]
            case "RUN":
                found += _run_problems(each.text)
    if not parsed or not any(each.name == "FROM" for each in parsed):
        found.append("it begins with no image")
    return found


def _source_problems(source: str) -> list[str]:
    if not (ROOT / source).exists():
        return [f"{source} does not exist"]
    # The last pattern that matches decides
    # (https://docs.docker.com/build/concepts/context/#dockerignore-files).
    ignored = False
    for pattern in (ROOT / ".dockerignore").read_text().splitlines():
        if not pattern or pattern.startswith("#"):
            continue
        wanted = pattern.removeprefix("!")
        parents = [source, *(str(parent) for parent in Path(source).parents)]
        if any(fnmatch.fnmatch(path, wanted) for path in parents):
            ignored = not pattern.startswith("!")
    return [f"{source} is kept out by .dockerignore"] if ignored else []


def _run_problems(text: str) -> list[str]:
    found = []
    if "apt-get install" in text and not (
        "--no-install-recommends" in text and "/var/lib/apt/lists" in text
    ):
        found.append("apt-get leaves behind what nobody needs")
    for command in text.split("&&"):
        words = command.split()
        if "pip" not in words or "install" not in words:
            continue
        if "--no-cache-dir" not in words:
            found.append("pip leaves its cache in the image")
        rest = iter(words[words.index("install") + 1 :])
        for word in rest:
            if word in ("--requirement", "-r"):
                next(rest)
            elif not word.startswith("-") and "==" not in word:
                found.append(f"pip installs {word} in any version")
    return found


@pytest.mark.parametrize(
    "dockerfile", DOCKERFILES, ids=lambda path: str(path.parent.relative_to(ROOT))
)
def test_a_dockerfile_can_be_built_and_means_the_same_tomorrow(dockerfile: Path) -> None:
    assert problems(dockerfile.read_text()) == []


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("FROM python", "no fixed tag"),
        ("ARG IMAGE=a/b:latest\nFROM ${IMAGE}", "no fixed tag"),
        ("FROM registry:5000/python", "no fixed tag"),
        ("FROM a:1\nCOPPY a b", "no instruction COPPY"),
        ("FROM a:1\nCOPY containers/nothing /opt", "containers/nothing does not exist"),
        ("FROM a:1\nCOPY docs /opt", "kept out by .dockerignore"),
        ("FROM a:1\nRUN pip install --no-cache-dir \\\n  numpy", "numpy in any version"),
        ("FROM a:1\nRUN pip install numpy==1", "leaves its cache"),
        ("FROM a:1\nRUN apt-get update && apt-get install --yes git", "apt-get leaves"),
        ("# nothing", "begins with no image"),
    ],
)
def test_what_is_wrong_with_one_is_found(content: str, problem: str) -> None:
    assert problem in " ".join(problems(content))


@pytest.mark.parametrize(
    "dockerfile", DOCKERFILES, ids=lambda path: str(path.parent.relative_to(ROOT))
)
def test_an_image_serves_and_says_what_it_can(dockerfile: Path) -> None:
    parsed = instructions(dockerfile.read_text())
    (path,) = re.findall(
        r"PATH=/opt/program/(\S+):\$\{PATH\}", " ".join(e.text for e in parsed if e.name == "ENV")
    )
    # A folder of the image has the name of the repository's folder.
    assert any(e.name == "COPY" and f"/opt/program/{path}".startswith(e.words[-1]) for e in parsed)
    assert os.access(ROOT / path / "serve", os.X_OK)
    labels = {e.text for e in parsed if e.name == "LABEL"}
    assert "com.amazonaws.sagemaker.capabilities.accept-bind-to-port=true" in labels
    many = "com.amazonaws.sagemaker.capabilities.multi-models=true" in labels
    assert many == (dockerfile.parent.name != "triton"), (
        "Triton's model answers for all tenants of one endpoint"
    )


@pytest.mark.parametrize("container", ["forecast", "diffusion", "tabular", "example"])
def test_requirements_are_the_locked_ones(container: str) -> None:
    required = (ROOT / "containers" / container / "requirements.txt").read_text().splitlines()
    pins = {line.replace("_", "-") for line in required if line and not line.startswith("#")}
    assert len(pins) > 5
    assert pins <= {requirement.split()[0] for requirement in locked(LOCK.read_text()).values()}


def test_torch_is_the_locked_one() -> None:
    torch = locked(LOCK.read_text())["torch"].split()[0]
    diffusion = ROOT / "containers" / "diffusion"
    version = torch.removeprefix("torch==")
    assert f"pytorch/pytorch:{version}-" in (diffusion / "Dockerfile").read_text()
    assert f" {torch} " in (diffusion / "triton" / "Dockerfile").read_text()


@pytest.mark.parametrize("container", ["forecast", "diffusion", "tabular", "example"])
def test_what_a_container_imports_is_required(container: str) -> None:
    required = (
        (ROOT / "containers" / container / "requirements.txt").read_text().lower().replace("_", "-")
    )
    names = set(re.findall(r"^([a-z0-9-]+)==", required, re.MULTILINE))
    # botocore comes with boto3, in the version that boto3 takes.
    names |= {"botocore"} if "boto3" in names else set()
    distributions = importlib.metadata.packages_distributions()
    for module in sorted(
        _imports(ROOT / "containers" / container) | _imports_of_runtime(container)
    ):
        if module not in NOT_INSTALLED:
            providers = {name.lower().replace("_", "-") for name in distributions[module]}
            assert providers & names, f"{module} is imported and not in requirements.txt"


def _imports_of_runtime(container: str) -> set[str]:
    """Those of the runtime; the readers of uploaded tables only count where they are called."""
    sources = (ROOT / "containers" / container).rglob("*.py")
    tables = any("containers.runtime.tables" in path.read_text() for path in sources)
    rooms = ["archives", "serving", "training", *(["tables"] if tables else [])]
    return set().union(*(_imports(ROOT / "containers" / "runtime" / room) for room in rooms))


def _imports(folder: Path) -> set[str]:
    """Top-level modules, not Python's own, that the code of a folder imports at run time."""
    found: set[str] = set()
    for path in [*folder.rglob("*.py"), *folder.rglob("serve"), *folder.rglob("train")]:
        content = path.read_text()
        if content.startswith("#!/bin/sh"):
            continue
        found |= _runtime_imports(ast.parse(content))
    return found - set(sys.stdlib_module_names) - {"containers", "contracts"}


def _runtime_imports(node: ast.AST) -> set[str]:
    if (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
    ):
        return set()
    if isinstance(node, ast.Import):
        return {alias.name.partition(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        return {(node.module or "").partition(".")[0]}
    return set().union(*(_runtime_imports(child) for child in ast.iter_child_nodes(node)))
