"""Starting and reaching a container from an image, with stand-ins for docker and buildah."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from local_sagemaker.__main__ import parse_arguments
from local_sagemaker.processes import images
from local_sagemaker.processes.images import (
    BuildahImages,
    DockerImages,
    account,
    engine,
    images_here,
)
from local_sagemaker.processes.launch import ImageNotFoundError, ImagesError

URI = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/tenantry/forecast:0.1.0"


class Tools:
    """Programs in a separate PATH, which record their calls."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._log = folder / "calls"
        folder.mkdir()

    def add(self, name: str, script: str) -> None:
        program = self.folder / name
        program.write_text(f'#!/bin/sh\necho "{name} $*" >> "{self._log}"\n{script}\n')
        program.chmod(0o755)

    def calls(self) -> Sequence[str]:
        return self._log.read_text().splitlines() if self._log.exists() else []


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tools:
    made = Tools(tmp_path / "bin")
    for name in ("unshare", "mount"):
        made.add(name, "exit 0")
    for name in ("sh", "cat"):
        (made.folder / name).symlink_to(f"/bin/{name}")
    monkeypatch.setenv("PATH", str(made.folder))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return made


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The root folder of a container."""
    folder = tmp_path / "root"
    (folder / "etc").mkdir(parents=True)
    (folder / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nplain:x:1234:1235::/home/plain:/bin/sh\n"
    )
    (folder / "etc/group").write_text("root:x:0:\nstaff:x:50:\n")
    return folder


def buildah(tools: Tools, root: Path, config: Mapping[str, object]) -> None:
    inspected = root.parent / "inspected.json"
    inspected.write_text(json.dumps({"FromImageID": "1d", "OCIv1": {"config": config}}))
    tools.add(
        "buildah",
        f'case "$1 $4" in "inspect forecast:0.1.0" | "inspect 1d") cat {inspected};; '
        f"inspect*) exit 1;; mount*) echo {root};; esac",
    )


def test_docker_is_taken_where_its_daemon_answers(tools: Tools, tmp_path: Path) -> None:
    tools.add("buildah", "exit 0")
    tools.add("docker", "exit 1")
    assert engine() == "buildah"
    assert isinstance(images_here(tmp_path), BuildahImages)
    tools.add("docker", "exit 0")
    assert engine() == "docker"
    assert isinstance(images_here(tmp_path), DockerImages)


def test_without_either_the_cure_is_told(tools: Tools) -> None:
    tools.add("docker", "exit 1")
    with pytest.raises(ImagesError, match="start docker's daemon, or install buildah"):
        engine()


def test_buildah_wants_root(tools: Tools, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ImagesError, match="as root"):
        BuildahImages(tmp_path)


def test_buildahs_container_is_a_root_folder_that_is_entered(
    tools: Tools, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {
        "User": "plain",
        "Env": ["PATH=/opt/program:/bin", "COLOUR=red"],
        "Entrypoint": ["/opt/enter"],
        "WorkingDir": "/opt/program",
    }
    buildah(tools, root, config)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_CA_BUNDLE", "/of/this/machine.pem")
    here = BuildahImages(tmp_path / "state")

    program = here.program(URI, "serve", None, ())
    launch = here.launch(program, tmp_path / "ml", {"COLOUR": "blue"}, "token")

    assert program.command == ("/opt/enter", "serve")
    unshare, mount, shell = (str(tools.folder / name) for name in ("unshare", "mount", "sh"))
    assert launch.command[:4] == (unshare, "--mount", shell, "-c")
    place = (unshare, mount, str(root), "/opt/program", "1234", "1235", str(tmp_path / "ml"))
    assert launch.command[5:] == (*place, "/opt/enter", "serve")
    assert launch.environment == {
        **launch.environment,
        "PATH": "/opt/program:/bin",
        "COLOUR": "blue",
        "HOME": "/home/plain",
        "SAGEMAKER_BASE_DIR": "/opt/ml",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
    }
    assert not {"AWS_CA_BUNDLE", "PYTHONUNBUFFERED"} & set(launch.environment)
    assert (root / "opt/ml").is_dir()
    assert here.path_inside(tmp_path / "ml", tmp_path / "ml/models/x") == "/opt/ml/models/x"
    here.remove("token")
    assert tools.calls()[-1].startswith("buildah rm local-sagemaker-")


def test_an_entry_point_of_the_request_takes_the_images_place(
    tools: Tools, root: Path, tmp_path: Path
) -> None:
    buildah(tools, root, {"Entrypoint": ["/opt/enter"]})
    here = BuildahImages(tmp_path)
    assert here.program(URI, "train", ["python3", "x.py"], ["--now"]).command == (
        *("python3", "x.py"),
        "--now",
    )


def test_a_processing_job_runs_the_entry_point_of_the_image_itself(
    tools: Tools, root: Path, tmp_path: Path
) -> None:
    """Its CMD is replaced by the request's arguments, as docker does."""
    here = BuildahImages(tmp_path)
    buildah(tools, root, {"Entrypoint": ["/opt/enter"], "Cmd": ["--slowly"]})
    assert here.program(URI, None, None, ()).command == ("/opt/enter", "--slowly")
    assert here.program(URI, None, None, ["--now"]).command == ("/opt/enter", "--now")
    buildah(tools, root, {})
    with pytest.raises(ImagesError, match="neither ENTRYPOINT nor CMD"):
        here.program(URI, None, None, ())
    tools.add("docker", 'case "$*" in *" forecast:0.1.0") echo sha256:1d;; image*) exit 1;; esac')
    docker = DockerImages(tmp_path)
    assert docker.program(URI, None, None, ()).command == ("sha256:1d",)
    assert docker.program(URI, None, None, ["--now"]).command == ("sha256:1d", "--now")


