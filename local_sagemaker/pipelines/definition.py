"""Reads the JSON of a pipeline's definition, version 2020-12-01.

AWS publishes a JSON schema (github.com/aws-sagemaker-mlops/
sagemaker-model-building-pipeline-definition-JSON-schema). It refuses what AWS accepts and the
SageMaker Python SDK writes: PropertyFiles, Std:JsonGet, `Not`, and PipelineExperimentConfig. This
module therefore has the schema's rules as types, with these additions. Arguments are checked by the
service model of the operation that the step calls.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from local_sagemaker.errors import ServiceError, not_emulated, validation
from local_sagemaker.http.members import refuse_what_is_not_emulated
from local_sagemaker.http.protocol import Protocol
from local_sagemaker.pipelines.conditions import AnyCondition
from local_sagemaker.pipelines.references import (
    GET,
    JOIN,
    JSON_GET,
    PROPERTY_FILES,
    VARIABLES,
    Path,
    Reference,
    UnknownReferenceError,
    functions_in,
    is_function,
)
from local_sagemaker.pipelines.steps import EXECUTED, JOB_STEPS, KNOWN, JobStep

EntityName = Annotated[str, Field(pattern=r"^[A-Za-z0-9\-_]{1,64}$")]
LongText = Annotated[str, Field(max_length=4096)]


_ANY_ROLE = "arn:aws:iam::123456789012:role/any"
"""In the place of the pipeline's role, which is known only in an execution."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Parameter(_Part):
    """A parameter of a pipeline."""

    Name: EntityName
    Type: Literal["String", "Integer", "Float", "Boolean"] = "String"
    Description: LongText | None = None
    DefaultValue: Any = None
    EnumValues: list[str] | None = None

    def value(self, text: str | None) -> Any:
        """The value that an execution gives, or the default. Raises ValidationException."""
        if text is None and self.DefaultValue is None:
            raise validation(f"Parameter {self.Name} has neither a value nor a default value.")
        value = self.DefaultValue if text is None else self._parsed(text)
        if self.EnumValues is not None and value not in self.EnumValues:
            raise validation(
                f"Parameter {self.Name}: the value must be one of {', '.join(self.EnumValues)}."
            )
        return value

    def _parsed(self, text: str) -> Any:
        try:
            match self.Type:
                case "Integer":
                    return int(text)
                case "Float":
                    return float(text)
                case "Boolean":
                    return {"true": True, "false": False}[text.lower()]
                case "String":
                    return text
        except (ValueError, KeyError) as error:
            raise validation(f"Parameter {self.Name}: the value is no {self.Type}.") from error

    def has_a_fitting_default(self) -> bool:
        """Whether the default, if any, is of the parameter's type."""
        types: dict[str, tuple[type, ...]] = {
            "String": (str,),
            "Integer": (int,),
            "Float": (int, float),
            "Boolean": (bool,),
        }
        truth = isinstance(self.DefaultValue, bool)
        return self.DefaultValue is None or (
            isinstance(self.DefaultValue, types[self.Type]) and truth == (self.Type == "Boolean")
        )


class PropertyFile(_Part):
    """A JSON file of a processing step that Std:JsonGet reads."""

    PropertyFileName: EntityName
    OutputName: str
    FilePath: str


class _Cache(_Part):
    Enabled: bool = False
    ExpireAfter: str | None = None


class _StepPart(_Part):
    Name: EntityName
    Type: str
    Arguments: dict[str, Any]
    DependsOn: list[EntityName] = []
    DisplayName: Annotated[str, Field(max_length=256)] | None = None
    Description: Annotated[str, Field(max_length=3072)] | None = None
    CacheConfig: _Cache | None = None
    RetryPolicies: list[dict[str, Any]] = []
    PropertyFiles: list[PropertyFile] = []


class _ConditionArguments(_Part):
    Conditions: list[AnyCondition]
    IfSteps: list[_StepPart] = []
    ElseSteps: list[_StepPart] = []


