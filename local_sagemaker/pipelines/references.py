"""The functions of pipeline definitions: `Get`, `Std:Join` and `Std:JsonGet`.

Sources: docs.aws.amazon.com/sagemaker/latest/dg/build-and-manage-properties.html,
…/build-and-manage-parameters.html, …/build-and-manage-propertyfile.html, and the definitions that
the SageMaker Python SDK writes.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from local_sagemaker.errors import LocalSageMakerError

GET: Final = "Get"
JOIN: Final = "Std:Join"
JSON_GET: Final = "Std:JsonGet"
PROPERTY_FILES: Final = "PropertyFiles"
VARIABLES: Final = (
    "StartDateTime",
    "CurrentDateTime",
    "PipelineName",
    "PipelineArn",
    "PipelineExecutionId",
    "PipelineExecutionArn",
    "TrainingJobName",
    "ProcessingJobName",
)
"""The execution variables that AWS documents."""
_MEMBER: Final = re.compile(r"""\.([A-Za-z0-9_-]+)|\[(\d+)\]|\[(?:'([^']*)'|"([^"]*)")\]""")
_ENTRY_NAMES: Final = ("OutputName", "InputName", "ChannelName")
"""The members that name an entry of a list, as in `Outputs['train']`."""

Source = Literal["Parameters", "Steps", "Execution"]
Path = tuple[str | int, ...]


class UnknownReferenceError(LocalSageMakerError):
    """A function that cannot be read, or that has no value; the message says why."""


@dataclass(frozen=True)
class Reference:
    """What a `Get` names: `Steps.Train.ModelArtifacts.S3ModelArtifacts` is the path
    `ModelArtifacts`, `S3ModelArtifacts` of the step `Train`."""

    source: Source
    name: str
    path: Path

    @classmethod
    def parse(cls, text: Any) -> "Reference":
        """From the text of a `Get`. Raises UnknownReferenceError."""
        path = parse_path(f".{text}") if isinstance(text, str) else ()
        match path:
            case ("Parameters" | "Execution" as source, str(name)):
                return cls("Parameters" if source == "Parameters" else "Execution", name, ())
            case ("Steps", str(name), first, *rest):
                return cls("Steps", name, (first, *rest))
        raise UnknownReferenceError(
            f"Get {text!r} names neither Parameters.NAME, Execution.NAME nor Steps.NAME.PROPERTY"
        )


def parse_path(text: str) -> Path:
    """`.a.b[0]['c']` as its parts. Raises UnknownReferenceError."""
    parts: list[str | int] = []
    position = 0
    while position < len(text):
        found = _MEMBER.match(text, position)
        if found is None:
            raise UnknownReferenceError(f"{text.removeprefix('.')!r} is no path of members")
        name, number, single, double = found.groups()
        parts.append(int(number) if number else name or single or double or "")
        position = found.end()
    return tuple(parts)


def is_function(value: Any) -> bool:
    """Whether a value of a definition stands for another value."""
    if not isinstance(value, dict) or len(value) != 1:
        return False
    ((name, argument),) = value.items()
    return name.startswith("Std:") or (name == GET and isinstance(argument, str))


def functions_in(value: Any) -> Iterator[dict[str, Any]]:
    """Every function in a value, at any depth, also those in functions."""
    if is_function(value):
        yield value
    members = value.values() if isinstance(value, dict) else value
    if isinstance(value, dict | list):
        for member in members:
            yield from functions_in(member)


def member_of(value: Any, path: Path) -> Any:
    """The member of a document at a path. Raises UnknownReferenceError where there is none."""
    for part in path:
        found = None
        if isinstance(value, dict) and isinstance(part, str):
            found = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            found = value[part]
        elif isinstance(value, list):
            named = (each for each in value if any(each.get(n) == part for n in _ENTRY_NAMES))
            found = next(named, None)
        if found is None:
            raise UnknownReferenceError(f"there is no member {part!r}")
        value = found
    return value


@dataclass(frozen=True)
class Values:
    """What the functions of one step stand for. `steps` are the properties of the steps that ended;
    `property_file` reads a file of a step, and blocks."""

    parameters: Mapping[str, Any]
    variables: Mapping[str, str]
    steps: Mapping[str, Mapping[str, Any]]
    property_file: Callable[[str, str], Any]

    def resolve(self, value: Any) -> Any:
        """The value with its functions' values in their places; the call may block. Raises
        UnknownReferenceError."""
        if is_function(value):
            return self._value(value)
        if isinstance(value, dict):
            return {name: self.resolve(member) for name, member in value.items()}
        if isinstance(value, list):
            return [self.resolve(member) for member in value]
        return value

    def _value(self, function: dict[str, Any]) -> Any:
        ((name, argument),) = function.items()
        try:
            if name == GET:
                return self._get(Reference.parse(argument))
            if name == JOIN:
                values = (self.resolve(each) for each in argument["Values"])
                return str(argument.get("On", "")).join(_text(each) for each in values)
            file = Reference.parse(argument["PropertyFile"][GET])
            path = str(argument["Path"]).removeprefix("$").removeprefix(".")
            content = self.property_file(file.name, str(file.path[1]))
            return member_of(content, parse_path(path if path.startswith("[") else f".{path}"))
        except UnknownReferenceError as error:
            raise UnknownReferenceError(f"{name} {argument}: {error}") from error

    def _get(self, reference: Reference) -> Any:
        if reference.source == "Parameters":
            return member_of(self.parameters, (reference.name,))
        if reference.source == "Execution":
            return member_of(self.variables, (reference.name,))
        return member_of(self.steps, (reference.name, *reference.path))


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)
