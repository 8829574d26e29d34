"""The installed script: its help, its exit statuses, and where it finds a cloud."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from infrastructure.local_cloud import LocalCloud, free_port
from tenantry.aws.deployment import Deployment
from tenantry.command_line import environment
from tenantry.command_line.environment import NoLocalCloudError
from tenantry.command_line.main import tenantry

SCRIPT = str(Path(sys.executable).parent / "tenantry")


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AWS_", "TENANTRY_"))
    }
    return subprocess.run(
        [SCRIPT, *arguments],
        env={**kept, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_every_command_has_help_with_an_example() -> None:
    for name in tenantry.commands:
        result = CliRunner().invoke(tenantry, [name, "--help"], prog_name="tenantry")
        assert result.exit_code == 0
        assert f"  tenantry {name}" in result.output, name
        assert "--json" in result.output


_ASK_ALL = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from tenantry.command_line.main import tenantry
heavy = {"boto3", "botocore", "dagster", "numpy", "pandas", "pydantic", "rich", "torch"}
ended = []
for arguments in json.load(sys.stdin):
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        try:
            tenantry(arguments, prog_name="tenantry")
        except SystemExit as end:
            ended.append([arguments, end.code, sorted(heavy & set(sys.modules))])
json.dump(ended, sys.stdout)
"""


def test_help_and_wrong_options_import_nothing_heavy() -> None:
    helps = [["--help"], *([name, "--help"] for name in tenantry.commands)]
    wrong = [["no-such-command"], ["--nothing"], ["status", "--nothing"], ["tenant", "No Tenant"]]
    done = subprocess.run(
        [sys.executable, "-c", _ASK_ALL],
        input=json.dumps([*helps, *wrong]),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    expected = [[asked, 0, []] for asked in helps] + [[asked, 2, []] for asked in wrong]
    assert json.loads(done.stdout) == expected


def test_the_help_lists_every_command_with_its_whole_first_sentence() -> None:
    shown = run("--help", COLUMNS="60")
    assert shown.returncode == 0
    assert "Exit status:" in shown.stdout
    assert "…" not in shown.stdout
    assert "..." not in shown.stdout.replace("[ARGS]...", "")
    listed = " ".join(shown.stdout.split())
    for name, command in tenantry.commands.items():
        first = re.split(r"(?<=\.)\s", str(command.help))[0].rstrip(".")
        assert f"{name} {' '.join(first.split())}" in listed


def test_the_script_reads_where_the_cloud_is_from_a_file(
    deployment: Deployment, local_cloud: LocalCloud, tmp_path: Path
) -> None:
    file = tmp_path / "environment"
    with environment.written(file, local_cloud.environment):
        assert environment.read(file) == local_cloud.environment
        found = run("status", "--json", TENANTRY_ENVIRONMENT=str(file))
        assert found.returncode == 0, found.stderr
        assert [one["workload"] for one in json.loads(found.stdout)["workloads"]] == [
            "energy",
            "portraits",
        ]
        missing = run("status", "--environment", str(file), TENANTRY_STACK="another")
        assert missing.returncode == 3
        assert "python -m infrastructure.deploy --stack another" in missing.stderr
    gone = run("status", TENANTRY_ENVIRONMENT=str(file))
    assert (gone.returncode, "start one with `make run`" in gone.stderr) == (3, True)


def test_a_cloud_that_ended_is_told_at_once_and_not_after_an_sdks_retries(tmp_path: Path) -> None:
    file = tmp_path / "environment"
    nowhere = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}"}
    with (
        environment.written(file, nowhere),
        pytest.raises(NoLocalCloudError, match="does not answer"),
    ):
        environment.use(file)
    assert not file.exists()


def test_it_is_watched_until_ctrl_c(deployment: Deployment) -> None:
    process = subprocess.Popen(
        [SCRIPT, "status", "energy", "--watch", "--every", "1", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    seen = [json.loads(process.stdout.readline()) for _ in range(2)]
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (0, "")
    assert seen[0]["at"] < seen[1]["at"]


@given(
    variables=st.dictionaries(
        st.from_regex(r"(AWS|TENANTRY)_[A-Z0-9_]{1,60}", fullmatch=True),
        st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=500),
        max_size=8,
    )
)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, variables: dict[str, str]
) -> None:
    file = tmp_path_factory.getbasetemp() / "environment"
    with environment.written(file, variables):
        assert environment.read(file) == variables


@pytest.mark.parametrize(
    "content",
    [
        b"PATH=/bin\n",
        b"AWS_REGION\n",
        b"AWS_REGION=a b\n",
        b"\xff\xfe\n",
        b"AWS_X=" + b"y" * 20_000 + b"\n",
    ],
)
def test_a_file_that_is_no_environment_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "environment"
    file.write_bytes(content)
    with pytest.raises(NoLocalCloudError, match="line 1: not NAME=value"):
        environment.read(file)
    with (
        pytest.raises(ValueError, match="cannot stand in an environment file"),
        environment.written(file, {"PATH": "x"}),
    ):
        pass
