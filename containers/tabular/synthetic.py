"""Synthetic customers of many tenants, some of whom leave: data whose truth is known.

A customer's chance to leave in the month after `period` is `1 / (1 + exp(-z))`, with

    z = tenant's level                                      normal, mean -2.4, deviation 0.5
      - 0.9 · log(1 + tenure_months) / log(13)              loyalty grows, ever slower
      + 0.8 · monthly, - 0.6 · multi_year                   the contract
      - 0.5 · autopay
      + 1.6 · (0.6 - seats_used / seats)                    what is not used is not missed
      + EFFECT_OF_TICKETS · (tickets - 1), from 0 to 6 of them
      + 0.35 · late_payments_12m
      + 0.25 · (7 - nps), and 0 where nps is missing
      + 0.9 · (no log-in for 30 days)

`monthly_charge` has no effect. A tenant's level is in no column: a shared model cannot know it, so
even the best has a little more loss than the truth. Tenants also differ in their mix of contracts,
and in how large their customers are.

From the period number `drift_from` on, a ticket has the effect `EFFECT_OF_TICKETS_LATER`: support
became good, and those who call it stay. Nothing else changes, so the columns look as before.

A customer who left has no more rows. Nobody knows yet who will leave after the last period: there
`churned` is null.
"""

from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from containers.tabular.table import TABLE

if TYPE_CHECKING:
    import pyarrow as pa

TENANT: Final = "tenant"
TRUTH: Final = "probability"
EFFECT_OF_TICKETS: Final = 0.45
EFFECT_OF_TICKETS_LATER: Final = -0.35
FIRST: Final = (2024, 1)
"""Year and month of the first period."""

_CONTRACTS: Final = np.array(["monthly", "annual", "multi_year"])
_Floats = NDArray[np.float64]


def generate(
    tenants: int, customers: int, months: int, seed: int = 0, *, drift_from: int | None = None
) -> "pa.Table":
    """Rows of `tenants` tenants with `customers` customers each, over `months` periods.

    The columns are `tenant`, those that a tenant uploads, and `probability`, the truth. The same
    arguments give the same rows. A tenant's rows depend on its number and the seed, not on the
    number of tenants. Raises `ValueError` for numbers below 1.
    """
    import pyarrow as pa

    if min(tenants, customers, months) < 1:
        raise ValueError("tenants, customers and months must be at least 1")
    parts = [
        _tenant(number, customers, months, seed, months if drift_from is None else drift_from)
        for number in range(tenants)
    ]
    return pa.concat_tables(parts)


def uploaded(rows: "pa.Table") -> "pa.Table":
    """The columns that a tenant uploads, without the truth."""
    return rows.select([TABLE.id, TABLE.period, *(c.name for c in TABLE.features), TABLE.target])


def _tenant(number: int, customers: int, months: int, seed: int, drift_from: int) -> "pa.Table":
    import pyarrow as pa

    random = np.random.default_rng([seed, number])
    level = random.normal(-2.4, 0.5)
    contract = random.choice(3, customers, p=random.dirichlet([5.0, 4.0, 2.0]))
    seats = 1 + random.geometric(1 / random.uniform(3, 30), customers)
    used_share = random.beta(4, 2.5, customers)
    price = random.uniform(8, 60)
    autopay = random.random(customers) < 0.6
    contact = random.gamma(1.2, 1.0, customers)
    late = random.random(customers) < 0.2
    mood = random.normal(7, 2, customers)
    tenure = random.geometric(1 / 18, customers) - 1
    here = np.ones(customers, np.bool_)
    parts = []
    for month in range(months):
        features: dict[str, Any] = {
            "tenure_months": (tenure + month).astype(np.float64),
            "contract": _CONTRACTS[contract],
            "autopay": autopay,
            "monthly_charge": np.round(seats * price, 2),
            "seats": seats.astype(np.float64),
            "seats_used": random.binomial(seats, used_share).astype(np.float64),
            "logins_30d": random.poisson(seats * used_share * 2).astype(np.float64),
            "support_tickets_90d": random.poisson(contact).astype(np.float64),
            "late_payments_12m": random.binomial(12, np.where(late, 0.15, 0.01)).astype(np.float64),
            "nps": np.where(
                random.random(customers) < 0.4,
                np.clip(np.round(mood + random.normal(0, 1, customers)), 0, 10),
                np.nan,
            ),
        }
        truth = probability(features, level, later=month >= drift_from)
        left = random.random(customers) < truth
        year, place = divmod(FIRST[0] * 12 + FIRST[1] - 1 + month, 12)
        unknown = None if month < months - 1 else np.ones(int(here.sum()), np.bool_)
        chosen = np.flatnonzero(here)
        columns = {
            TENANT: pa.array([f"tenant-{number:04d}"] * len(chosen)),
            TABLE.id: pa.array([f"c{customer:06d}" for customer in chosen]),
            TABLE.period: pa.array([date(year, place + 1, 1)] * len(chosen), pa.date32()),
            **{
                name: pa.array(values[chosen], from_pandas=True)
                for name, values in features.items()
            },
            TABLE.target: pa.array(left[chosen], mask=unknown),
            TRUTH: pa.array(truth[chosen]),
        }
        parts.append(pa.table(columns))
        here &= ~left
    return pa.concat_tables(parts)


def probability(features: Mapping[str, Any], level: float, *, later: bool = False) -> _Floats:
    """The chance of each row to leave: the formula above."""
    tickets = EFFECT_OF_TICKETS_LATER if later else EFFECT_OF_TICKETS
    z = (
        level
        - 0.9 * np.log1p(features["tenure_months"]) / np.log(13)
        + 0.8 * (features["contract"] == "monthly")
        - 0.6 * (features["contract"] == "multi_year")
        - 0.5 * features["autopay"]
        + 1.6 * (0.6 - features["seats_used"] / features["seats"])
        + tickets * (np.minimum(features["support_tickets_90d"], 6) - 1)
        + 0.35 * features["late_payments_12m"]
        + 0.25 * np.nan_to_num(7 - features["nps"])
        + 0.9 * (features["logins_30d"] == 0)
    )
    told: _Floats = 1 / (1 + np.exp(-z))
    return told
