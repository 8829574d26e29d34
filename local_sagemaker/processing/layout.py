"""The `/opt/ml` layout of a processing container, below a folder that `SAGEMAKER_BASE_DIR` names.

Source: docs.aws.amazon.com/sagemaker/latest/dg/build-your-own-processing-container.html
(processingjobconfig.json, resourceconfig.json, the message file).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from local_sagemaker.account.state import Document
from local_sagemaker.account.storage import DataError
from local_sagemaker.jobs.hosts import JobHost
from local_sagemaker.processing.requests import outputs_of

MESSAGE_LIMIT_BYTES: Final = 1024
"""The longest ExitMessage ("the first 1 KB of this file")."""
_CONFIGURATION: Final = (
    "ProcessingJobArn",
    "ProcessingJobName",
    "AppSpecification",
    "Environment",
    "ProcessingInputs",
    "ProcessingOutputConfig",
    "ProcessingResources",
    "RoleArn",
    "StoppingCondition",
)
"""The members of processingjobconfig.json."""


class ProcessingHost(JobHost):
    """The folders of one instance of a processing job: its configuration, inputs and outputs."""

    def __init__(self, base: Path, name: str, job: Document, hosts: Sequence[str]) -> None:
        super().__init__(base, name)
        self._message = base / "output" / "message"
        self._message.parent.mkdir(parents=True, exist_ok=True)
        places = [each["S3Input"] for each in job["ProcessingInputs"]]
        for place in (*places, *(each["S3Output"] for each in outputs_of(job))):
            self.path_of(place["LocalPath"]).mkdir(parents=True, exist_ok=True)
        configuration = {member: job[member] for member in _CONFIGURATION if member in job}
        self.write_json("config/processingjobconfig.json", configuration)
        self.write_json("config/resourceconfig.json", {"current_host": name, "hosts": hosts})

    def message(self) -> bytes:
        """The beginning of what the container wrote to /opt/ml/output/message."""
        if not self._message.is_file():
            return b""
        with self._message.open("rb") as file:
            return file.read(MESSAGE_LIMIT_BYTES)


def exit_message(hosts: Sequence[ProcessingHost]) -> str:
    """The messages of all hosts, one after another, up to the limit. Raises DataError if they are
    not UTF-8."""
    try:
        told = "".join(_utf_8(host.message()) for host in hosts)
    except UnicodeDecodeError as error:
        raise DataError(f"the file /opt/ml/output/message is not UTF-8: {error}") from error
    return told.encode()[:MESSAGE_LIMIT_BYTES].decode(errors="ignore")


def _utf_8(text: bytes) -> str:
    """The text, without the character that the limit cuts."""
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        if len(text) < MESSAGE_LIMIT_BYTES or error.reason != "unexpected end of data":
            raise
        return text[: error.start].decode()
