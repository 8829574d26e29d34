"""A base image of Debian's packages, for machines that reach no image registry."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from local_sagemaker.processes.launch import ImagesError

NAME: Final = "localhost/tenantry-base:bookworm"
_SUITE: Final = "bookworm"
"""The release of Debian with Python 3.11."""
_PACKAGES: Final = "python3,python3-pip,ca-certificates,libgomp1"
_OF_THIS_MACHINE: Final = (
    "etc/resolv.conf",
    "etc/hostname",
    "etc/apt/sources.list",
    "var/log",
    "var/cache/apt",
    "var/lib/apt/lists",
)
"""Files that debootstrap copies from this machine, or that name the mirror it used."""


def make_base(keeper: str, say: Callable[[str], None]) -> str:
    """Make the base image, unless `keeper` has it already; returns its name.

    Raises:
        ImagesError: debootstrap is missing or failed, or this is not root.
    """
    looked_for = ["docker", "image", "inspect", NAME]
    if keeper == "buildah":
        looked_for = ["buildah", "inspect", "--type", "image", NAME]
    if subprocess.run(looked_for, capture_output=True, check=False).returncode == 0:
        say(f"The base image {NAME} is here already")
        return NAME
    if shutil.which("debootstrap") is None:
        raise ImagesError(
            "--debootstrap needs the program: apt install debootstrap debian-archive-keyring"
        )
    if os.geteuid() != 0:
        raise ImagesError("debootstrap needs root: run the same with sudo.")
    with tempfile.TemporaryDirectory(prefix="base-") as folder:
        root = Path(folder) / "root"
        say(f"Making the base image {NAME} of Debian {_SUITE}'s packages")
        command = ["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", _SUITE, str(root)]
        _run([*command, *_mirror()])
        _forget_this_machine(root)
        _keep(keeper, root)
    return NAME


def _mirror() -> list[str]:
    """The address where this machine's apt finds Debian, so that a machine behind a mirror uses
    that one; empty where it is no Debian."""
    if shutil.which("apt-get") is None:
        return []
    command = ["apt-get", "indextargets", "--format", "$(SITE)"]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    found = [site.rstrip("/") for site in told.split()]
    return [site for site in found if site.endswith("/debian")][:1]


def _forget_this_machine(root: Path) -> None:
    for name in _OF_THIS_MACHINE:
        path = root / name
        if path.is_dir():
            shutil.rmtree(path)
            path.mkdir()
        else:
            path.unlink(missing_ok=True)
    # In a container pip alone manages Python.
    for marker in (root / "usr" / "lib").glob("python3*/EXTERNALLY-MANAGED"):
        marker.unlink()


def _keep(keeper: str, root: Path) -> None:
    """Make an image of a root folder."""
    if keeper == "docker":
        archive = root.parent / "root.tar"
        _run(["tar", "--create", "--file", str(archive), "--directory", str(root), "."])
        _run(["docker", "import", "--platform", "linux/amd64", str(archive), NAME])
        return
    container = _run(["buildah", "from", "scratch"]).strip()
    _run(["buildah", "copy", "--quiet", container, str(root), "/"])
    _run(["buildah", "commit", "--quiet", "--rm", container, NAME])


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        told = f"{done.stdout}\n{done.stderr}".strip()[-1000:]
        raise ImagesError(f"{command[0]} ended with {done.returncode}:\n{told}")
    return done.stdout
