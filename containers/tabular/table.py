"""The table that tenants upload: which columns it has, what they hold, and what is learned.

This module is the one place that describes it: preparation, training, serving, drift and the
synthetic data read `TABLE`. A workload's hyperparameters do not reach preparation, which has only
the upload's own parameters. Another table is therefore another `TABLE`, in a copy of this folder.

A model keeps its columns in its own files. A model of an earlier table is therefore still served.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, cast, get_args

Kind = Literal["numeric", "category", "flag"]

OTHER: Final = "other"
"""The category of every value that a column does not declare."""


@dataclass(frozen=True)
class Column:
    """A column that models learn from.

    - `numeric`: a number from `low` to `high`, both included.
    - `category`: one of `categories` in small letters; anything else counts as `OTHER`.
    - `flag`: true or false.

    Any value may be missing. With `optional`, a file or a request may also lack the column.
    """

    name: str
    kind: Kind
    low: float = 0.0
    high: float = 0.0
    categories: tuple[str, ...] = ()
    optional: bool = False

    @property
    def codes(self) -> Mapping[str, int]:
        """The number of each category, as models see it; `OTHER` is the last."""
        return {name: code for code, name in enumerate((*self.categories, OTHER))}

    def to_json(self) -> dict[str, Any]:
        """The column as a JSON object, for `column_of`."""
        return asdict(self)


def category_of(text: str) -> str:
    """The usual spelling of a category: `Multi-Year` and `multi year` are `multi_year`."""
    return re.sub(r"[\s-]+", "_", text.strip().lower())


@dataclass(frozen=True)
class Table:
    """A table of one row for each value of `id` and period.

    `id` is the column that names the customer, and `period` the month. Of all a customer's rows,
    `target` tells what became of the customer after that month; blank is not known yet.
    """

    id: str
    period: str
    target: str
    features: tuple[Column, ...]


def column_of(said: object) -> Column:
    """The column of a JSON object that `to_json` made. Raises `ValueError` for anything else."""
    match said:
        case {
            "name": str(name),
            "kind": str(kind),
            "low": int() | float() as low,
            "high": int() | float() as high,
            "categories": list(categories),
            "optional": bool(optional),
        } if (
            kind in get_args(Kind)
            and low <= high
            and all(isinstance(one, str) for one in categories)
            and len({*categories, OTHER}) == len(categories) + 1
        ):
            return Column(name, cast(Kind, kind), low, high, tuple(categories), optional)
    raise ValueError("a column is not described as one")


TABLE: Final = Table(
    id="customer",
    period="period",
    target="churned",
    features=(
        Column("tenure_months", "numeric", 0, 600),
        Column("contract", "category", categories=("monthly", "annual", "multi_year")),
        Column("autopay", "flag"),
        Column("monthly_charge", "numeric", 0, 1_000_000),
        Column("seats", "numeric", 0, 1_000_000),
        Column("seats_used", "numeric", 0, 1_000_000),
        Column("logins_30d", "numeric", 0, 10_000_000),
        Column("support_tickets_90d", "numeric", 0, 100_000),
        Column("late_payments_12m", "numeric", 0, 12),
        Column("nps", "numeric", 0, 10, optional=True),
    ),
)
"""Churn: does the customer leave within the month after `period`? `nps` is the customer's last
answer to "would you recommend us", 0 to 10."""
