"""How the plain code of the assets reports its results, to a Dagster run or to a test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

from tenantry.names import ids

AssetName = Literal[
    "training_data", "fine_tuned_artifact", "endpoint_registration", "batch_predictions"
]
ONBOARDING: Final[tuple[AssetName, ...]] = (
    "training_data",
    "fine_tuned_artifact",
    "endpoint_registration",
)


class Markdown(str):
    """Text that people see formatted."""

    __slots__ = ()


@dataclass(frozen=True)
class Table:
    """Rows that people see as a table; all have the columns of the first."""

    rows: tuple[Mapping[str, str | int | float], ...]


@dataclass(frozen=True)
class Finding:
    """The answer to a question about a tenant's asset, and the facts behind it; bytes among the
    facts are pictures."""

    passed: bool
    facts: Mapping[str, Any] = field(default_factory=dict)


class Report(Protocol):
    """Receives each tenant's outcome as soon as it is known."""

    def materialized(
        self, asset: AssetName, tenant: ids.ModelId, metadata: Mapping[str, Any], data_version: str
    ) -> None:
        """A tenant's asset exists now; ``data_version`` is a digest or name of its content."""
        ...

    def checked(
        self,
        asset: AssetName,
        check: str,
        tenant: ids.ModelId,
        metadata: Mapping[str, Any],
        *,
        passed: bool,
    ) -> None:
        """A tenant's asset was looked at."""
        ...

    def failed(self, asset: AssetName, tenant: ids.ModelId, reason: str) -> None:
        """A tenant's asset could not be made, and its page says why; the others go on."""
        ...

    def flush(self) -> None:
        """Hand on the events noted so far; they are durable when this returns."""
        ...

    def info(self, message: str) -> None:
        """A message for a person who follows along."""
        ...
