"""Write `requirements.lock` and `requirements-cuda.lock` from `pyproject.toml`: `make lock`.

A locked package keeps its version, as long as it fits, unless an upgrade is asked for.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from infrastructure.set_up import CUDA_LOCK, LOCK, ROOT, locked, pip_settings, uv_environment

_CUDA: Final = re.compile(r"(cuda|nvidia)-|triton$")
"""The packages that a CUDA build of torch needs."""

_HEAD: Final = "# Written by `make lock`, from pyproject.toml.\n"
_CUDA_HEAD: Final = (
    f"{_HEAD}# What torch needs beside requirements.lock where it is a CUDA build.\n"
)

_PLATFORM: Final = ("--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28")
_PLAIN: Final = ("--generate-hashes", "--no-header", "--no-annotate", "--quiet")

# An index with a few files of a version would give the lock the hashes of these few only.
_PARTIAL: Final = ("UV_INDEX", "UV_FIND_LINKS", "UV_CONSTRAINT")


def with_hashes(requirement: str, *others: str) -> str:
    """A requirement with the hashes that it and ``others``, the same in other locks, have."""
    found = sorted({each for text in (requirement, *others) for each in _hashes(text)})
    return " \\\n    ".join([requirement.split()[0], *found])


def _hashes(requirement: str) -> list[str]:
    return re.findall(r"--hash=\S+", requirement)


def _same_release(one: str, other: str) -> bool:
    """Whether both are of one version, even if one is a local build of it (`2.13.0+cpu`)."""
    return one.split()[0].partition("+")[0] == other.split()[0].partition("+")[0]


def _compile(arguments: Sequence[str], environment: Mapping[str, str], before: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "lock.txt"
        output.write_text(before)  # uv keeps the versions that it finds there
        subprocess.run(
            ["uv", "pip", "compile", *_PLAIN, *arguments, "--output-file", str(output)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            check=True,
        )
        return output.read_text()


def write(upgrades: Sequence[str]) -> None:
    """Write both locks; ``upgrades`` are uv's options that say which packages may change their
    version."""
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    folder = str(Path(sys.executable).parent)
    environment = {**os.environ, **uv_environment(pip_settings(listing), os.environ)}
    environment["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"
    whole = {name: value for name, value in environment.items() if name not in _PARTIAL}

    before = LOCK.read_text() + CUDA_LOCK.read_text()
    arguments = [*_PLATFORM, "--extra", "dev", *upgrades, "pyproject.toml"]
    packages = dict(locked(_compile(arguments, whole, before)))

    # torch has more files than that index shows: CPU builds, at indexes that pip's settings name.
    with tempfile.TemporaryDirectory() as folder:
        only = Path(folder) / "torch.txt"
        only.write_text(packages["torch"].split()[0])
        local = _compile([*_PLATFORM, "--no-deps", str(only)], environment, "")
    others = [locked(text).get("torch", "torch==0") for text in (before, local)]
    torch = packages["torch"]
    packages["torch"] = with_hashes(torch, *(each for each in others if _same_release(torch, each)))

    for path, head, cuda in ((LOCK, _HEAD, False), (CUDA_LOCK, _CUDA_HEAD, True)):
        kept = [text for name, text in packages.items() if bool(_CUDA.match(name)) is cuda]
        path.write_text(head + "".join(f"{text}\n" for text in kept))


def main() -> None:
    """Write both locks, as the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--upgrade", action="store_true", help="take the newest of everything")
    parser.add_argument("packages", nargs="*", help="take the newest of these")
    asked = parser.parse_args()
    options = [f"--upgrade-package={name}" for name in asked.packages]
    write([*options, *(["--upgrade"] if asked.upgrade else [])])


if __name__ == "__main__":
    main()
