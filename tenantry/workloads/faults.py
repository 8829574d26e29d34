"""The faults that pydantic found in a workload, in words."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel

from tenantry.workloads.fields import IN_WORDS

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


def field_of(fault: ErrorDetails) -> str:
    """The field that is wrong, as a path with dots."""
    path = ".".join(str(part) for part in fault["loc"] if part != "[key]")
    return path or "(whole file)"


def said(fault: ErrorDetails, model: type[BaseModel]) -> str:
    """The fault and the cure.

    Args:
        fault: one of ``ValidationError.errors()``.
        model: the model that the whole document was checked against.
    """
    limits: Mapping[str, Any] = fault.get("ctx", {})
    match fault["type"]:
        case "value_error":
            return str(limits["error"])
        case "missing":
            return "is missing; add it"
        case "extra_forbidden":
            known = _fields_beside(model, fault["loc"])
            close = get_close_matches(str(fault["loc"][-1]), known, n=1)
            return "there is no such field; " + (
                f"did you mean {close[0]}?" if close else "remove it"
            )
        case "string_pattern_mismatch":
            return f"is {_short(fault['input'])}; it must be {IN_WORDS[limits['pattern']]}"
        case "literal_error":
            return f"is {_short(fault['input'])}; it must be {limits['expected']}"
        case "greater_than_equal":
            return f"is {_short(fault['input'])}; it must be {limits['ge']} or more"
        case "greater_than":
            return f"is {_short(fault['input'])}; it must be more than {limits['gt']}"
        case "less_than_equal":
            return f"is {_short(fault['input'])}; it must be {limits['le']} or less"
        case "too_long":
            return (
                f"there are {limits['actual_length']}; it may have at most {limits['max_length']}"
            )
        case "string_type":
            return f"is {_short(fault['input'])}; it must be text: write it in quotes"
        case "int_parsing" | "int_type" | "int_from_float":
            return f"is {_short(fault['input'])}; it must be a whole number"
        case "float_parsing" | "float_type" | "finite_number":
            return f"is {_short(fault['input'])}; it must be a number"
        case "bool_parsing" | "bool_type":
            return f"is {_short(fault['input'])}; it must be true or false"
        case _:
            return _in_the_imperative(fault["msg"])


def _fields_beside(model: type[BaseModel], path: Sequence[str | int]) -> Collection[str]:
    """The fields of the section in which a path ends."""
    for part in path[:-1]:
        field = model.model_fields.get(str(part))
        if field is not None:  # else it is a name or a number within the one before
            inner = _model_in(field.annotation)
            if inner is None:
                return ()
            model = inner
    return model.model_fields.keys()


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for one in get_args(annotation) if (found := _model_in(one))), None)


def _in_the_imperative(message: str) -> str:
    return message.replace("Input should be", "must be", 1)


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}…"
