"""Environments of clients that cannot share this project's, because they pin another botocore or
many other packages."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

_FOLDER = Path(__file__).resolve().parents[2] / ".tenantry" / "clients"


def python_of(client: str) -> Path:
    """The Python of an environment with the packages of `requirements-{client}.txt`, created once
    for each content of that file."""
    requirements = Path(__file__).with_name(f"requirements-{client}.txt")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]
    folder = _FOLDER / f"{client}-{version}-{digest}"
    _FOLDER.mkdir(parents=True, exist_ok=True)
    with (_FOLDER / f"{client}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes
        if not (folder / "ready").exists():
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
            pip = [
                str(folder / "bin" / "python"),
                "-m",
                "pip",
                "--quiet",
                "--disable-pip-version-check",
            ]
            subprocess.run(
                [*pip, "install", "--no-deps", "--requirement", str(requirements)], check=True
            )
            (folder / "ready").touch()
    return folder / "bin" / "python"
