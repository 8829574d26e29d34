"""Build the project's images, with docker or without it: ``python -m infrastructure.images``, which
`make images` runs.

docker builds where its daemon answers, else buildah, which needs no daemon. The packages are
fetched beforehand by pip on this machine, and verified by the lock. So a build sees nothing of
pip's settings, and no address, password or certificate of theirs can stay in an image.
"""

from __future__ import annotations

import argparse
import collections
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from infrastructure.base_image import make_base
from infrastructure.set_up import CUDA_LOCK, LOCK, ROOT, locked, pip_settings, uv_environment
from local_sagemaker.processes.images import engine
from local_sagemaker.processes.launch import ImagesError

PYTHON: Final = "3.11"
"""The Python of the base images."""
_GLIBC: Final = 36
"""Debian bookworm's glibc is 2.36; wheels for it and for older ones run there."""
_UNREACHABLE: Final = re.compile(
    r"pinging container registry|initializing source|failed to resolve source|"
    r"failed to do request|dial tcp|pull access denied|no such host"
)
"""The messages of buildah and docker when a base image cannot be pulled."""


class BuildError(Exception):
    """Why an image was not built, and the cure."""


@dataclass(frozen=True)
class Image:
    """One image: its Dockerfile, the place of its requirements, and packages beyond those."""

    dockerfile: str
    requirements: tuple[str, ...]
    further: tuple[str, ...] = ()

    def needed(self) -> Mapping[str, str]:
        """The further packages' locked versions, by name."""
        lock = locked(LOCK.read_text())
        return {name: lock[name].split()[0].partition("==")[2] for name in self.further}


IMAGES: Final[Mapping[str, Image]] = {
    "forecast": Image("containers/forecast/Dockerfile", ("containers/forecast/requirements.txt",)),
    "diffusion": Image(
        "containers/diffusion/Dockerfile", ("containers/diffusion/requirements.txt",), ("torch",)
    ),
    "tabular": Image("containers/tabular/Dockerfile", ("containers/tabular/requirements.txt",)),
    "example": Image("containers/example/Dockerfile", ("containers/example/requirements.txt",)),
    "dagster": Image(
        "infrastructure/dagster.Dockerfile",
        ("pyproject.toml", "--extra", "dagster", "--extra", "tracing"),
        ("setuptools",),  # it builds the project itself
    ),
}
_USUAL: Final = ("forecast", "dagster")


def tags(name: str, workloads: Path, project: Path = ROOT / "pyproject.toml") -> Sequence[str]:
    """The tags that the workloads' files ask for of an image; the project's version for dagster,
    which no workload names.

    Raises BuildError where there is none.
    """
    if name == "dagster":
        return [str(tomllib.loads(project.read_text())["project"]["version"])]
    found = set()
    for file in sorted(workloads.glob("*.yaml")):
        workload = yaml.safe_load(file.read_text())
        if name in (workload["container"], workload.get("serving", {}).get("container")):
            found.add(str(workload["image_tag"]))
    if not found:
        raise BuildError(f"No workload in {workloads} uses the image {name}: give --tag.")
    return sorted(found)


def base_of(name: str) -> str:
    """The base image that a Dockerfile names; for diffusion that of forecast, because its own is
    PyTorch's for GPUs."""
    content = (ROOT / IMAGES["forecast" if name == "diffusion" else name].dockerfile).read_text()
    found = re.search(r"^ARG BASE_IMAGE=(\S+)$", content, re.MULTILINE)
    if found is None:
        raise BuildError(f"The Dockerfile of {name} names no BASE_IMAGE.")
    return found[1]


