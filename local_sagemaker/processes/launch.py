"""The interface that starts a container from any source of programs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import Protocol

from local_sagemaker.errors import LocalSageMakerError

OPT_ML = Path("/opt/ml")


class ImagesError(LocalSageMakerError):
    """A container cannot run from an image on this machine; the message gives the reason and the
    cure."""


class ImageNotFoundError(ImagesError):
    """The image does not exist on this machine, or lacks the requested program."""


@dataclass(frozen=True)
class Program:
    """A container's program: the location of its image, and the command line in it."""

    image: str
    command: tuple[str, ...]


@dataclass(frozen=True)
class Launch:
    """A command line on this machine that becomes the container, or represents it.

    `signal` reaches a container whose processes are not in the command's process group. It knows
    SIGKILL, SIGSTOP and SIGCONT.
    """

    command: tuple[str, ...]
    folder: Path
    environment: Mapping[str, str]
    signal: Callable[[Signals], None] | None = None


class ContainerImages(Protocol):
    """A source of images' programs."""

    @property
    def clean_up(self) -> tuple[str, ...]:
        """A command line that removes an emulator's leftovers; empty where there can be none."""

    def program(
        self, image: str, command: str | None, entry: Sequence[str] | None, arguments: Sequence[str]
    ) -> Program:
        """The program of an image for `command`, `train` or `serve`, with further arguments.

        Without a command, the image's own entry point runs, with its own arguments where
        `arguments` has none. `entry` is an entry point that replaces the image's own and `command`.
        Raises ImageNotFoundError.
        """

    def image_bytes(self, image: str) -> int:
        """The size of an image; the call blocks. Raises ImagesError."""

    def launch(
        self, program: Program, base: Path, environment: Mapping[str, str], token: str
    ) -> Launch:
        """Prepare a container whose `/opt/ml` is `base`; the call blocks.

        `token` names the container in `remove`. Raises ImagesError.
        """

    def path_inside(self, base: Path, path: Path) -> str:
        """The path of `path`, below `base`, inside the container of `base`."""

    def remove(self, token: str) -> None:
        """Remove everything that `launch` created, after the container has ended; the call
        blocks."""


def last_component(image: str) -> str:
    """The end of an image's path, with its tag or digest: `forecast:3`."""
    return image.rpartition("/")[2]
