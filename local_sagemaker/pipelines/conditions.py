"""The conditions of Condition steps.

Source: docs.aws.amazon.com/sagemaker/latest/dg/build-and-manage-steps-types.html (Condition step)
and the conditions that the SageMaker Python SDK writes.
"""

import operator
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from local_sagemaker.pipelines.references import UnknownReferenceError

_COMPARISONS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "Equals": operator.eq,
    "GreaterThan": operator.gt,
    "GreaterThanOrEqualTo": operator.ge,
    "LessThan": operator.lt,
    "LessThanOrEqualTo": operator.le,
}
Resolve = Callable[[Any], Any]


class _Condition(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Comparison(_Condition):
    """Two values, compared: numbers with numbers, text with text."""

    Type: Literal["Equals", "GreaterThan", "GreaterThanOrEqualTo", "LessThan", "LessThanOrEqualTo"]
    LeftValue: Any
    RightValue: Any

    def holds(self, resolve: Resolve) -> bool:
        """Raises UnknownReferenceError for values that cannot be compared."""
        left, right = resolve(self.LeftValue), resolve(self.RightValue)
        if _kind(left) is not _kind(right):
            raise UnknownReferenceError(f"{self.Type} cannot compare {left!r} with {right!r}")
        return bool(_COMPARISONS[self.Type](left, right))


class Membership(_Condition):
    """A value that is among several."""

    Type: Literal["In"]
    QueryValue: Any
    Values: list[Any]

    def holds(self, resolve: Resolve) -> bool:
        """Whether it is."""
        return bool(resolve(self.QueryValue) in resolve(self.Values))


class Negation(_Condition):
    """A condition that does not hold."""

    Type: Literal["Not"]
    Condition: "AnyCondition"

    def holds(self, resolve: Resolve) -> bool:
        """Whether it does not."""
        return not self.Condition.holds(resolve)


class Disjunction(_Condition):
    """Conditions of which one holds."""

    Type: Literal["Or"]
    Conditions: list["AnyCondition"]

    def holds(self, resolve: Resolve) -> bool:
        """Whether one does."""
        return any(condition.holds(resolve) for condition in self.Conditions)


AnyCondition = Annotated[
    Comparison | Membership | Negation | Disjunction, Field(discriminator="Type")
]
Negation.model_rebuild()
Disjunction.model_rebuild()


def _kind(value: Any) -> type:
    return float if isinstance(value, int | float) and not isinstance(value, bool) else type(value)
