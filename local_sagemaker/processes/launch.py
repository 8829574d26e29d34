"""How a container is started, wherever its program comes from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import Protocol

from local_sagemaker.errors import LocalSageMakerError

OPT_ML = Path("/opt/ml")


class ImagesError(LocalSageMakerError):
    """A container cannot run from an image here; the message tells why, and the cure."""


class ImageNotFoundError(ImagesError):
    """There is no such image here, or it has not the program that is asked for."""


@dataclass(frozen=True)
class Program:
    """What a container runs: where its image was found, and the command line in it."""

    image: str
    command: tuple[str, ...]


@dataclass(frozen=True)
class Launch:
    """A command line of this machine that becomes the container, or stands for it.

    `signal` reaches a container whose processes are not in the command's process group. It knows
    SIGKILL, SIGSTOP and SIGCONT.
    """

    command: tuple[str, ...]
    folder: Path
    environment: Mapping[str, str]
    signal: Callable[[Signals], None] | None = None


class ContainerImages(Protocol):
    """Where programs of images come from."""

    @property
    def clean_up(self) -> tuple[str, ...]:
        """A command line that removes what an emulator left behind; empty where nothing can be
        left."""

    def program(
        self, image: str, command: str, entry: Sequence[str] | None, arguments: Sequence[str]
    ) -> Program:
        """What an image runs as `command`, `train` or `serve`, with further arguments.

        `entry` is an entry point that takes the place of the image's own, and of `command`. Raises
        ImageNotFoundError.
        """

    def launch(
        self, program: Program, base: Path, environment: Mapping[str, str], token: str
    ) -> Launch:
        """Make what a container needs whose `/opt/ml` is `base`; it blocks.

        `token` names the container in `remove`. Raises ImagesError.
        """

    def path_inside(self, base: Path, path: Path) -> str:
        """What the container of `base` calls `path`, which lies below it."""

    def remove(self, token: str) -> None:
        """Remove what `launch` made; the container has ended. It blocks."""


def last_component(image: str) -> str:
    """The end of an image's path, with its tag or digest: `forecast:3`."""
    return image.rpartition("/")[2]
