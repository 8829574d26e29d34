"""Folders instead of images: an image's name selects a folder, whose `train` or `serve` runs."""

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from local_sagemaker.processes.launch import (
    OPT_ML,
    ImageNotFoundError,
    Launch,
    Program,
    last_component,
)
from local_sagemaker.processes.usage import folder_bytes

_PROBE_SECONDS = 10.0
_ETC_HOSTS = Path("/etc/hosts")
_HOSTS = 100
"""How many hosts of a training job have names. AWS's training toolkit waits until they resolve."""


class Folders:
    """The containers folder."""

    clean_up: tuple[str, ...] = ()

    def __init__(self, containers: Path, state: Path) -> None:
        self._containers = containers
        self._in_own_opt_ml = own_opt_ml(state.resolve(), containers)

    def program(
        self, image: str, command: str | None, entry: Sequence[str] | None, arguments: Sequence[str]
    ) -> Program:
        """`train` or `serve` in the folder of an image, or `entry`, the request's entry point.
        `process` stands for the entry point of the image itself. Raises ImageNotFoundError."""
        folder = self._folder(image)
        if entry is not None:
            return Program(str(folder), (*entry, *arguments))
        executable = folder / (command or "process")
        if not os.access(executable, os.X_OK) or not executable.is_file():
            raise ImageNotFoundError(
                f"image {image!r}: {executable} does not exist or is not executable"
            )
        return Program(str(folder), (str(executable), *arguments))

    def _folder(self, image: str) -> Path:
        """`123456789012.dkr.ecr.eu-west-1.amazonaws.com/team/forecast:3` is
        `{containers}/forecast`."""
        name = last_component(image).partition("@")[0].partition(":")[0]
        folder = self._containers / name
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or not folder.is_dir():
            raise ImageNotFoundError(
                f"image {image!r}: there is no folder {name!r} in the containers folder "
                f"{self._containers}"
            )
        return folder

    def image_bytes(self, image: str) -> int:
        """See ContainerImages: the size of the image's folder."""
        return folder_bytes(self._folder(image))

    def launch(
        self,
        program: Program,
        base: Path,
        environment: Mapping[str, str],
        token: str,  # noqa: ARG002 - a process leaves nothing to remove
    ) -> Launch:
        """A process on this machine, with this Python first in its PATH.

        The emulator does not read a Dockerfile's ENV. It therefore sets PYTHONUNBUFFERED, as nearly
        every Dockerfile does.
        """
        kept = {
            name: os.environ[name]
            for name in os.environ
            if name.startswith("AWS_") or name in ("HOME", "LANG", "LC_ALL", "TMPDIR", "TZ")
        }
        path = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
        beginning = (*self._in_own_opt_ml, str(base)) if self._in_own_opt_ml else ()
        return Launch(
            (*beginning, *program.command),
            Path(program.image),
            {
                **kept,
                "PATH": os.pathsep.join(path),
                "PYTHONUNBUFFERED": "1",
                **environment,
                "SAGEMAKER_BASE_DIR": str(base),
            },
        )

    def path_inside(self, base: Path, path: Path) -> str:  # noqa: ARG002 - the same for any base
        """The container's path of a file of its base, which equals the host's."""
        return str(path)

    def remove(self, token: str) -> None:
        """Do nothing, because a process leaves nothing."""


def own_opt_ml(state: Path, containers: Path) -> list[str]:
    """The beginning of a command line that mounts its next argument, a folder, at `/opt/ml` for the
    rest of the command. There, the names `algo-1` and so on resolve to the loopback address.

    In a separate mount namespace, only the container sees its folder and the names. That requires
    root, or user namespaces and a folder `/opt/ml`. The result is empty where this machine allows
    neither; programs then find their folder only through SAGEMAKER_BASE_DIR, and no such name.
    """
    tools = {name: shutil.which(name) for name in ("unshare", "mount", "sh")}
    if None in tools.values() or any(path.is_relative_to(OPT_ML) for path in (state, containers)):
        return []
    with contextlib.suppress(OSError):
        OPT_ML.mkdir(parents=True, exist_ok=True)
    bind = f'"{tools["mount"]}" --bind'
    script = f'{bind} "$0" {OPT_ML} && '
    if _ETC_HOSTS.is_file():
        hosts = state / "hosts"
        names = "".join(f"127.0.0.1 algo-{number}\n" for number in range(1, _HOSTS + 1))
        hosts.write_text(f"{_ETC_HOSTS.read_text()}\n{names}")
        script += f"{bind} {shlex.quote(str(hosts))} {_ETC_HOSTS} && "
    script += 'exec "$@"'
    for namespaces in (["--mount"], ["--user", "--map-root-user", "--mount"]):
        beginning = [str(tools["unshare"]), *namespaces, str(tools["sh"]), "-c", script]
        try:
            tried = subprocess.run(
                [*beginning, str(state), "true"],
                capture_output=True,
                timeout=_PROBE_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        if tried.returncode == 0:
            return beginning
    return []
