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
        (("--tenants", "0"), "--tenants must be at least 1"),
        (("--port", "70000"), "--port must be between 1 and 65535"),
        (("--data", "missing.csv"), "there is no file missing.csv"),
        (("--tennants", "1"), "unrecognized arguments: --tennants"),
    ],
)
def test_wrong_options_are_named_at_once(arguments: tuple[str, ...], said: str) -> None:
    ended, error = answered(*arguments)
    assert ended == "2 []"
    assert said in error
