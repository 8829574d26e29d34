"""Help and errors of options come before any large import or process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LARGE = ("dagster", "boto3", "pandas", "rich", "PIL")
LOOK = f"""
import sys
import demo.__main__ as demo
try:
    demo.main()
except SystemExit as ended:
    print(ended.code, [name for name in {LARGE!r} if name in sys.modules])
"""


INTERRUPTED = """
import os, signal, sys
import demo.__main__ as demo

class AtTheImport:
    def find_spec(self, name, path=None, target=None):
        if name == "demo.run":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, AtTheImport())
sys.argv = ["demo"]
sys.exit(demo.main())
"""


def answered(*arguments: str) -> tuple[str, str]:
    """The last line of output, and the standard error."""
    done = subprocess.run(
        [sys.executable, "-c", LOOK, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout.splitlines()[-1], done.stderr


def test_help_needs_no_large_library() -> None:
    assert answered("--help")[0] == "0 []"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--tenants", "0"), "--tenants: it must be a whole number of at least 1, not '0'"),
        (("--tenants", "ten"), "--tenants: it must be a whole number of at least 1, not 'ten'"),
        (("--port", "70000"), "--port: it must be a whole number from 1 to 65535, not '70000'"),
        (("--data", "missing.csv"), "there is no file missing.csv"),
        (("--tennants", "1"), "unrecognized arguments: --tennants"),
    ],
)
def test_wrong_options_are_named_at_once(arguments: tuple[str, ...], said: str) -> None:
    ended, error = answered(*arguments)
    assert ended == "2 []"
    assert said in error


def test_ctrl_c_while_the_libraries_are_imported_is_no_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (130, "Stopped before anything was started.\n")


def test_make_refuses_a_variable_that_it_does_not_take() -> None:
    said = {}
    for given in ("PORTS=3001", "PORT=3001"):
        done = subprocess.run(
            ["make", "help", given],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        said[given] = (done.returncode, "There is no variable PORTS; `make help`" in done.stderr)
    assert said == {"PORTS=3001": (2, True), "PORT=3001": (0, False)}
