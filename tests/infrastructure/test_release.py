"""Releases: the workflow, and its steps against the local cloud's ECR."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
import yaml

from infrastructure import release
from infrastructure.deploy import deploy
from infrastructure.images import IMAGES
from infrastructure.local_cloud import LocalCloud
from infrastructure.release import ReleaseError
from local_sagemaker.processes.folders import Folders
from tenantry.aws.deployment import Deployment
from tenantry.aws.image_digests import ImageDigestsError, join_image_digests, parse_image_digests

ROOT = Path(__file__).resolve().parents[2]
WORKFLOW = ROOT / ".github/workflows/release.yml"
JOBS: Any = yaml.safe_load(WORKFLOW.read_text())["jobs"]
DIGEST = "sha256:" + "0123456789abcdef" * 4


def check_schema(file: Path) -> subprocess.CompletedProcess[str]:
    schema = ["--builtin-schema", "vendor.github-workflows"]
    command = [str(Path(sys.executable).parent / "check-jsonschema"), *schema, str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_workflow_is_valid_by_githubs_schema(tmp_path: Path) -> None:
    done = check_schema(WORKFLOW)
    assert done.returncode == 0, done.stdout
    broken = tmp_path / "release.yml"
    broken.write_text(WORKFLOW.read_text().replace("runs-on:", "run-on:"))
    assert check_schema(broken).returncode == 1


def test_no_action_or_image_is_named_by_what_can_change() -> None:
    text = WORKFLOW.read_text()
    assert "latest" not in text
    assert "secrets." not in text
    assert not re.search(r"\b\d{12}\b", text)  # an account
    used = [step["uses"] for job in JOBS.values() for step in job["steps"] if "uses" in step]
    assert used
    for each in used:
        assert re.fullmatch(r"[a-z-]+/[a-z-]+@[0-9a-f]{40}", each)


def test_nothing_is_deployed_before_every_image_passed() -> None:
    assert JOBS["deploy"]["needs"] == "image"
    assert JOBS["image"]["needs"] == "test"
    assert JOBS["image"]["strategy"]["matrix"]["image"] == list(IMAGES)
    steps = [step for job in JOBS.values() for step in job["steps"]]
    assert not any("continue-on-error" in step for step in steps)
    conditions = [step.get("if") for step in JOBS["image"]["steps"]]
    assert set(conditions) == {None, "matrix.image != 'diffusion'", "matrix.image == 'diffusion'"}


def run_steps(image: str, tools: Path) -> list[list[str]]:
    """Run the commands of the job `image` but Python's, with recorders in the place of the
    programs. Returns the command lines."""
    log, variables = tools / "log", tools / "variables"
    uri = "registry.example/tenantry/" + image
    for name in ("aws", "docker", "make"):
        answer = f'[ "$2" = describe-repositories ] && echo {uri}; exit 0'
        (tools / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {log}\n{answer}\n')
        (tools / name).chmod(0o755)
    variables.touch()
    given = {"IMAGE": image, "PREFIX": "tenantry", "CANDIDATE": "candidate-1-1"}
    for step in JOBS["image"]["steps"]:
        unmet = f"matrix.image {'!=' if image == 'diffusion' else '=='} 'diffusion'"
        if "run" not in step or step.get("if") == unmet or ".venv" in step["run"]:
            continue
        found = dict(line.split("=", 1) for line in variables.read_text().splitlines())
        environment = {"PATH": f"{tools}:/usr/bin:/bin", "GITHUB_ENV": str(variables)}
        subprocess.run(
            ["bash", "-euo", "pipefail", "-c", step["run"]],
            env={**environment, **given, **found},
            check=True,
        )
    return [line.split() for line in log.read_text().splitlines()]


@pytest.mark.parametrize("image", IMAGES)
def test_what_is_built_is_pushed_and_scanned(image: str, tmp_path: Path) -> None:
    commands = run_steps(image, tmp_path)
    pushed = f"registry.example/tenantry/{image}:candidate-1-1"
    assert ["docker", "push", pushed] in commands
    if image == "diffusion":
        (build,) = [words for words in commands if words[:3] == ["docker", "buildx", "build"]]
        assert pushed in build
        assert IMAGES[image].dockerfile in build
    else:
        made = (
            f"make images IMAGES={image} TAG=candidate-1-1 REPOSITORIES=registry.example/tenantry"
        )
        assert made.split() in commands


def test_the_steps_take_the_commands_that_there_are() -> None:
    variables = {"IMAGE": "dagster", "GITHUB_REF_NAME": "v0.1.0"}
    taken = []
    for job in JOBS.values():
        for step in job["steps"]:
            _, found, words = step.get("run", "").partition("infrastructure.release ")
            if found:
                line = re.sub(r"\$(\w+)", lambda each: variables.get(each[1], each[1]), words)
                taken.append(release._parse(shlex.split(line)).command)
    assert taken == ["check", "publish", "deploy"]


def test_a_tag_is_that_of_the_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = tmp_path / "pyproject.toml"
    project.write_text('[project]\nversion = "0.2.0"')
    assert release.version_of("v0.2.0", project) == "0.2.0"
    with pytest.raises(ReleaseError, match=r"v0\.3\.0 is not v0\.2\.0"):
        release.version_of("v0.3.0", project)
    assert release.main(["check", "--tag", "0.1.0"]) == 1
    assert "set version in pyproject.toml" in capsys.readouterr().err


def client_of_ecr(*scans: dict[str, Any]) -> Any:
    """A client of the local cloud's ECR; `scans` answer one after the other, as the local cloud
    has no scan, and the last one again."""
    ecr = boto3.client("ecr")
    left = list(scans)

    def answer(**_: Any) -> Any:
        found = left.pop(0) if len(left) > 1 else left[0]
        return SimpleNamespace(status_code=400 if "Error" in found else 200), found

    ecr.meta.events.register("before-call.ecr.DescribeImageScanFindings", answer)
    return ecr


def scan(status: str, **counts: int) -> dict[str, Any]:
    findings = {"findingSeverityCounts": counts}
    return {"imageScanStatus": {"status": status}, "imageScanFindings": findings}


NOT_BEGUN: dict[str, Any] = {"Error": {"Code": "ScanNotFoundException", "Message": ""}}


def push(tag: str, content: str, repository: str = "tenantry/forecast") -> str:
    pushed = boto3.client("ecr").put_image(
        repositoryName=repository, imageTag=tag, imageManifest=json.dumps({"of": content})
    )
    return str(pushed["image"]["imageId"]["imageDigest"])


def tags_of(repository: str) -> set[str]:
    images = boto3.client("ecr").describe_images(repositoryName=repository)["imageDetails"]
    return {tag for image in images for tag in image["imageTags"]}


def test_a_scanned_image_gets_the_releases_tag(
    empty_cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy()
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    digest = push("candidate-1", "one")
    ecr = client_of_ecr(NOT_BEGUN, scan("IN_PROGRESS"), scan("COMPLETE", HIGH=3))
    for _ in range(2):  # a release that is run again
        assert release.publish(ecr, "tenantry/forecast", "candidate-1", "0.1.0") == digest
    assert tags_of("tenantry/forecast") == {"candidate-1", "0.1.0"}
    push("candidate-2", "two")
    with pytest.raises(ReleaseError, match=r"forecast:0\.1\.0 is another image"):
        release.publish(ecr, "tenantry/forecast", "candidate-2", "0.1.0")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (scan("COMPLETE", CRITICAL=2, HIGH=1), "has 2 critical findings"),
        (scan("UNSUPPORTED_IMAGE"), "did not scan .*UNSUPPORTED_IMAGE"),
        (scan("IN_PROGRESS"), "did not end in 0 s"),
        (NOT_BEGUN, "did not end in 0 s"),
    ],
    ids=["critical", "unsupported", "too long", "never begun"],
)
def test_an_image_without_a_good_scan_gets_no_tag(
    empty_cloud: LocalCloud, answer: dict[str, Any], reason: str
) -> None:
    deploy()
    push("candidate-1", "one")
    with pytest.raises(ReleaseError, match=reason):
        release.publish(
            client_of_ecr(answer), "tenantry/forecast", "candidate-1", "0.1.0", timeout=0.0
        )
    assert tags_of("tenantry/forecast") == {"candidate-1"}


def test_a_release_is_deployed_by_digests(
    empty_cloud: LocalCloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deploy()
    pushed = {name: push("0.1.0", name, f"tenantry/{name}") for name in list(IMAGES)[1:]}
    assert release.main(["deploy", "--tag", "v0.1.0"]) == 1
    assert "no image tenantry/forecast:0.1.0" in capsys.readouterr().err
    assert Deployment.from_stack().image_digests == {}

    pushed["forecast"] = push("0.1.0", "forecast")
    assert release.main(["deploy", "--tag", "v0.1.0"]) == 0
    deploy()  # an update of the stack alone keeps them
    found = Deployment.from_stack()
    assert found.image_digests == {f"{name}:0.1.0": digest for name, digest in pushed.items()}
    for name, digest in pushed.items():
        assert found.image(name, "0.1.0") == f"{found.image_repositories}/{name}@{digest}"
    folders = Folders(ROOT / "containers", tmp_path)  # the local cloud runs it by that name
    program = folders.program(found.image("forecast", "0.1.0"), "train", None, ())
    assert program.image == str(ROOT / "containers/forecast")
    assert found.image("forecast", "0.0.9") == f"{found.image_repositories}/forecast:0.0.9"


def test_digests_are_read_as_they_are_written_or_refused() -> None:
    digests = {"forecast:0.1.0": DIGEST, "my-own.model:v1_2": DIGEST}
    assert parse_image_digests(join_image_digests(digests)) == digests
    assert parse_image_digests("") == {}
    for wrong in ("forecast:0.1.0", f"forecast={DIGEST}", f"forecast:0.1.0={DIGEST[:-1]}"):
        with pytest.raises(ImageDigestsError, match="is no digest of an image"):
            parse_image_digests(f"{join_image_digests(digests)},{wrong}")
    with pytest.raises(ImageDigestsError, match=r"forecast:0\.1\.0 has two digests"):
        parse_image_digests(f"forecast:0.1.0={DIGEST},forecast:0.1.0={DIGEST}")