class _FailArguments(_Part):
    ErrorMessage: Any = ""


class _Whole(_Part):
    Version: Literal["2020-12-01"] = "2020-12-01"
    Metadata: dict[str, Annotated[str, Field(max_length=1024)]] | None = None
    Parameters: list[Parameter] = []
    PipelineExperimentConfig: dict[str, Any] | None = None
    MlflowConfig: dict[str, Any] | None = None
    Steps: Annotated[list[_StepPart], Field(min_length=1)]


@dataclass(frozen=True)
class Step:
    """One step. `needs` are the steps that it depends on, by DependsOn or by a reference. `branch`
    is the Condition step that it belongs to, and the outcome that runs it."""

    name: str
    type: str
    arguments: Mapping[str, Any]
    needs: frozenset[str]
    branch: tuple[str, str] | None
    conditions: tuple[AnyCondition, ...]
    property_files: Mapping[str, PropertyFile]
    display_name: str | None
    description: str | None

    @property
    def job(self) -> JobStep:
        """What the step calls; it must be of a type that has a job."""
        return JOB_STEPS[self.type]

    def request(self, arguments: Mapping[str, Any], name: str, role: str) -> dict[str, Any]:
        """Arguments of the step as a request, with the name of the job, and with the pipeline's
        role where they have none."""
        whole = {**arguments, self.job.name_member: name}
        if self.job.role is not None:
            whole.setdefault(self.job.role, role)
        return whole


@dataclass(frozen=True)
class Definition:
    """A checked definition: parameters and steps by name, those of branches too."""

    parameters: Mapping[str, Parameter]
    steps: Mapping[str, Step]

    def branch(self, condition: str, outcome: str) -> list[str]:
        """The steps that an outcome of a Condition step runs."""
        return [step.name for step in self.steps.values() if step.branch == (condition, outcome)]

    def ancestors(self, step: Step) -> Iterator[str]:
        """The Condition steps in whose branches a step is."""
        while step.branch is not None:
            yield step.branch[0]
            step = self.steps[step.branch[0]]

    def predecessors(self, step: Step) -> set[str]:
        """The steps that may have to end before a step starts. A Condition step ends with the steps
        of its branch, but not for those steps themselves."""
        ancestors = set(self.ancestors(step))
        inside = {
            other.name
            for other in self.steps.values()
            if step.needs.difference(ancestors).intersection(self.ancestors(other))
        }
        return {*step.needs, *ancestors, *inside}

    def values(self, given: Iterable[Mapping[str, str]]) -> dict[str, Any]:
        """The parameters' values of an execution. Raises ValidationException."""
        texts = {each["Name"]: each["Value"] for each in given}
        if unknown := texts.keys() - self.parameters.keys():
            raise validation(f"The pipeline has no parameters {', '.join(sorted(unknown))}.")
        return {name: each.value(texts.get(name)) for name, each in self.parameters.items()}


def _refusal(problem: str) -> ServiceError:
    return validation(f"Unable to parse pipeline definition. Model Validation failed: {problem}")


