"""The wheels that this repository builds, and the instructions of their READMEs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
LOCAL: Final = "local_sagemaker"
PIPES: Final = "pipes_sagemaker"
CLIENT: Final = "."
"""The folder that builds a distribution names it here."""

_LEFT_OUT: Final = shutil.ignore_patterns("__pycache__", "build", "*.egg-info", "*.safetensors")
_OF_THE_CLIENT: Final = ("tenantry", "contracts", "containers")
_BUILD: Final = "import sys; from setuptools.build_meta import build_wheel as b; b(sys.argv[1])"
_BLOCK: Final = re.compile(
    r"(?P<before>[^\n]*(?:\n[^\n]+)*)\n\n```(?P<kind>\w+)\n(?P<text>.*?)```\n", re.DOTALL
)
_FILE: Final = re.compile(r"`(containers/\w+/(?:train|serve)|\w+\.py)`")


def pyproject(folder: str) -> dict[str, Any]:
    """The ``pyproject.toml`` of a distribution."""
    return tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))


def name_of(requirement: str) -> str:
    """The distribution that a requirement names, in the spelling of an index."""
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def build_wheel(folder: str, below: Path) -> Path:
    """Build a wheel from a copy of its sources, because a build leaves files behind; it uses no
    network."""
    sources = below / "sources" / (folder if folder != CLIENT else "tenantry")
    if folder == CLIENT:
        for package in _OF_THE_CLIENT:
            shutil.copytree(ROOT / package, sources / package, ignore=_LEFT_OUT)
        for file in ("pyproject.toml", "README.md"):
            shutil.copyfile(ROOT / file, sources / file)
    else:
        shutil.copytree(ROOT / folder, sources, ignore=_LEFT_OUT)
    made = below / "dist" / sources.name
    made.mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-c", _BUILD, str(made)],
        cwd=sources,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = made.glob("*.whl")
    return wheel


def files_of(wheel: Path) -> set[str]:
    """The files in a wheel, without its metadata."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


@dataclass(frozen=True)
class ReadMe:
    """A README's instructions: packages to install, files to write, commands to run and output to
    expect."""

    installed: tuple[str, ...]
    files: dict[str, str]
    commands: str
    printed: str


def readme(folder: str) -> ReadMe:
    """The machine-readable parts of a distribution's README."""
    _, _, text = (
        (ROOT / folder / "README.md").read_text(encoding="utf-8").partition("\n## Install\n")
    )
    install, _, start = text.partition("\n## Quick start\n")
    start = start.partition("\n## ")[0]
    installed = [
        word
        for block in _BLOCK.finditer(install)
        if block["kind"] == "sh"
        for line in block["text"].splitlines()
        for word in line.removeprefix("pip install ").split()
    ]
    files, commands, printed = {}, [], []
    for block in _BLOCK.finditer(start):
        if block["kind"] == "python":
            (path,) = _FILE.findall(block["before"])
            files[path] = block["text"]
        elif block["kind"] == "sh":
            commands.append(block["text"])
        else:
            printed.append(block["text"])
    return ReadMe(tuple(installed), files, "\n".join(commands), "".join(printed))
