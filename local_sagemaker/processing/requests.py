"""Checks requests for processing jobs, and builds the jobs' descriptions."""

from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any, Final

from local_sagemaker.account.state import Document
from local_sagemaker.account.storage import DataError, S3Location
from local_sagemaker.errors import validation

_DEFAULT_RUNTIME_SECONDS: Final = 24 * 3600
_DATA: Final = PurePosixPath("/opt/ml/processing")
"""The folder of inputs and outputs (docs.aws.amazon.com/sagemaker/latest/dg/
byoc-input-and-output.html)."""


def with_defaults(params: dict[str, Any]) -> Document:
    """A job's description from its request, with AWS's defaults for missing members."""
    job = {key: value for key, value in params.items() if key != "Tags"} | {
        "StoppingCondition": params.get("StoppingCondition")
        or {"MaxRuntimeInSeconds": _DEFAULT_RUNTIME_SECONDS},
        "ProcessingInputs": [
            {"AppManaged": False, **each, "S3Input": _source_with_defaults(each["S3Input"])}
            for each in params.get("ProcessingInputs", [])
        ],
    }
    if "ProcessingOutputConfig" in params:
        outputs = params["ProcessingOutputConfig"]
        job["ProcessingOutputConfig"] = outputs | {
            "Outputs": [{"AppManaged": False, **each} for each in outputs["Outputs"]]
        }
    return job


def _source_with_defaults(source: Document) -> Document:
    return {
        "S3InputMode": "File",
        "S3DataDistributionType": "FullyReplicated",
        "S3CompressionType": "None",
        **source,
    }


def check_request(params: dict[str, Any]) -> None:
    """Check the rules that the service model lacks. Raises ValidationException."""
    cluster = params["ProcessingResources"]["ClusterConfig"]
    if not cluster.get("InstanceType") or not cluster.get("InstanceCount"):
        raise validation(
            "ClusterConfig.InstanceType and an InstanceCount of at least 1 are required"
        )
    inputs = params.get("ProcessingInputs", [])
    _check_names("ProcessingInputs", (each["InputName"] for each in inputs))
    for each in inputs:
        if "S3Input" not in each:
            raise validation(f"Processing input {each['InputName']}: S3Input is required")
        _check_place(f"Processing input {each['InputName']}", each["S3Input"])
    outputs = outputs_of(params)
    _check_names("ProcessingOutputConfig.Outputs", (each["OutputName"] for each in outputs))
    for each in outputs:
        if "S3Output" not in each:
            raise validation(f"Processing output {each['OutputName']}: S3Output is required")
        _check_place(f"Processing output {each['OutputName']}", each["S3Output"])


def outputs_of(job: Document) -> list[Document]:
    """The outputs of a job or its request."""
    found: list[Document] = job.get("ProcessingOutputConfig", {}).get("Outputs", [])
    return found


def _check_names(what: str, names: Iterable[str]) -> None:
    listed = list(names)
    if len(set(listed)) != len(listed):
        raise validation(f"{what} has members of the same name")


def _check_place(what: str, place: Document) -> None:
    """LocalPath is required, because no input or output is AppManaged."""
    path = PurePosixPath(place.get("LocalPath", ""))
    if ".." in path.parts or _DATA not in path.parents:
        raise validation(f"{what}: LocalPath must begin with {_DATA}/")
    try:
        S3Location.parse(place["S3Uri"])
    except DataError as error:
        raise validation(f"{what}: {error}") from error
