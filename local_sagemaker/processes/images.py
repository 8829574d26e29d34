"""Containers from images that docker or buildah stores on this machine.

Containers of both share this machine's network. They reach servers on its loopback interface like
any process. Images are never pulled: only images built or loaded on this machine run.
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from local_sagemaker.processes.launch import (
    OPT_ML,
    ContainerImages,
    ImageNotFoundError,
    ImagesError,
    Launch,
    Program,
    last_component,
)

_SECONDS = 300.0
"""Time limit of one command; buildah's driver vfs copies a whole image for each container."""
_OF_FILES = {
    "AWS_CA_BUNDLE",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
}
"""Variables of AWS's SDKs that name files of this machine; images do not have these files."""
_CURE = (
    "start docker's daemon, or install buildah and run as root (Debian and Ubuntu: apt install "
    "buildah)"
)
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""docker's default PATH, for an image that sets none."""
_ENTER = """\
mount=$1 root=$2 work=$3 user=$4 group=$5 base=$6; shift 6
for folder in proc sys dev; do "$mount" --rbind "/$folder" "$root/$folder" || exit 125; done
"$mount" --bind "$base" "$root/opt/ml" || exit 125
exec "$0" --root="$root" --wd="$work" --setgid="$group" --setuid="$user" -- "$@"
"""
"""Runs in a separate mount namespace, so that its mounts end with the container."""

_SIZE_UNITS = {"B": 1, "bytes": 1, "KB": 1e3, "kB": 1e3, "MB": 1e6, "GB": 1e9}


def engine() -> str:
    """`docker` where its daemon answers, otherwise `buildah`. Raises ImagesError where neither is
    available."""
    if shutil.which("docker") and _run("docker", "version", check=False).returncode == 0:
        return "docker"
    if shutil.which("buildah"):
        return "buildah"
    raise ImagesError(f"Images need docker or buildah, and neither is usable here: {_CURE}.")


def images_here(state: Path) -> ContainerImages:
    """The images of this machine's `engine`. Raises ImagesError."""
    if engine() == "docker":
        return DockerImages(state)
    return BuildahImages(state)


class BuildahImages:
    """Images that buildah stores. A container is a separate root folder, entered by chroot.

    `buildah run` is not used, because on SIGTERM it ends a container with SIGKILL.
    """

    def __init__(self, state: Path) -> None:
        tools = {name: shutil.which(name) for name in ("unshare", "mount", "sh")}
        if os.geteuid() != 0 or None in tools.values():
            raise ImagesError(
                "Containers from buildah's images need root, and util-linux's unshare and mount: "
                "run local_sagemaker as root, or start docker's daemon."
            )
        self._unshare, self._mount, self._sh = (str(tool) for tool in tools.values())
        self._prefix = f"local-sagemaker-{_digest(state)}-"
        script = (
            f"buildah containers --quiet --filter name={self._prefix} | xargs -r buildah rm "
            f">/dev/null"
        )
        self.clean_up: tuple[str, ...] = (self._sh, "-c", script)

    def program(
        self, image: str, command: str | None, entry: Sequence[str] | None, arguments: Sequence[str]
    ) -> Program:
        """See ContainerImages."""
        for name in (image, last_component(image)):
            found = _run("buildah", "inspect", "--type", "image", name, check=False)
            if found.returncode == 0:
                image_id = str(json.loads(found.stdout)["FromImageID"])
                config = self._config(image_id)
                words = (command,) if command else () if arguments else config.get("Cmd") or ()
                before = entry or (*(config.get("Entrypoint") or ()), *words)
                if not before and not arguments:
                    raise ImagesError(f"the image {image!r} has neither ENTRYPOINT nor CMD")
                return Program(image_id, (*before, *arguments))
        raise _not_found(image, "buildah")

    def image_bytes(self, image: str) -> int:
        """See ContainerImages. buildah tells a rounded size, such as `1.05 GB`."""
        image_id = self.program(image, "serve", None, ()).image
        for one in json.loads(_run("buildah", "images", "--json", "--no-trunc").stdout):
            if str(one["id"]).removeprefix("sha256:") == image_id.removeprefix("sha256:"):
                number, unit = str(one["size"]).split()
                return round(float(number) * _SIZE_UNITS[unit])
        raise _not_found(image, "buildah")

    def _config(self, image: str) -> dict[str, Any]:
        inspected = json.loads(_run("buildah", "inspect", "--type", "image", image).stdout)
        config: dict[str, Any] = inspected["OCIv1"]["config"]
        return config

    def launch(
        self, program: Program, base: Path, environment: Mapping[str, str], token: str
    ) -> Launch:
        """See ContainerImages."""
        config = self._config(program.image)
        name = self._prefix + token
        _run("buildah", "from", "--pull=never", "--name", name, program.image)
        root = Path(_run("buildah", "mount", name).stdout.strip())
        for folder in ("proc", "sys", "dev", "etc", "opt/ml"):
            _own_folder(root, folder)
        for file in ("hosts", "resolv.conf"):
            (root / "etc" / file).unlink(missing_ok=True)
            if (source := Path("/etc") / file).exists():
                shutil.copyfile(source, root / "etc" / file)
        user, group, home = account(root, config.get("User") or "0")
        given = dict(each.split("=", 1) for each in config.get("Env") or ())
        work = config.get("WorkingDir") or "/"
        enter = (self._unshare, "--mount", self._sh, "-c", _ENTER, self._unshare, self._mount)
        place = (str(root), work, str(user), str(group), str(base))
        return Launch(
            (*enter, *place, *program.command),
            Path("/"),
            {"PATH": _PATH, "HOME": home, **given, **_inside(environment)},
        )

    def path_inside(self, base: Path, path: Path) -> str:
        """See ContainerImages."""
        return _below_opt_ml(base, path)

    def remove(self, token: str) -> None:
        """See ContainerImages."""
        _run("buildah", "rm", self._prefix + token, check=False)