def parse_definition(text: str, protocol: Protocol) -> Definition:
    """Read and check a definition; `protocol` is SageMaker's. Raises ValidationException."""
    try:
        whole = _Whole.model_validate(json.loads(text))
        parts = list(_flattened(whole.Steps, None))
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in wrong["loc"])
        raise _refusal(f"{where}: {wrong['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise _refusal(f"it is not JSON: {error}") from error
    if whole.MlflowConfig is not None:
        raise not_emulated("PipelineDefinition.MlflowConfig")
    parameters = {parameter.Name: parameter for parameter in whole.Parameters}
    for parameter in whole.Parameters:
        if not parameter.has_a_fitting_default():
            raise _refusal(f"the default of parameter {parameter.Name} is no {parameter.Type}")
    steps = {step.name: step for step in parts}
    if len(parameters) < len(whole.Parameters) or len(steps) < len(parts):
        raise _refusal("names of parameters, and names of steps, must be unique")
    definition = Definition(parameters, steps)
    for step in parts:
        _check(step, definition, protocol)
    _check_order(definition)
    return definition


def _flattened(parts: Iterable[_StepPart], branch: tuple[str, str] | None) -> Iterator[Step]:
    """All steps, those in the branches of Condition steps after them. Raises ValidationError,
    ValidationException."""
    for part in parts:
        where = f"PipelineDefinition: step {part.Name}:"
        if part.Type not in KNOWN:
            raise _refusal(f"step {part.Name}: there is no type {part.Type}")
        if part.Type not in EXECUTED:
            raise not_emulated(f"{where} Type {part.Type}")
        if part.RetryPolicies:
            raise not_emulated(f"{where} RetryPolicies")
        if part.CacheConfig is not None and part.CacheConfig.Enabled:
            raise not_emulated(f"{where} CacheConfig")
        inner = None
        arguments = part.Arguments
        if part.Type == "Condition":
            inner = _ConditionArguments.model_validate(arguments)
            arguments = {"Conditions": arguments["Conditions"]}
        elif part.Type == "Fail":
            _FailArguments.model_validate(arguments)
        yield Step(
            part.Name,
            part.Type,
            arguments,
            frozenset((*part.DependsOn, *_steps_in(arguments, part.Name))),
            branch,
            tuple(inner.Conditions) if inner else (),
            {file.PropertyFileName: file for file in part.PropertyFiles},
            part.DisplayName,
            part.Description,
        )
        if inner is not None:
            yield from _flattened(inner.IfSteps, (part.Name, "True"))
            yield from _flattened(inner.ElseSteps, (part.Name, "False"))


def _steps_in(arguments: Any, step: str) -> Iterator[str]:
    for function in functions_in(arguments):
        if GET in function:
            reference = _reference(step, function)
            if reference.source == "Steps":
                yield reference.name


def _reference(step: str, function: Mapping[str, Any]) -> Reference:
    try:
        return Reference.parse(function[GET])
    except UnknownReferenceError as error:
        raise _refusal(f"step {step}: {error}") from error


def _check(step: Step, definition: Definition, protocol: Protocol) -> None:
    """Check what a step refers to, and its arguments."""
    if missing := step.needs - definition.steps.keys():
        raise _refusal(f"step {step.name}: there is no step {', '.join(sorted(missing))}")
    for function in functions_in(step.arguments):
        if GET in function:
            _check_reference(step, _reference(step.name, function), definition, protocol)
        else:
            _check_function(step, function)
    if step.type not in JOB_STEPS:
        return
    _check_arguments(step, protocol)
    outputs = step.arguments.get("ProcessingOutputConfig", {}).get("Outputs", [])
    for file in step.property_files.values():
        if file.OutputName not in [output.get("OutputName") for output in outputs]:
            raise _refusal(f"step {step.name}: there is no output {file.OutputName}")


def _check_function(step: Step, function: Mapping[str, Any]) -> None:
    ((name, argument),) = function.items()
    if name not in (JOIN, JSON_GET):
        raise not_emulated(f"PipelineDefinition: step {step.name}: {name}")
    needed = {"Values"} if name == JOIN else {"PropertyFile", "Path"}
    if name == JSON_GET and isinstance(argument, dict) and "S3Uri" in argument:
        raise not_emulated(f"PipelineDefinition: step {step.name}: {name} with S3Uri")
    if not isinstance(argument, dict) or not needed <= argument.keys() <= {*needed, "On"}:
        raise _refusal(f"step {step.name}: {name} needs {', '.join(sorted(needed))}")
    if name == JSON_GET:
        file = argument["PropertyFile"]
        if not is_function(file) or f".{PROPERTY_FILES}." not in file.get(GET, ""):
            raise _refusal(
                f"step {step.name}: PropertyFile of {name} must be a Get of "
                f"Steps.NAME.{PROPERTY_FILES}.NAME"
            )
    if name == JOIN and not isinstance(argument["Values"], list):
        raise _refusal(f"step {step.name}: Values of {name} must be a list")


def _check_reference(
    step: Step, reference: Reference, definition: Definition, protocol: Protocol
) -> None:
    where = f"step {step.name}: "
    if reference.source == "Parameters" and reference.name not in definition.parameters:
        raise _refusal(f"{where}there is no parameter {reference.name}")
    if reference.source == "Execution" and reference.name not in VARIABLES:
        raise _refusal(f"{where}there is no execution variable {reference.name}")
    if reference.source != "Steps":
        return
    other = definition.steps[reference.name]
    found = reference.path == ("Outcome",) if other.type == "Condition" else False
    if reference.path[0] == PROPERTY_FILES:
        found = len(reference.path) == 2 and reference.path[1] in other.property_files
    elif other.type in JOB_STEPS:
        answer = protocol.model.operation_model(f"Describe{other.job.what}").output_shape
        found = _has_member(answer, reference.path)
    if not found:
        raise _refusal(f"{where}step {reference.name} has no property {reference.path}")


def _has_member(shape: Any, path: Path) -> bool:
    for part in path:
        if shape.type_name == "structure" and part in shape.members:
            shape = shape.members[part]
        elif shape.type_name == "list":
            shape = shape.member
        elif shape.type_name == "map" and isinstance(part, str):
            shape = shape.value
        else:
            return False
    return True


def _check_arguments(step: Step, protocol: Protocol) -> None:
    """Check the arguments by the service model, as far as they are written out."""
    operation = f"Create{step.job.what}"
    shape = protocol.model.operation_model(operation).input_shape
    if is_function(name := step.arguments.get(step.job.name_member, "")):
        raise not_emulated(f"PipelineDefinition: step {step.name}: {step.job.name_member} {name}")
    complete = step.request(step.arguments, name or "name", _ANY_ROLE)
    try:
        protocol.check_structure(operation, _sample(shape, complete))
        written_out = _written_out(complete)
        protocol.check_constraints(operation, written_out)
        refuse_what_is_not_emulated(protocol, operation, written_out)
    except ServiceError as error:
        raise _refusal(f"step {step.name}: {error.message}") from error


def _sample(shape: Any, value: Any) -> Any:
    """The value with a valid value in the place of each function."""
    if is_function(value):
        return _any_value(shape)
    if shape.type_name == "structure" and isinstance(value, dict):
        return {
            name: _sample(shape.members[name], member) if name in shape.members else member
            for name, member in value.items()
        }
    if shape.type_name == "list" and isinstance(value, list):
        return [_sample(shape.member, member) for member in value]
    if shape.type_name == "map" and isinstance(value, dict):
        return {name: _sample(shape.value, member) for name, member in value.items()}
    return value


def _any_value(shape: Any) -> Any:
    if shape.type_name == "boolean":
        return False
    if shape.type_name in ("integer", "long", "float", "double"):
        return shape.metadata.get("min", 1)
    return "x" * shape.metadata.get("min", 1)


def _written_out(value: Any) -> Any:
    """The value without its functions."""
    if isinstance(value, dict):
        return {name: _written_out(each) for name, each in value.items() if not is_function(each)}
    if isinstance(value, list):
        return [_written_out(each) for each in value if not is_function(each)]
    return value


def _check_order(definition: Definition) -> None:
    """Refuse steps that wait for each other."""
    order: TopologicalSorter[str] = TopologicalSorter()
    for step in definition.steps.values():
        order.add(step.name, *definition.predecessors(step))
    try:
        order.prepare()
    except CycleError as error:
        names = " -> ".join(error.args[1])
        raise _refusal(f"steps depend on each other: {names}") from error
