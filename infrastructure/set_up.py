"""Make the environment `.venv`: ``python3 infrastructure/set_up.py``, which `make setup` runs.

It runs before anything is installed, with any Python that the machine has. So it needs the standard
library only, and even a Python too old for the project can run it to report that.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
LOCK: Final = ROOT / "requirements.lock"
CUDA_LOCK: Final = ROOT / "requirements-cuda.lock"

VERSIONS: Final = ((3, 11), (3, 12), (3, 13))
"""The versions of Python that the lock installs on."""

_NEEDS_BYTES: Final = 4 * 1024**3  # the packages take 2.5 GB, and as much while they unpack

_INDEX_CURE: Final = (
    "If the package index cannot be reached, see to the network, or tell pip of a proxy or a "
    "mirror (`pip config set global.index-url …`): the set-up tells uv what pip's settings say."
)
_DISK_CURE: Final = "The disk is full. Free some of it: `uv cache prune` or `pip cache purge` may."


class SetUpError(Exception):
    """Why the environment could not be made, and the cure."""


def wrong_python(python: str, version: Sequence[int], others: Sequence[str] = ()) -> str | None:
    """The message about a Python that the project does not run on; None if it does.

    ``others`` are names of commands on this machine that would do.
    """
    if tuple(version[:2]) in VERSIONS:
        return None
    kind = "too old" if tuple(version[:2]) < VERSIONS[0] else "too new"
    names = [_dotted(each) for each in VERSIONS]
    told = (
        f"{python} is Python {_dotted(version[:3])}, which is {kind}: "
        f"Tenantry needs {', '.join(names[:-1])} or {names[-1]}."
    )
    if others:
        return f"{told}\nThis machine has {others[0]}: make setup PYTHON={others[0]}"
    return (
        f"{told}\nInstall one of them beside it and name it: make setup PYTHON=python{names[-1]}\n"
        "(Debian 12 and 13 and Ubuntu 24.04 have one: apt install python3 python3-venv)"
    )


def pip_settings(listing: str) -> Mapping[str, str]:
    """The settings that hold for `pip install`, from what `pip config list` prints.

    The section of the command overrides the global one, and the environment overrides both.
    """
    sections: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for line in listing.splitlines():
        key, equals, value = line.partition("=")
        section, _, name = key.rpartition(".")
        if equals and section in sections:
            sections[section][name.replace("_", "-")] = str(ast.literal_eval(value))
    return {name: value for section in sections.values() for name, value in section.items()}


def uv_environment(settings: Mapping[str, str], own: Mapping[str, str]) -> Mapping[str, str]:
    """uv's environment variables for pip's ``settings``.

    They travel in the environment because an index's address may hold a password, which everyone
    on the machine could read among a process's arguments. Settings of uv's that ``own``, the
    environment, already has stay as they are.
    """
    found: dict[str, str] = {}

    def tell(setting: str, variable: str, *older: str, between: str = " ") -> None:
        # pip separates several values by any white space, and so do its files of several lines.
        if settings.get(setting, "").strip() and not any(
            name in own for name in (variable, *older)
        ):
            found[variable] = between.join(settings[setting].split())

    tell("index-url", "UV_DEFAULT_INDEX", "UV_INDEX_URL")
    tell("extra-index-url", "UV_INDEX", "UV_EXTRA_INDEX_URL")
    tell("find-links", "UV_FIND_LINKS", between=",")
    tell("constraint", "UV_CONSTRAINT")
    tell("trusted-host", "UV_INSECURE_HOST")
    tell("cert", "SSL_CERT_FILE")
    tell("client-cert", "SSL_CLIENT_CERT")
    tell("default-timeout", "UV_HTTP_TIMEOUT")
    tell("timeout", "UV_HTTP_TIMEOUT")
    tell("retries", "UV_HTTP_RETRIES")
    if settings.get("no-index", "").lower() in ("1", "true", "yes", "on", "y", "t"):
        tell("no-index", "UV_NO_INDEX")
        found.update({"UV_NO_INDEX": "1"} if "UV_NO_INDEX" in found else {})
    if "keyring-provider" in settings and settings["keyring-provider"] == "subprocess":
        tell("keyring-provider", "UV_KEYRING_PROVIDER")
    proxies = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY")
    tell("proxy", "ALL_PROXY", *proxies, *map(str.lower, proxies))
    if "://" not in found.get("ALL_PROXY", "://"):
        found["ALL_PROXY"] = f"http://{found['ALL_PROXY']}"
    if "UV_INDEX" in found and "UV_INDEX_STRATEGY" not in own:
        # uv looks for a package in the first index that has any version of it. pip takes the
        # version that fits from any index; the lock's hashes hold in both.
        found["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    return found


def locked(lock: str) -> Mapping[str, str]:
    """Each package of a lock, with its requirement and hashes as the lock has them."""
    blocks = re.findall(r"^[A-Za-z0-9](?:.*\\\n)*.*", lock, re.MULTILINE)
    return {block.partition("==")[0]: block for block in blocks}


class SetUp:
    """The steps that make one environment."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._python = folder / "bin" / "python"
        self._uv = folder / "bin" / "uv"
        self._ready = folder / "ready"

    def packages(self) -> None:
        """Install the packages of the lock."""
        if not self._usable():
            self._make()
        # If the following steps are interrupted, the environment does not count as whole.
        with contextlib.suppress(FileNotFoundError):
            self._ready.unlink()
        wanted = locked(LOCK.read_text())
        self._fetch_uv(wanted["uv"])
        environment = self._environment()
        _say(f"Installing {len(wanted)} packages")
        self._run_uv(["sync", str(LOCK)], environment)
        # A CUDA build of torch needs libraries that a CPU build does not. torch's own metadata
        # names them; if all are there, nothing is installed here.
        constraints = [CUDA_LOCK, *environment.get("UV_CONSTRAINT", "").split()]
        options = [word for file in constraints for word in ("--constraint", str(file))]
        self._run_uv(["install", *options, wanted["torch"].split()[0]], environment)
        self._compile()
        self._ready.touch()

    def project(self) -> None:
        """Install the project itself, so that `tenantry` is there."""
        options = ["--no-deps", "--no-build-isolation", "--editable"]
        self._run_uv(["install", *options, str(ROOT)], self._environment())
        (self._folder / "bin" / "tenantry").touch()

    def _usable(self) -> bool:
        """Whether a set-up once finished this environment, on a Python that fits and still runs."""
        return self._ready.exists() and _version(str(self._python), "import pip") in VERSIONS

    def _make(self) -> None:
        version = sys.version_info[:3]
        told = wrong_python(sys.executable, version, () if version[:2] in VERSIONS else _others())
        if told is not None:
            raise SetUpError(told)
        if shutil.disk_usage(str(self._folder.parent)).free < _NEEDS_BYTES:
            raise SetUpError(f"{_DISK_CURE} The packages need 4 GiB.")
        _say(f"Making {self._folder.name} with Python {_dotted(version)}")
        made = _output([sys.executable, "-m", "venv", "--clear", str(self._folder)])
        if made.returncode != 0:
            raise SetUpError(
                f"{made.stdout.strip()}\n{sys.executable} could not make an environment. "
                "If it lacks venv or ensurepip: "
                f"apt install python{_dotted(version[:2])}-venv"
            )

    def _environment(self) -> dict[str, str]:
        """The variables for uv: the environment, pip's settings, and its way to take files over."""
        environment = dict(os.environ)
        listing = _output([str(self._python), "-m", "pip", "config", "list"]).stdout
        environment.update(uv_environment(pip_settings(listing), os.environ))
        if "UV_LINK_MODE" not in environment and self._cache_is_elsewhere():
            environment["UV_LINK_MODE"] = "copy"  # uv would warn that it cannot link across disks
        return environment

    def _cache_is_elsewhere(self) -> bool:
        cache = Path(_output([str(self._uv), "cache", "dir"]).stdout.strip())
        while not cache.exists():
            cache = cache.parent
        return cache.stat().st_dev != self._folder.stat().st_dev

    def _fetch_uv(self, requirement: str) -> None:
        """Install the lock's version of uv by pip, which every Python brings."""
        version = requirement.split()[0].partition("==")[2]
        if self._uv.exists() and _output([str(self._uv), "--version"]).stdout.split()[1] == version:
            return
        _say(f"Fetching uv {version}")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "uv.txt"
            file.write_text(f"{requirement}\n")
            # Its warnings, which -qq leaves out, name each index that does not have uv.
            options = ["-qq", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
            command = [str(self._python), "-m", "pip", "install", *options, "-r", str(file)]
            if subprocess.run(command, check=False).returncode != 0:
                raise SetUpError(f"pip could not install uv {version}. {_INDEX_CURE}")

    def _run_uv(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        command, *rest = arguments
        process = subprocess.Popen(
            [str(self._uv), "pip", command, "--python", str(self._python), *rest],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            told = _show(process.stderr or ())
        if process.returncode != 0:
            full = "No space left" in told
            raise SetUpError(_DISK_CURE if full else f"uv could not install. {_INDEX_CURE}")

    def _compile(self) -> None:
        """Compile all but tests, on all cores, where Python is told not to write compiled files.

        Otherwise it would compile all imports at each start. Elsewhere it does so once.
        """
        if not sys.dont_write_bytecode:
            return
        _say("Compiling")
        (packages,) = (self._folder / "lib").glob("python*/site-packages")
        # Some packages hold a file in another Python's syntax, which is never imported, so a fault
        # there is no failure.
        options = ["-j", "0", "-x", "/tests?/"]
        process = subprocess.Popen(
            [str(self._python), "-m", "compileall", *options, str(packages)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        with process:
            compiled = 0
            for line in process.stdout or ():
                compiled += line.startswith("Compiling ")
                if compiled % 2000 == 0 and line.startswith("Compiling "):
                    _pass(f"{compiled} files")
        _say(f"{_start()}  Compiled {compiled} files")


def _show(lines: Iterable[str]) -> str:
    """Show uv's output, as it comes, without its list of installed packages.

    Returns the whole output.
    """
    said = []
    for line in lines:
        said.append(line)
        if re.match(r" [-+~] |Using |Checked |Audited ", line):
            continue
        if re.match(r" *(Downloading|Downloaded|Building|Built) ", line):
            _pass(line.strip())
        else:
            _say(f"{_start()}  {line.rstrip()}")
    return "".join(said)


def _start() -> str:
    """The beginning of a line that replaces a passing one."""
    return "\r\x1b[K" if sys.stderr.isatty() else ""


def _pass(line: str) -> None:
    """Print a line that the next one may replace, at a terminal."""
    width = shutil.get_terminal_size().columns - 3
    sys.stderr.write(f"{_start()}  {line[:width]}{'' if sys.stderr.isatty() else chr(10)}")
    sys.stderr.flush()


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _dotted(version: Sequence[int]) -> str:
    return ".".join(str(part) for part in version)


def _output(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )


def _version(python: str, also: str = "pass") -> tuple[int, ...] | None:
    """Major and minor version of a Python; None if it does not run, or cannot do ``also``."""
    code = f"{also}; import sys; print(*sys.version_info[:2])"
    try:
        told = _output([python, "-c", code])
    except OSError:
        return None
    return tuple(map(int, told.stdout.split())) if told.returncode == 0 else None


def _others() -> list[str]:
    """The commands of this machine that run a Python that fits, newest first."""
    names = [f"python{_dotted(version)}" for version in reversed(VERSIONS)]
    return [name for name in names if _version(name, "import ensurepip") in VERSIONS]


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the environment; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("part", choices=["packages", "project"])
    parser.add_argument("folder", type=Path)
    asked = parser.parse_args(arguments)
    set_up = SetUp(asked.folder.resolve())
    try:
        if asked.part == "packages":
            set_up.packages()
        else:
            set_up.project()
    except SetUpError as error:
        _say(f"\n{error}")
        return 1
    except KeyboardInterrupt:
        _say("\nInterrupted. The next `make setup` makes the environment anew.")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
