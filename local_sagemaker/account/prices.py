"""Prices of Amazon SageMaker in USD, as far as they could be found in public sources.

AWS's own page is aws.amazon.com/sagemaker/ai/pricing. It shows its tables through scripts, so each
figure here is from a public document that quotes AWS. What has no figure here has no price on the
bill, unless the caller's file has one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import yaml
from pydantic import Field, TypeAdapter

_Prices = TypeAdapter(dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]])


@dataclass(frozen=True)
class PriceSource:
    """Where prices are from: the document, its date, and the region, None where it tells none."""

    document: str
    date: str
    region: str | None


IRELAND: Final = PriceSource(
    "an AWS bill in github.com/aws-samples/sagemaker-ssh-helper, Sample_Costs.md",
    "2023-12",
    "eu-west-1",
)
BENCHMARKING: Final = PriceSource(
    "github.com/aws-samples/sagemaker-serverless-inference-benchmarking, cost_constants.py",
    "2023",
    None,
)
TABLE: Final[tuple[tuple[PriceSource, Mapping[str, float]], ...]] = (
    (
        IRELAND,
        {
            "ml.m5.xlarge": 0.257,
            "ml.g4dn.xlarge for endpoint": 0.821,
            "ml.g4dn.xlarge for training job": 0.822,
            "ml.g4dn.xlarge for training warm pool": 0.822,
            "ml.g4dn.4xlarge for endpoint": 1.678,
            "ml.g4dn.12xlarge for endpoint": 5.453,
            "ml.g5.xlarge for training job": 1.57,
            "ml.g5.12xlarge for endpoint": 7.91,
            "ml.p3.2xlarge for training job": 4.131,
            "storage for endpoint": 0.154,
            "storage for training job": 0.154,
            "storage for training warm pool": 0.154,
            "data in for endpoint": 0.016,
            "data out for endpoint": 0.016,
        },
    ),
    (
        BENCHMARKING,
        {
            "serverless compute": 0.00002,
            "data in for serverless": 0.016,
            "data out for serverless": 0.016,
        },
    ),
)
"""Prices by their names on the bill, each with `for USAGE` where it is of one usage. An instance
type is priced by the hour, storage by the GB-month, data by the GB, serverless compute by the
GB-second (the source has 0.00002 a second for 1024 MB, and the multiples for larger sizes)."""


@dataclass(frozen=True)
class Price:
    """The price of one unit, and where it is from."""

    amount: float
    source: str


class Prices:
    """The prices of an account: those of the caller's file, otherwise those of `TABLE` for its
    region, if its currency is USD.

    A price of the table without a region holds in every region, and its source says so.
    """

    def __init__(self, given: Mapping[str, float] | None, region: str, currency: str) -> None:
        self._given = given or {}
        self._region = region
        self._currency = currency

    def of(self, name: str, usage: str) -> Price | None:
        """The price of what has this name, in this usage."""
        for key in (f"{name} for {usage}", name):
            if key in self._given:
                return Price(self._given[key], "the caller's prices")
        if self._currency == "USD":
            for source, table in TABLE:
                if source.region not in (None, self._region):
                    continue
                for key in (f"{name} for {usage}", name):
                    if key in table:
                        region = source.region or "no region stated"
                        return Price(table[key], f"{source.document}, {source.date}, {region}")
        return None


def read_prices(path: Path) -> dict[str, float]:
    """The caller's prices, from a YAML or JSON file: `{"ml.m5.large": 0.115}`. The names are those
    of `TABLE`.

    Raises ValueError (pydantic's names the wrong entry) and OSError.
    """
    try:
        return _Prices.validate_python(yaml.safe_load(path.read_text()))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is neither YAML nor JSON: {error}") from error


def read_discount(text: str) -> tuple[str, float]:
    """A usage and the share of its instances' price that a Savings Plan takes off, from
    `endpoint=0.2`. Raises ValueError."""
    usage, _, share = text.rpartition("=")
    try:
        found = float(share)
    except ValueError:
        found = -1.0
    if not usage or not 0 <= found <= 1:
        raise ValueError(f"{text!r} is no discount; write 'USAGE=SHARE' with a share from 0 to 1")
    return usage, found
