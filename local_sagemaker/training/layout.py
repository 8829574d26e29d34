"""The `/opt/ml` layout of a training container, below a folder that `SAGEMAKER_BASE_DIR` names.

Source: docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo-running-container.html
and …-output.html.
"""

import tarfile
from pathlib import Path
from typing import Any

from local_sagemaker.jobs.failures import FAILURE_LIMIT_CHARACTERS
from local_sagemaker.jobs.hosts import JobHost

NETWORK_INTERFACE = "lo"
"""All hosts are processes on one machine, which share its loopback interface."""


class TrainingHost(JobHost):
    """The folders of one instance of a training job."""

    def __init__(self, base: Path, name: str) -> None:
        super().__init__(base, name)
        self.model = base / "model"
        self.output_data = base / "output" / "data"
        self._failure = base / "output" / "failure"
        for folder in (
            base / "input" / "config",
            base / "input" / "data",
            self.model,
            self.output_data,
            base / "code",
            base / "tmp",
        ):
            folder.mkdir(parents=True, exist_ok=True)

    def channel(self, name: str) -> Path:
        """The folder of a channel's files."""
        return self.base / "input" / "data" / name

    def write_configuration(self, job: dict[str, Any], hosts: list[str]) -> None:
        """Write hyperparameters.json, inputdataconfig.json and resourceconfig.json for the job's
        request."""
        channels = {
            channel["ChannelName"]: {
                "ContentType": channel.get("ContentType"),
                "RecordWrapperType": channel.get("RecordWrapperType", "None"),
                "S3DistributionType": channel["DataSource"]["S3DataSource"].get(
                    "S3DataDistributionType", "FullyReplicated"
                ),
                "TrainingInputMode": channel.get(
                    "InputMode", job["AlgorithmSpecification"]["TrainingInputMode"]
                ),
            }
            for channel in job.get("InputDataConfig", [])
        }
        instance_type = job["ResourceConfig"]["InstanceType"]
        resources = {
            "current_host": self.name,
            "current_instance_type": instance_type,
            "current_group_name": "homogeneousCluster",
            "hosts": hosts,
            "instance_groups": [
                {
                    "instance_group_name": "homogeneousCluster",
                    "instance_type": instance_type,
                    "hosts": hosts,
                }
            ],
            "network_interface_name": NETWORK_INTERFACE,
        }
        for file, content in (
            ("hyperparameters.json", job.get("HyperParameters", {})),
            ("inputdataconfig.json", channels),
            ("resourceconfig.json", resources),
        ):
            self.write_json(f"input/config/{file}", content)

    def failure(self) -> str | None:
        """The first 1,024 characters of the failure file, or None when it is missing or empty."""
        if not self._failure.is_file():
            return None
        with self._failure.open(encoding="utf-8", errors="replace") as file:
            return file.read(FAILURE_LIMIT_CHARACTERS).strip() or None


def archive(folders: list[Path], target: Path) -> bool:
    """Write the contents of all folders to one tar.gz, `target`; returns False when they are empty.

    If two hosts wrote the same path, the archive contains the first host's file.
    """
    seen: set[str] = set()
    with tarfile.open(target, mode="w:gz", compresslevel=1) as tar:
        for folder in folders:
            for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
                name = path.relative_to(folder).as_posix()
                if name not in seen:
                    seen.add(name)
                    tar.add(path, name, recursive=False)
    return bool(seen)
