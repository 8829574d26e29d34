"""Reads the blocks of a page of the documentation, and runs its commands."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

_LEFT_OUT: Final = ("make ", "export ", "eval ")


def blocks(page: Path, *markers: str) -> Iterator[tuple[str, str]]:
    """A page's code blocks in order: their language ("" for none) and their text. Each marker
    appears in its place with an empty text."""
    block = re.compile("|".join([r"^```(\w*)\n(.*?)^```", *map(re.escape, markers)]), re.M | re.S)
    for found in block.finditer(page.read_text()):
        yield (found[0], "") if found[2] is None else (found[1], found[2])


def run_commands(block: str, environment: Mapping[str, str]) -> str:
    """The output of a block's commands. It skips commands that start the demo or change the shell;
    the test provides their effects."""
    said = ""
    for line in block.splitlines():
        command = line.removeprefix("$ ")
        if command.startswith(_LEFT_OUT):
            continue
        done = subprocess.run(
            ["bash", "-c", command],
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        said += done.stdout + done.stderr
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return said