def build_command(
    keeper: str, name: str, *, base: str, packages: Path, names: Sequence[str]
) -> Sequence[str]:
    """The command line that builds an image by `keeper`, docker or buildah."""
    image = IMAGES[name]
    options = [
        *("--platform", "linux/amd64"),  # what SageMaker's instances run
        *("--build-context", f"packages={packages}"),
        *("--build-arg", f"BASE_IMAGE={base}"),
        *(word for each in names for word in ("--tag", each)),
        *("--file", image.dockerfile),
    ]
    if "torch" in image.further:
        options += ["--build-arg", f"TORCH={image.needed()['torch']}"]
    if keeper == "docker":
        # SageMaker takes no manifest list, which provenance would make of the image.
        return ["docker", "buildx", "build", "--load", "--provenance=false", *options, "."]
    # chroot needs no namespaces or control groups, which many machines withhold.
    own = ["--isolation", "chroot", "--format", "docker", "--pull=false"]
    return ["buildah", "build", *own, *options, "."]


def fetch(name: str, folder: Path) -> None:
    """Lay the wheels of an image into a folder, with a pip.conf that has pip take these alone.

    Raises BuildError.
    """
    image = IMAGES[name]
    further = "".join(f"{each}=={version}\n" for each, version in image.needed().items())
    words = [*image.requirements, *(["-"] if further else [])]
    compiled = subprocess.run(
        [
            str(Path(sys.executable).parent / "uv"),
            *("pip", "compile", "--no-header", "--no-annotate", "--quiet"),
            *("--python-version", PYTHON, "--python-platform", "x86_64-manylinux_2_28"),
            *("--constraint", str(LOCK), *words),
        ],
        cwd=ROOT,
        env={**os.environ, **_settings()},
        input=further,
        capture_output=True,
        text=True,
        check=False,
    )
    if compiled.returncode != 0:
        raise BuildError(f"uv could not tell what {name} needs:\n{compiled.stderr.strip()}")
    wanted = folder / "wanted.txt"
    wanted.write_text(_with_hashes(compiled.stdout))
    _download(name, wanted, folder)
    (folder / "pip.conf").write_text("[global]\nno-index = true\nfind-links = /run/packages\n")


def _with_hashes(compiled: str) -> str:
    """Requirements with the locks' hashes. Raises BuildError.

    Versions are as compiled. For a local build (`2.13.0+cpu`) pip would else take the plain
    version's file, where that one alone is listed with its hash.
    """
    lock = {**locked(LOCK.read_text()), **locked(CUDA_LOCK.read_text())}
    pins = [line.strip() for line in compiled.splitlines() if "==" in line]
    if missing := [pin for pin in pins if pin.partition("==")[0] not in lock]:
        raise BuildError(f"Not in requirements.lock: {', '.join(missing)}. Cure: make lock")
    return "".join(
        " ".join([pin, *re.findall(r"--hash=\S+", lock[pin.partition("==")[0]])]) + "\n"
        for pin in pins
    )


def _download(name: str, wanted: Path, folder: Path) -> None:
    older = ("manylinux2014", "manylinux2010", "manylinux1", "linux")
    platforms = [f"manylinux_2_{minor}" for minor in range(_GLIBC, 4, -1)] + list(older)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--require-hashes", "--only-binary=:all:"),
            *("--python-version", PYTHON, "--implementation", "cp"),
            *("--abi", f"cp{PYTHON.replace('.', '')}", "--abi", "abi3", "--abi", "none"),
            *(word for each in platforms for word in ("--platform", f"{each}_x86_64")),
            *("--dest", str(folder), "--requirement", str(wanted)),
        ],
        check=False,
    )
    if done.returncode != 0:
        raise BuildError(
            f"pip could not fetch what {name} needs. If the package index cannot be reached, see "
            "to the network, or tell pip of a proxy or a mirror (`pip config set "
            "global.index-url …`). A CPU build of torch is on PyTorch's own index."
        )


def _settings() -> Mapping[str, str]:
    """The variables that pass pip's settings to uv."""
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    return uv_environment(pip_settings(listing), os.environ)