class DockerImages:
    """Images that docker stores. The command line is docker's client, which runs as long as its
    container and forwards SIGTERM."""

    def __init__(self, state: Path) -> None:
        self._docker = shutil.which("docker") or "docker"
        self._name = f"local-sagemaker-{_digest(state)}"
        script = (
            f"docker ps --all --quiet --filter label={self._name} | xargs -r docker rm --force "
            f">/dev/null"
        )
        self.clean_up: tuple[str, ...] = (shutil.which("sh") or "sh", "-c", script)

    def program(
        self, image: str, command: str | None, entry: Sequence[str] | None, arguments: Sequence[str]
    ) -> Program:
        """See ContainerImages. docker itself puts the image's entry point before the command."""
        for name in (image, last_component(image)):
            found = _run("docker", "image", "inspect", "--format", "{{.Id}}", name, check=False)
            if found.returncode == 0:
                image_id = found.stdout.strip()
                if entry is None:
                    words = (command,) if command else ()
                    return Program(image_id, (image_id, *words, *arguments))
                first, *rest = entry
                return Program(image_id, ("--entrypoint", first, image_id, *rest, *arguments))
        raise _not_found(image, "docker")

    def image_bytes(self, image: str) -> int:
        """See ContainerImages."""
        image_id = self.program(image, "serve", None, ()).image
        return int(_run("docker", "image", "inspect", "--format", "{{.Size}}", image_id).stdout)

    def launch(
        self, program: Program, base: Path, environment: Mapping[str, str], token: str
    ) -> Launch:
        """See ContainerImages. Values of variables pass through the client's environment, because
        every user can read its arguments."""
        name = f"{self._name}-{token}"
        inside = _inside(environment)
        command = [
            *(self._docker, "run", "--rm", "--pull=never", "--network=host"),
            *("--name", name, "--label", self._name, "--volume", f"{base}:{OPT_ML}"),
            *(word for variable in inside for word in ("--env", variable)),
        ]
        own = {key: os.environ[key] for key in os.environ if key in ("HOME", "PATH")}
        own |= {key: os.environ[key] for key in os.environ if key.startswith("DOCKER_")}

        def send(number: signal.Signals) -> None:
            words = {signal.SIGSTOP: "pause", signal.SIGCONT: "unpause"}
            _run("docker", words.get(number, "kill"), name, check=False)

        return Launch((*command, *program.command), base, {**own, **inside}, send)

    def path_inside(self, base: Path, path: Path) -> str:
        """See ContainerImages."""
        return _below_opt_ml(base, path)

    def remove(self, token: str) -> None:
        """See ContainerImages. `--rm` removes every container except one whose client was
        killed."""
        _run("docker", "rm", "--force", f"{self._name}-{token}", check=False)


def account(root: Path, user: str) -> tuple[int, int, str]:
    """User id, group id and home of a Dockerfile's USER: `name`, `1000`, `name:group`.

    Names are those of the image below `root`. Raises ImagesError for an unknown name.
    """
    name, _, group = user.partition(":")
    people = [row for row in _rows(root / "etc" / "passwd") if len(row) == 7]
    row = next((row for row in people if name in (row[0], row[2])), None)
    if row is None and not name.isdigit():
        raise ImagesError(f"the image's user {name!r} is not in its /etc/passwd")
    identity, group_id, home = (int(row[2]), int(row[3]), row[5]) if row else (int(name), 0, "/")
    if group:
        groups = _rows(root / "etc" / "group")
        found = next((each[2] for each in groups if group in (each[0], each[2])), group)
        if not found.isdigit():
            raise ImagesError(f"the image's group {group!r} is not in its /etc/group")
        group_id = int(found)
    return identity, group_id, home


def _rows(file: Path) -> list[list[str]]:
    if not file.is_file() or file.is_symlink():
        return []
    rows = [line.split(":") for line in file.read_text(errors="replace").splitlines()]
    return [row for row in rows if len(row) >= 4]


def _own_folder(root: Path, name: str) -> None:
    """Create a folder of an image, unless a link in the image leads elsewhere. Raises
    ImagesError."""
    folder = root / name
    if folder.resolve() != root.resolve() / name:
        raise ImagesError(f"the image's /{name} is a link, which a container cannot have here")
    folder.mkdir(parents=True, exist_ok=True)


def _inside(environment: Mapping[str, str]) -> dict[str, str]:
    """A container's variables besides its image's: AWS's settings of this process, `environment`,
    and the location of `/opt/ml`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name.startswith("AWS_") and name not in _OF_FILES
    }
    return {**kept, **environment, "SAGEMAKER_BASE_DIR": str(OPT_ML)}


def _below_opt_ml(base: Path, path: Path) -> str:
    return str(OPT_ML / path.relative_to(base))


def _digest(state: Path) -> str:
    return hashlib.sha256(str(state.resolve()).encode()).hexdigest()[:16]


def _not_found(image: str, keeper: str) -> ImageNotFoundError:
    return ImageNotFoundError(
        f"image {image!r}: {keeper} has neither it nor {last_component(image)!r}; build it here "
        f"first"
    )


def _run(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """A command of docker or buildah. Raises ImagesError."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ImagesError(f"{' '.join(command)} did not end in {_SECONDS:.0f} s") from error
    if check and done.returncode != 0:
        raise ImagesError(f"{' '.join(command[:2])} failed: {done.stderr.strip()[-500:]}")
    return done
