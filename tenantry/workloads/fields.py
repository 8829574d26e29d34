"""The types of single fields of a workload's YAML file, and their faults in words."""

from __future__ import annotations

import json
import re
import zoneinfo
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

from pydantic import AfterValidator, StringConstraints

from tenantry.workloads.code import container_fault, module_fault
from tenantry.workloads.cron import cron_fault

IN_WORDS: Final[dict[str, str]] = {}
"""The meaning of each pattern, for people."""


def worded(pattern: str, words: str) -> StringConstraints:
    """A pattern that texts must match, and its meaning in words."""
    IN_WORDS[pattern] = words
    return StringConstraints(pattern=pattern)


def without_fault(fault_of: Callable[[str], str | None]) -> AfterValidator:
    """A check of a text: ``fault_of`` returns the fault in it, or None."""

    def check(text: str) -> str:
        fault = fault_of(text)
        if fault is not None:
            raise ValueError(fault)
        return text

    return AfterValidator(check)


def _time_zone_fault(name: str) -> str | None:
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return f"{name!r} is no IANA time zone, as Europe/London is"
    return None


def _cron_fault(expression: str) -> str | None:
    fault = cron_fault(expression)
    return None if fault is None else f"the cron expression {expression!r} {fault}"


def _json_object(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """YAML has dates and endless numbers, which no request can hold."""
    for name, one in value.items():
        try:
            json.dumps(one, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(
                f"{name} is {str(one)[:40]}, which JSON cannot say; write it as text, in quotes"
            ) from error
    return value


TimeZone = Annotated[str, without_fault(_time_zone_fault)]
Cron = Annotated[
    str,
    worded(r"^\S+( \S+){4}$", "five fields with a space between them, as in '15 2 * * *'"),
    without_fault(_cron_fault),
]
BatchName = Annotated[
    str,
    worded(
        r"^[a-z][a-z0-9_]{0,19}$",
        "at most 20 lower-case letters, digits and underscores, a letter first",
    ),
]
JsonFile = Annotated[
    str,
    worded(
        r"^[a-z0-9][a-z0-9_.-]{0,62}\.json$",
        "a file's name in lower case that ends in .json, as readings.json",
    ),
]
FileType = Annotated[
    str,
    worded(
        r"^[a-z0-9]{1,20}$",
        "at most 20 lower-case letters and digits, as csv: the end of a file's name without dot",
    ),
]
# https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_ResourceConfig.html: every type
# starts so.
InstanceType = Annotated[
    str, worded(r"^ml\.[a-z0-9-]+\.[a-z0-9]+$", "an instance type of SageMaker, as ml.c5.xlarge")
]
ContainerName = Annotated[
    str,
    worded(
        r"^[a-z][a-z0-9-]*$",
        "lower-case letters, digits and hyphens, and a letter first: the name of an image, without "
        "its registry and tag",
    ),
]
Container = Annotated[ContainerName, without_fault(container_fault)]
# For InferenceAmiVersion (API_ProductionVariant) and TransformAmiVersion (API_TransformResources),
# which decide the GPU's driver.
AmiVersion = Annotated[
    str,
    worded(
        r"^[a-zA-Z0-9][a-zA-Z0-9-]{0,62}$",
        "at most 63 letters, digits and hyphens, and no hyphen first",
    ),
]
Module = Annotated[
    str,
    worded(
        r"^containers(\.[a-z_][a-z0-9_]*)+$",
        "a Python module below containers, as containers.forecast.serving.drift: lower-case "
        "letters, digits and underscores between its dots",
    ),
    without_fault(module_fault),
]
WorkloadName = Annotated[
    str,
    worded(
        r"^[a-z][a-z0-9]{0,19}$", "at most 20 lower-case letters and digits, and a letter first"
    ),
]
ImageTag = Annotated[
    str,
    worded(r"^[A-Za-z0-9_.-]{1,128}$", "at most 128 letters, digits, underscores, dots, hyphens"),
]
# The form of owners in Dagster, of assets and jobs alike.
Owner = Annotated[
    str,
    worded(
        r"^(team:.+|[A-Za-z0-9_][A-Za-z0-9._%+-]*@[A-Za-z0-9.-]+\.[A-Za-z]{2,7})$",
        "an e-mail address, or team: and the team's name, as team:energy",
    ),
]
Kind = Annotated[
    str,
    worded(r"^[A-Za-z0-9_.-]{1,63}$", "at most 63 letters, digits, underscores, dots and hyphens"),
]
ChangeName = Annotated[
    str,
    worded(
        r"^[a-z][a-z0-9_]{0,40}$",
        "at most 41 lower-case letters, digits and underscores, and a letter first",
    ),
]
RequestField = Annotated[
    str, worded(r"^[a-z_]{1,40}$", "at most 40 lower-case letters and underscores")
]
Words = Annotated[str, worded(r"\S", "some words")]
Metric = Annotated[str, worded(r"^\S(.*\S)?$", "the name of a metric, as mase")]
JsonObject = Annotated[Mapping[str, Any], AfterValidator(_json_object)]

_IDENTIFIER: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


def hyperparameters_fault(parameters: Mapping[str, str]) -> str | None:
    """The fault in a job's hyperparameters. Limits: API_CreateTrainingJob."""
    if len(parameters) > 100:
        return f"there are {len(parameters)} of them; SageMaker takes 100"
    for name, value in parameters.items():
        if not 1 <= len(name) <= 256:
            return f"the name {name[:60]!r} has {len(name)} characters; SageMaker takes 1 to 256"
        if len(value) > 2500:
            return f"{name} has {len(value)} characters; SageMaker takes 2500"
    return None


def environment_fault(environment: Mapping[str, str]) -> str | None:
    """The fault in a container's variables. Limits: API_ContainerDefinition."""
    for name, value in environment.items():
        if not _IDENTIFIER.fullmatch(name) or len(name) > 1024:
            return f"{name[:60]!r} is no name of a variable: use letters, digits and underscores"
        if len(value) > 1024:
            return f"{name} has {len(value)} characters; SageMaker takes 1024"
    return None