def _run_build(command: Sequence[str], name: str) -> None:
    """Run a build, its output shown as it comes. Raises BuildError."""
    last: collections.deque[str] = collections.deque(maxlen=40)
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    with process:
        for line in process.stdout or ():
            last.append(line)
            sys.stderr.write(f"  {line}")
    if process.returncode == 0:
        return
    cure = "Its last lines say why."
    if _UNREACHABLE.search("".join(last)):
        cure = (
            "Its base image could not be pulled. Name one that is here or can be reached with "
            "--base IMAGE (make images BASE=IMAGE), or have one made of Debian's packages with "
            "--debootstrap (make images DEBOOTSTRAP=1)."
        )
    raise BuildError(f"{name} was not built ({command[0]} ended with {process.returncode}). {cure}")


def build(
    name: str, *, base: str, wanted_tags: Sequence[str], repositories: str | None, keeper: str
) -> Sequence[str]:
    """Fetch packages, build one image, and return the names it has. Raises BuildError."""
    begun = time.monotonic()
    names = [f"{name}:{tag}" for tag in wanted_tags]
    if repositories:
        names += [f"{repositories.rstrip('/')}/{each}" for each in names]
    with tempfile.TemporaryDirectory(prefix="packages-") as folder:
        packages = Path(folder)
        _say(f"{name}: fetching its packages")
        fetch(name, packages)
        wheels = list(packages.glob("*.whl"))
        size = sum(wheel.stat().st_size for wheel in wheels) / 1e6
        _say(f"{name}: building with {keeper} on {base}, {len(wheels)} packages of {size:.0f} MB")
        _run_build(build_command(keeper, name, base=base, packages=packages, names=names), name)
    _say(f"{name}: built {', '.join(names)} in {time.monotonic() - begun:.0f} s")
    return names


def keeper_here() -> str:
    """docker or buildah: the one that builds here. Raises ImagesError, or BuildError for a docker
    that cannot build."""
    keeper = engine()
    asked = ["docker", "buildx", "version"]
    if keeper == "docker" and subprocess.run(asked, capture_output=True, check=False).returncode:
        raise BuildError(
            "docker's daemon answers, but docker has no buildx, which builds with the packages "
            "that are fetched beside: install docker's plugin buildx."
        )
    return keeper


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def parse_arguments(command_line: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, by default this process's own."""
    parser = argparse.ArgumentParser(
        prog="python -m infrastructure.images",
        description="Build the project's images for linux/amd64, with docker where its daemon "
        "answers, else with buildah (as root; apt install buildah).",
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"of {', '.join(IMAGES)}; {' and '.join(_USUAL)} when none is named. diffusion is "
        "built for the CPU; docs/gpu-serving.md has the one for GPUs",
    )
    parser.add_argument(
        "--tag", help="the tag, when it is not image_tag of the workloads' files (dagster: version)"
    )
    parser.add_argument(
        "--repositories",
        metavar="PREFIX",
        help="also name the images PREFIX/NAME:TAG, ready to be pushed there (the stack's output "
        "ImageRepositories)",
    )
    bases = parser.add_mutually_exclusive_group()
    bases.add_argument(
        "--base",
        metavar="IMAGE",
        help=f"base image with Python {PYTHON} in the place of the Dockerfiles' own",
    )
    bases.add_argument(
        "--debootstrap",
        action="store_true",
        help="make the base image of Debian's packages, where no image registry can be reached "
        "(as root; apt install debootstrap)",
    )
    asked = parser.parse_args(command_line)
    if wrong := [name for name in asked.names if name not in IMAGES]:
        parser.error(f"no image {wrong[0]!r}; there are {', '.join(IMAGES)}")
    return asked


def main(command_line: Sequence[str] | None = None) -> int:
    """Build what the command line names; returns the exit status."""
    asked = parse_arguments(command_line)
    try:
        keeper = keeper_here()
        own_base = make_base(keeper, _say) if asked.debootstrap else asked.base
        for name in asked.names or _USUAL:
            found = [asked.tag] if asked.tag else tags(name, ROOT / "workloads")
            build(
                name,
                base=own_base or base_of(name),
                wanted_tags=found,
                repositories=asked.repositories,
                keeper=keeper,
            )
    except (BuildError, ImagesError) as error:
        _say(f"\n{error}")
        return 1
    except KeyboardInterrupt:
        _say("\nInterrupted.")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
