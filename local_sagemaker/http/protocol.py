"""Decoding, validating and encoding of the two services' wire formats.

moto.core's parsers and serializers implement the wire format; botocore's service models define
valid requests. `sagemaker` uses JSON 1.1 with `X-Amz-Target`; `sagemaker-runtime` uses rest-json.
botocore's validator checks required members, types and minima. `constraint_violations` adds enums,
patterns and maxima, which botocore leaves to the service.
"""

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import regex
from botocore.awsrequest import HeadersDict
from botocore.loaders import create_loader
from botocore.utils import parse_timestamp
from botocore.validate import ParamValidator
from moto.core.model import ServiceModel
from moto.core.parse import JSONParser, RequestParserError, RestJSONParser
from moto.core.serialize import JSONSerializer, RestJSONSerializer

from local_sagemaker.errors import ServiceError, validation
from local_sagemaker.http.client import header_text


@dataclass(frozen=True)
class WireResponse:
    """An HTTP answer: status, headers and body bytes."""

    status: int
    headers: dict[str, str]
    body: bytes


class Protocol:
    """The wire format of one service: `sagemaker`, `sagemaker-runtime` or
    `application-autoscaling`. `name` is what people call it."""

    def __init__(self, service: str) -> None:
        self.service = service
        self.model = ServiceModel(create_loader().load_service_model(service, "service-2"), service)
        self.operations = frozenset(self.model.operation_names)
        self.name = "SageMaker" if service == "sagemaker" else self.model.metadata["serviceId"]
        rest = self.model.protocol == "rest-json"
        self._parser = RestJSONParser if rest else JSONParser
        self._serializer = RestJSONSerializer if rest else JSONSerializer
        self._validator = ParamValidator()

    def decode(
        self,
        operation: str,
        body: bytes,
        headers: Iterable[tuple[bytes, bytes]],
        url_params: Mapping[str, str],
    ) -> dict[str, Any]:
        """The request as the members of the operation's input shape. Raises ValidationException
        where the model refuses it."""
        model = self.model.operation_model(operation)
        request: Any = {
            "body": body,
            "headers": HeadersDict(
                {name.decode("latin-1"): header_text(value) for name, value in headers}
            ),
            "url_params": url_params,
            "values": {},
            "method": "",
            "url_path": "",
        }
        try:
            params: dict[str, Any] = self._parser(model, timestamp_parser=_aware_timestamp).parse(
                request
            )
        except (ValueError, TypeError, AttributeError, RequestParserError) as error:
            raise ServiceError(
                "SerializationException", f"The request body is malformed: {error}"
            ) from error
        if model.input_shape is None:
            return {}
        self.check(operation, params)
        return params

    def check(self, operation: str, params: dict[str, Any]) -> None:
        """Check the members of a request. Raises ValidationException where the model refuses
        it."""
        self.check_structure(operation, params)
        self.check_constraints(operation, params)

    def check_structure(self, operation: str, params: dict[str, Any]) -> None:
        """Check names, types and minima, and that nothing is missing. Raises
        ValidationException."""
        shape = self.model.operation_model(operation).input_shape
        report = self._validator.validate(params, shape)
        if report.has_errors():
            raise validation(report.generate_report())

    def check_constraints(self, operation: str, params: dict[str, Any]) -> None:
        """Check enums, patterns and maxima of the members that are there. Raises
        ValidationException."""
        shape = self.model.operation_model(operation).input_shape
        violations = list(constraint_violations(params, shape, ""))
        if violations:
            plural = "errors" if len(violations) > 1 else "error"
            raise validation(
                f"{len(violations)} validation {plural} detected: {'; '.join(violations)}"
            )

    def encode(self, operation: str, result: dict[str, Any]) -> WireResponse:
        """The answer of a successful operation."""
        serialized = self._serializer(self.model.operation_model(operation)).serialize(result)
        body = serialized["body"]
        headers = dict(serialized["headers"])
        if "ContentType" in result:
            # The serializer replaces the modelled Content-Type of InvokeEndpoint by
            # application/json.
            headers["Content-Type"] = result["ContentType"]
        return _with_request_id(
            serialized["status_code"], headers, body.encode() if isinstance(body, str) else body
        )

    def encode_error(self, error: ServiceError) -> WireResponse:
        """The answer of a failed operation, with the model's status if the model names the
        error."""
        status = error.status
        for shape in self.model.error_shapes:
            if shape.name == error.code:
                status = shape.metadata.get("error", {}).get("httpStatusCode", status)
        document = {
            "__type": error.code,
            "message": error.message,
            "Message": error.message,
            **error.fields,
        }
        content_type = (
            "application/json"
            if self.model.protocol == "rest-json"
            else "application/x-amz-json-1.1"
        )
        headers = {"Content-Type": content_type, "X-Amzn-Errortype": error.code}
        if "awsQueryCompatible" in self.model.metadata:  # where clients read the code
            headers["x-amzn-query-error"] = (
                f"{error.code};{'Sender' if status < 500 else 'Receiver'}"
            )
        return _with_request_id(status, headers, json.dumps(document).encode())


