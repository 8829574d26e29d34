"""Image building without a build: tags, base images, command lines, cures."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from infrastructure import base_image, images
from infrastructure.images import BuildError, build_command, tags
from local_sagemaker.processes.launch import ImagesError

ROOT = Path(__file__).resolve().parents[2]


def test_tags_are_those_of_the_workloads(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("{container: forecast, image_tag: '0.3.0'}")
    (tmp_path / "b.yaml").write_text(
        "{container: other, image_tag: '0.2.0', serving: {container: forecast}}"
    )
    assert tags("forecast", tmp_path) == ["0.2.0", "0.3.0"]
    assert tags("dagster", tmp_path) == ["0.1.0"]
    with pytest.raises(BuildError, match="give --tag"):
        tags("diffusion", tmp_path)


@pytest.mark.parametrize("name", images.IMAGES)
def test_a_command_line_builds_with_either(name: str) -> None:
    packages, wanted = Path("/packages"), [f"{name}:1", f"registry.example/{name}:1"]
    for keeper, beginning in (
        ("docker", ["docker", "buildx", "build", "--load", "--provenance=false"]),
        ("buildah", ["buildah", "build", "--isolation", "chroot", "--format", "docker"]),
    ):
        command = build_command(keeper, name, base="a/base:1", packages=packages, names=wanted)
        assert command[: len(beginning)] == beginning
        words = " ".join(command)
        assert "--build-context packages=/packages" in words
        assert "--build-arg BASE_IMAGE=a/base:1" in words
        assert f"--tag {name}:1 --tag registry.example/{name}:1" in words
        assert ("--build-arg TORCH=2." in words) is (name == "diffusion")


@pytest.mark.parametrize("name", images.IMAGES)
def test_a_dockerfile_takes_a_base_and_packages_and_has_a_user(name: str) -> None:
    content = (ROOT / images.IMAGES[name].dockerfile).read_text()
    assert images.base_of(name).startswith("public.ecr.aws/docker/library/python:3.11-")
    assert "FROM scratch AS packages\nFROM ${BASE_IMAGE}" in content
    assert "--mount=type=bind,from=packages,target=/run/packages" in content
    assert "useradd --uid 10001" in content
    entered = 'ENTRYPOINT ["/opt/program/containers/runtime/unprivileged"]' in content
    assert entered or re.search(r"^USER tenantry$", content, re.MULTILINE)


def test_what_is_copied_is_let_into_the_build() -> None:
    content = (ROOT / images.IMAGES["dagster"].dockerfile).read_text()
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for source in re.findall(r"^COPY (.+) \S+$", content, re.MULTILINE):
        for word in source.split():
            assert (ROOT / word).exists()
            assert f"!{word.partition('/')[0]}" in ignored


def test_the_entry_point_runs_its_command_as_the_user_it_is(tmp_path: Path) -> None:
    script = ROOT / "containers/runtime/unprivileged"
    assert os.access(script, os.X_OK)
    (tmp_path / "id").write_text("#!/bin/sh\necho 1000\n")  # as for a user other than root
    (tmp_path / "id").chmod(0o755)
    done = subprocess.run(
        [str(script), "sh", "-c", "echo ran; exit 7"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("ran\n", 7)


def test_an_image_without_a_command_runs_its_process_as_a_processing_job_starts_it(
    tmp_path: Path,
) -> None:
    for name, script in (("id", "echo 1000"), ("process", "echo processed $#; exit 3")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        [str(ROOT / "containers/runtime/unprivileged")],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("processed 0\n", 3)
    assert os.access(ROOT / "containers/forecast/process", os.X_OK)


def test_requirements_have_the_locks_hashes_and_the_compiled_version() -> None:
    lines = images._with_hashes("numpy==2.4.6\ntorch==2.13.0+cpu\n").splitlines()
    assert lines[0].startswith("numpy==2.4.6 --hash=sha256:")
    assert lines[1].startswith("torch==2.13.0+cpu --hash=sha256:")
    with pytest.raises(BuildError, match=r"not-locked==1\. Cure: make lock"):
        images._with_hashes("not-locked==1\n")


def test_a_base_that_cannot_be_pulled_is_told_with_the_cure(
    capfd: pytest.CaptureFixture[str],
) -> None:
    failing = (
        "print('Error: pinging container registry a.example: dial tcp: no such host'); exit(3)"
    )
    with pytest.raises(BuildError, match=r"could not be pulled.*--debootstrap"):
        images._run_build([sys.executable, "-c", failing], "forecast")
    assert "pinging container registry" in capfd.readouterr().err
    with pytest.raises(BuildError, match=r"ended with 3\). Its last lines"):
        images._run_build([sys.executable, "-c", "exit(3)"], "forecast")


def test_what_is_missing_is_told_and_nothing_is_built(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert images.main(["forecast"]) == 1
    assert "start docker's daemon, or install buildah" in capsys.readouterr().err
    (tmp_path / "buildah").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "buildah").chmod(0o755)
    assert images.main(["forecast", "--debootstrap"]) == 1
    assert "apt install debootstrap" in capsys.readouterr().err


def test_a_docker_that_cannot_build_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "docker").write_text('#!/bin/sh\ntest "$1" = version\n')
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert images.main(["forecast"]) == 1
    assert "install docker's plugin buildx" in capsys.readouterr().err


def test_an_unknown_image_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        images.parse_arguments(["forecats"])
    assert "there are forecast, diffusion, tabular, example, dagster" in capsys.readouterr().err


def test_a_base_of_debians_packages_forgets_this_machine(tmp_path: Path) -> None:
    for name in ("etc/resolv.conf", "etc/apt/sources.list", "var/lib/apt/lists/mirror_Packages"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mirror.example")
    marker = tmp_path / "usr/lib/python3.11/EXTERNALLY-MANAGED"
    marker.parent.mkdir(parents=True)
    marker.touch()
    base_image._forget_this_machine(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_debootstrap_wants_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("buildah", "debootstrap"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ImagesError, match="needs root"):
        base_image.make_base("buildah", print)