def test_an_image_that_is_not_here_is_named(tools: Tools, root: Path, tmp_path: Path) -> None:
    buildah(tools, root, {})
    with pytest.raises(ImageNotFoundError, match="'other:1'; build it here first"):
        BuildahImages(tmp_path).program("a/other:1", "train", None, ())
    tools.add("docker", "exit 1")
    with pytest.raises(ImageNotFoundError, match="docker has neither it nor 'other:1'"):
        DockerImages(tmp_path).program("a/other:1", "train", None, ())


def test_an_images_link_cannot_lead_out_of_it(tools: Tools, root: Path, tmp_path: Path) -> None:
    buildah(tools, root, {})
    (root / "opt").symlink_to(tmp_path)
    here = BuildahImages(tmp_path)
    with pytest.raises(ImagesError, match="/opt/ml is a link"):
        here.launch(here.program(URI, "train", None, ()), tmp_path / "ml", {}, "token")


@pytest.mark.parametrize(
    ("user", "found"),
    [
        ("plain", (1234, 1235, "/home/plain")),
        ("1234", (1234, 1235, "/home/plain")),
        ("plain:staff", (1234, 50, "/home/plain")),
        ("7", (7, 0, "/")),
        ("7:8", (7, 8, "/")),
        ("0", (0, 0, "/root")),
    ],
)
def test_a_user_is_the_images(root: Path, user: str, found: tuple[int, int, str]) -> None:
    assert account(root, user) == found


@pytest.mark.parametrize("user", ["nobody", "plain:nobody"])
def test_a_user_that_the_image_does_not_have_is_told(root: Path, user: str) -> None:
    with pytest.raises(ImagesError, match="nobody"):
        account(root, user)


def test_dockers_client_stands_for_its_container(
    tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools.add("docker", 'case "$*" in *" forecast:0.1.0") echo sha256:1d;; image*) exit 1;; esac')
    monkeypatch.setenv("DOCKER_HOST", "unix:///elsewhere.sock")
    here = DockerImages(tmp_path / "state")

    program = here.program(URI, "train", None, ["--now"])
    launch = here.launch(program, tmp_path / "ml", {"SECRET": "of the job"}, "token")

    assert program.command == ("sha256:1d", "train", "--now")
    assert here.program(URI, "train", ["sh", "-c"], ["x"]).command == (
        *("--entrypoint", "sh", "sha256:1d"),
        *("-c", "x"),
    )
    words = " ".join(launch.command)
    assert words.endswith("sha256:1d train --now")
    assert "--network=host" in words
    assert "--pull=never" in words
    assert f"--volume {tmp_path}/ml:/opt/ml" in words
    assert "--env SECRET" in words
    assert "of the job" not in words
    assert launch.environment["SECRET"] == "of the job"
    assert launch.environment["DOCKER_HOST"] == "unix:///elsewhere.sock"
    assert launch.signal is not None
    for number in (signal.SIGSTOP, signal.SIGCONT, signal.SIGKILL):
        launch.signal(number)
    assert [call.split()[1] for call in tools.calls()[-3:]] == ["pause", "unpause", "kill"]


@pytest.mark.parametrize("words", [[], ["--images", "--containers", "x"]])
def test_containers_come_from_one_place(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(["--port", "1", "--state", "x", *words])
    assert "--containers, or say --images" in capsys.readouterr().err


def test_the_emulator_does_not_start_without_docker_and_buildah(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "local_sagemaker", "--port", "1", "--account-id", "1" * 12]
    done = subprocess.run(
        [*command, "--state", str(tmp_path / "state"), "--images"],
        env={**os.environ, "PATH": str(tmp_path)},
        cwd=Path(images.__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.strip().startswith("Images need docker or buildah")
