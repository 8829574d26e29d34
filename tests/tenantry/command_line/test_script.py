"""The installed script: its help, its exit statuses, and its search for a cloud."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
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


def run(
    *arguments: str, cwd: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AWS_", "TENANTRY_"))
    }
    return subprocess.run(
        [SCRIPT, *arguments],
        env={**kept, **variables},
        cwd=cwd,
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
    listed = "".join(shown.stdout.split())  # a line may end at a hyphen
    for name, command in tenantry.commands.items():
        first = re.split(r"(?<=\.)\s", str(command.help))[0].rstrip(".")
        assert "".join([name, *first.split()]) in listed


def test_the_script_reads_where_the_cloud_is_from_a_file(
    deployment: Deployment, local_cloud: LocalCloud, tmp_path: Path
) -> None:
    file = tmp_path / "environment"
    with environment.written(file, local_cloud.environment):
        assert environment.read(file) == local_cloud.environment
        found = run("status", "--json", TENANTRY_ENVIRONMENT=str(file))
        assert found.returncode == 0, found.stderr
        assert [one["workload"] for one in json.loads(found.stdout)["workloads"]] == [
            "churn",
            "energy",
            "portraits",
        ]
        missing = run("status", "--environment", str(file), TENANTRY_STACK="another")
        assert missing.returncode == 3
        assert "python -m infrastructure.deploy --stack another" in missing.stderr
    gone = run("status", TENANTRY_ENVIRONMENT=str(file))
    assert (gone.returncode, "start the local cloud with `make run`" in gone.stderr) == (3, True)


@pytest.fixture
def project(tmp_path: Path, local_cloud: LocalCloud) -> Iterator[Path]:
    """A folder with a running local cloud."""
    (tmp_path / ".tenantry").mkdir()
    with environment.written(tmp_path / ".tenantry" / "environment", local_cloud.environment):
        yield tmp_path


def test_the_local_cloud_of_a_folder_is_found_from_below_it(
    deployment: Deployment, project: Path
) -> None:
    below = project / "docs" / "pictures"
    below.mkdir(parents=True)
    found = run("requests", "energy", cwd=below)
    assert (found.returncode, found.stdout) == (0, "There are none.\n")
    assert found.stderr == f"The local cloud of {project}\n"
    # Variables of an AWS account mean that account.
    astray = {"AWS_ENDPOINT_URL_DYNAMODB": f"http://127.0.0.1:{free_port()}"}
    assert run("requests", "energy", "--local", cwd=below, **astray).returncode == 0
    named = run("requests", "energy", cwd=below, AWS_PROFILE="none-of-this-name")
    assert named.returncode == 3
    assert "none-of-this-name" in named.stderr
    assert run("requests", "energy", "--local", cwd=below, AWS_PROFILE="none").returncode == 0


def test_where_no_cloud_is_found_the_message_names_the_cure(project: Path) -> None:
    file = project / ".tenantry" / "environment"
    file.write_text(f"AWS_ENDPOINT_URL=http://127.0.0.1:{free_port()}\n")
    ended = run("status", cwd=project)
    assert (ended.returncode, "does not answer" in ended.stderr) == (3, True)
    assert "start the local cloud with `make run`" in ended.stderr
    file.unlink()
    alone = {"HOME": str(project), "AWS_EC2_METADATA_DISABLED": "true"}
    for command in ("status", "env"):
        nothing = run(command, cwd=project, **alone)
        assert nothing.returncode == 3
        assert "start the local cloud with `make run`" in nothing.stderr
    assert "Error: no local cloud runs in this folder" in run("status", cwd=project, **alone).stderr


def test_somebody_elses_file_is_not_used(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment.find(project / "docs") == project / ".tenantry" / "environment"
    user = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: user + 1)
    assert environment.find(project / "docs") is None


def test_env_points_a_shell_at_the_local_cloud(deployment: Deployment, project: Path) -> None:
    script = f'eval "$({SCRIPT} env)" && cd / && {SCRIPT} env --json && {SCRIPT} status --json'
    done = subprocess.run(
        ["sh", "-euc", script],
        env={"PATH": os.environ["PATH"], "AWS_SESSION_TOKEN": "of another", "HOME": "/nowhere"},
        cwd=project,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    pointed, status = map(json.loads, done.stdout.splitlines())
    assert pointed["local"] is True
    assert (
        pointed["variables"]["AWS_ENDPOINT_URL"]
        == environment.read(project / ".tenantry" / "environment")["AWS_ENDPOINT_URL"]
    )
    assert status["well"] is True


def test_a_folders_name_says_nothing_to_a_shell(tmp_path: Path, local_cloud: LocalCloud) -> None:
    file = tmp_path / "a\ntouch surprise\n" / "environment"
    file.parent.mkdir()
    with environment.written(file, local_cloud.environment):
        shown = run("env", "--environment", str(file), cwd=tmp_path).stdout
    assert shown.startswith("# The local cloud of ")
    assert {line.split()[0] for line in shown.splitlines()} == {"#", "unset", "export"}


def test_env_prints_no_secret_of_an_account(tmp_path: Path) -> None:
    secrets = {
        "AWS_ACCESS_KEY_ID": "AKIDOFANACCOUNT",
        "AWS_SECRET_ACCESS_KEY": "wJalr/secret",
        "AWS_SESSION_TOKEN": "token-of-it",
    }
    named = {"AWS_REGION": "eu-west-1", "TENANTRY_STACK": "it's ours"}
    shown = run("env", cwd=tmp_path, **secrets, **named)
    assert shown.returncode == 0, shown.stderr
    assert "The AWS account" in shown.stdout
    assert "export AWS_REGION=eu-west-1\n" in shown.stdout
    told = subprocess.run(
        ["sh", "-c", f'{shown.stdout}\nprintf %s "$TENANTRY_STACK"'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout == "it's ours"
    file = tmp_path / "environment"
    file.write_text("".join(f"{name}={value}\n" for name, value in secrets.items()))
    of_a_file = run("env", "--environment", str(file), cwd=tmp_path)
    assert of_a_file.returncode == 0, of_a_file.stderr
    for secret in secrets.values():
        assert secret not in shown.stdout + of_a_file.stdout


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