def _with_request_id(status: int, headers: dict[str, str], body: bytes) -> WireResponse:
    # Starlette writes headers as ISO-8859-1. Convert them so that the sent bytes are UTF-8, like
    # the received ones.
    sent = {name: str(value).encode().decode("latin-1") for name, value in headers.items()}
    return WireResponse(status, {**sent, "x-amzn-RequestId": str(uuid.uuid4())}, body)


def _aware_timestamp(value: Any) -> float:
    """The emulator keeps all times as seconds since 1970, which JSON can hold."""
    moment: datetime = parse_timestamp(value)
    return moment.timestamp()


_JAVA_ONLY = {r"\p{Print}": r"\x20-\x7E", r"\p{Alnum}": "a-zA-Z0-9", r"\z": r"\Z"}
"""Parts of the models' Java patterns that Python reads differently or not at all, with
replacements; Java's POSIX classes are ASCII."""
_patterns: dict[str, regex.Pattern[str] | None] = {}


def _pattern(text: str) -> regex.Pattern[str] | None:
    """The compiled pattern, or None for an invalid one (the models have two kinds)."""
    if text not in _patterns:
        translated = text
        for java, python in _JAVA_ONLY.items():
            # A class that stands alone gets brackets.
            alone = python if python == r"\Z" else f"[{python}]"
            translated = translated.replace(f"[{java}", f"[{python}").replace(java, alone)
        try:
            _patterns[text] = regex.compile(translated)
        except regex.error:
            _patterns[text] = None
    return _patterns[text]


def constraint_violations(value: Any, shape: Any, path: str) -> Iterator[str]:
    """Every enum, pattern and maximum of the model that `value` breaks, in AWS's words."""
    limits = shape.metadata
    if shape.type_name == "structure":
        for name, member in shape.members.items():
            if value.get(name) is not None:
                yield from constraint_violations(
                    value[name], member, f"{path}.{_camel(name)}" if path else _camel(name)
                )
        return
    size: Any = value if shape.type_name in ("integer", "long", "float", "double") else None
    if shape.type_name == "list":
        size = len(value)
        for number, item in enumerate(value, 1):
            yield from constraint_violations(item, shape.member, f"{path}.{number}.member")
    elif shape.type_name == "map":
        size = len(value)
        for key, item in value.items():
            yield from constraint_violations(key, shape.key, f"{path}.{key}.key")
            yield from constraint_violations(item, shape.value, f"{path}.{key}.member")
    elif shape.type_name in ("string", "blob"):
        size = len(value)
    if size is not None and "max" in limits and size > limits["max"]:
        what = "value" if size is value else "length"
        yield _violation(
            value, path, f"Member must have {what} less than or equal to {limits['max']}"
        )
    if shape.type_name == "string":
        if "enum" in limits and value not in limits["enum"]:
            yield _violation(
                value, path, f"Member must satisfy enum value set: [{', '.join(limits['enum'])}]"
            )
        pattern = _pattern(limits["pattern"]) if "pattern" in limits else None
        if pattern is not None and not pattern.fullmatch(value):
            yield _violation(
                value, path, f"Member must satisfy regular expression pattern: {limits['pattern']}"
            )


def _camel(name: str) -> str:
    return name[:1].lower() + name[1:]


def _violation(value: Any, path: str, constraint: str) -> str:
    return f"Value '{str(value)[:200]}' at '{path}' failed to satisfy constraint: {constraint}"
