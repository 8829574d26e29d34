"""The set-up without any installation: it reads pip's settings, reports an unsuitable Python, and
repairs a killed set-up. Also the locks that it installs."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from infrastructure import set_up
from infrastructure.lock import with_hashes
from infrastructure.set_up import CUDA_LOCK, LOCK, locked, pip_settings, uv_environment

ROOT = Path(__file__).resolve().parents[2]


def test_pips_settings_reach_uv() -> None:
    settings = pip_settings(
        "global.index-url='https://mirror.example/simple'\n"
        "global.extra-index-url='https://a.example/simple\\nhttps://b.example/simple'\n"
        "global.find-links='\\n/wheels\\n/more'\n"
        "global.constraint='/etc/constraints.txt'\n"
        "global.trusted-host='a.example b.example'\n"
        "global.cert='/etc/ca.pem'\n"
        "global.timeout='30'\n"
        "global.proxy='proxy.example:3128'\n"
    )

    assert uv_environment(settings, {}) == {
        "UV_DEFAULT_INDEX": "https://mirror.example/simple",
        "UV_INDEX": "https://a.example/simple https://b.example/simple",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": "/wheels,/more",
        "UV_CONSTRAINT": "/etc/constraints.txt",
        "UV_INSECURE_HOST": "a.example b.example",
        "SSL_CERT_FILE": "/etc/ca.pem",
        "UV_HTTP_TIMEOUT": "30",
        "ALL_PROXY": "http://proxy.example:3128",
    }


def test_no_settings_tell_uv_nothing() -> None:
    assert uv_environment(pip_settings(""), {}) == {}


def test_the_environment_overrides_the_command_and_that_the_files() -> None:
    settings = pip_settings(
        ":env:.find-links='/of-the-environment'\n"
        "global.find-links='/of-a-file'\n"
        "global.timeout='1'\n"
        "install.timeout='2'\n"
        "download.timeout='3'\n"
        "WARNING: something else=1\n"
    )

    assert settings == {"find-links": "/of-the-environment", "timeout": "2"}


def test_what_uv_was_told_itself_stays() -> None:
    settings = {"index-url": "https://mirror.example", "find-links": "/wheels", "cert": "/a.pem"}
    own = {"UV_INDEX_URL": "https://own.example", "SSL_CERT_FILE": "/b.pem"}

    assert uv_environment(settings, own) == {"UV_FIND_LINKS": "/wheels"}


@pytest.mark.parametrize(("value", "told"), [("1", True), ("true", True), ("false", False)])
def test_no_index_is_a_switch(value: str, told: bool) -> None:
    assert (uv_environment({"no-index": value}, {}) == {"UV_NO_INDEX": "1"}) is told


def test_pip_lists_its_settings_as_they_are_read(tmp_path: Path) -> None:
    file = tmp_path / "pip.conf"
    file.write_text("[global]\nfind-links =\n    /it's here\n    /more\n")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}

    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        env={**clean, "PIP_CONFIG_FILE": str(file), "PIP_TIMEOUT": "7"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    settings = pip_settings(listing)
    assert settings["find-links"].split("\n")[-2:] == ["/it's here", "/more"]
    assert settings["timeout"] == "7"


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 12, 1), (3, 13, 9)])
def test_a_python_that_fits_is_told_nothing(version: tuple[int, int, int]) -> None:
    assert set_up.wrong_python("python3", version) is None


@pytest.mark.parametrize(
    ("version", "kind"), [((3, 8, 18), "too old"), ((3, 10, 1), "too old"), ((3, 14, 0), "too new")]
)
def test_a_wrong_python_is_named_with_the_cure(version: tuple[int, int, int], kind: str) -> None:
    told = set_up.wrong_python("/usr/bin/python3", version)

    assert told is not None
    dotted = ".".join(map(str, version))
    assert f"/usr/bin/python3 is Python {dotted}, which is {kind}" in told
    assert "3.11, 3.12 or 3.13" in told
    assert "make setup PYTHON=python3.13" in told


def test_a_python_that_the_machine_has_is_the_cure() -> None:
    told = set_up.wrong_python("python3", (3, 9, 2), ["python3.12"])

    assert told is not None
    assert told.endswith("This machine has python3.12: make setup PYTHON=python3.12")


def test_a_wrong_python_makes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(set_up, "VERSIONS", ((2, 6), (2, 7)))

    assert set_up.main(["packages", str(tmp_path / "new")]) == 1

    assert "which is too new: Tenantry needs 2.6 or 2.7" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_make_names_a_missing_python(tmp_path: Path) -> None:
    for name in ("requirements.lock", "requirements-cuda.lock", "pyproject.toml", "Makefile"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())

    made = subprocess.run(
        ["make", "setup", "PYTHON=python-of-nobody"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert made.returncode != 0
    assert "python-of-nobody is missing or too old" in made.stdout + made.stderr
    assert "apt install python3 python3-venv" in made.stdout + made.stderr


def test_the_program_keeps_to_what_an_old_python_can_read() -> None:
    source = (ROOT / "infrastructure" / "set_up.py").read_text()

    ast.parse(source, feature_version=(3, 8))


class Commands:
    """Stands in for the set-up's processes, and records them."""

    def __init__(self, fail: str = "") -> None:
        self.run: list[list[str]] = []
        self._fail = fail

    def __call__(self, command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        self.run.append(command)
        failed = bool(self._fail) and self._fail in command
        if "venv" in command:
            (Path(command[-1]) / "bin").mkdir(parents=True, exist_ok=True)
        told = "3 11" if "-c" in command else "No module named ensurepip" if failed else ""
        return subprocess.CompletedProcess(command, int(failed), told, "")


def test_an_environment_without_its_mark_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = Commands(fail="install")
    monkeypatch.setattr(subprocess, "run", commands)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()

    set_up.main(["packages", str(tmp_path)])

    assert [sys.executable, "-m", "venv", "--clear", str(tmp_path)] in commands.run


def test_an_environment_that_was_finished_is_kept_and_loses_its_mark_while_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = Commands(fail="install")
    monkeypatch.setattr(subprocess, "run", commands)
    (tmp_path / "ready").touch()

    assert set_up.main(["packages", str(tmp_path)]) == 1

    assert not any("venv" in command for command in commands.run)
    assert not (tmp_path / "ready").exists()
    assert "pip could not install uv" in capsys.readouterr().err


def test_a_python_without_venv_is_named_with_the_package_that_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(subprocess, "run", Commands(fail="venv"))

    assert set_up.main(["packages", str(tmp_path)]) == 1

    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f"apt install python{version}-venv" in capsys.readouterr().err


def test_a_full_disk_is_told_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(set_up, "_NEEDS_BYTES", 2**63)

    assert set_up.main(["packages", str(tmp_path / "new")]) == 1

    assert "The disk is full" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("lock", [LOCK, CUDA_LOCK])
def test_a_lock_pins_each_package_with_hashes_and_names_no_place(lock: Path) -> None:
    text = lock.read_text()

    assert len(locked(text)) == text.count("==") > 10
    for requirement in locked(text).values():
        assert re.fullmatch(
            r"[a-z0-9-]+==[^\s]+( \\\n    --hash=sha256:[0-9a-f]{64})+", requirement
        )
    rest = [line for line in text.splitlines() if line.startswith(("-", "#"))]
    assert all(line.startswith("# ") for line in rest)
    assert "/" not in text.replace("\\", "")


def test_the_lock_has_what_the_project_names_and_uv() -> None:
    assert {"uv", "torch", "dagster", "setuptools", "pytest"} <= set(locked(LOCK.read_text()))
    assert not set(locked(LOCK.read_text())) & set(locked(CUDA_LOCK.read_text()))


def test_a_locks_hashes_come_together() -> None:
    one, other = "torch==2 \\\n    --hash=sha256:b", "torch==2+cpu \\\n    --hash=sha256:a"

    assert with_hashes(one, other, one) == (
        "torch==2 \\\n    --hash=sha256:a \\\n    --hash=sha256:b"
    )
