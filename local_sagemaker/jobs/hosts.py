"""The folder of one instance of a job, which stands for its container's `/opt/ml`."""

import json
from pathlib import Path, PurePosixPath
from typing import Any

from local_sagemaker.account.storage import DataError
from local_sagemaker.processes.launch import OPT_ML


class JobHost:
    """One instance of a job: the folder `base` below which its files are, and its name."""

    def __init__(self, base: Path, name: str) -> None:
        self.base = base
        self.name = name

    def path_of(self, container_path: str) -> Path:
        """The local path of the container's path `/opt/ml/…`. Raises DataError for a path outside
        `/opt/ml`."""
        path = PurePosixPath(container_path)
        if not path.is_relative_to(OPT_ML) or ".." in path.parts:
            raise DataError(
                f"path {container_path!r} does not lie under {OPT_ML}, which is all a local "
                f"container has"
            )
        return self.base / path.relative_to(OPT_ML)

    def write_json(self, path: str, content: Any) -> None:
        """Write a configuration to the file at `path` below the base."""
        file = self.base / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content, indent=1))


def host_names(count: int) -> list[str]:
    """`algo-1` and so on, as SageMaker names the hosts of a job."""
    return [f"algo-{number}" for number in range(1, count + 1)]
