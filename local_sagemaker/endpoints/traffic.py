"""How an endpoint's requests are shared among its variants, also between the two fleets of an
update.

Sources: docs.aws.amazon.com/sagemaker/latest/dg/model-ab-testing.html (weights) and
…/dg/deployment-guardrails-blue-green-linear.html (a part of the green fleet is turned on, and the
same part of the blue one is turned off).
"""

import math
import random
from collections.abc import Callable, Mapping
from fractions import Fraction

from local_sagemaker.endpoints.fleet import Variant

Fleet = dict[str, Variant]


class Shift:
    """Two fleets that share an endpoint's requests: the old one, blue, and the new one, green.

    All requests go to the blue fleet until `move`, which calls `moved`.
    """

    def __init__(self, blue: Fleet, green: Fleet, moved: Callable[[], None] | None = None) -> None:
        self.blue, self.green = blue, green
        self._moved = moved
        self.shares: Mapping[str, Fraction] = dict.fromkeys(green, Fraction(0))

    def share(self, variant: str) -> Fraction:
        """The part of a variant's requests that the green fleet gets."""
        return self.shares.get(variant, min(self.shares.values()))

    def move(self, shares: Mapping[str, Fraction]) -> None:
        """Send these parts of the requests to the green fleet, and let as large a part of its
        instances take them."""
        self.shares = shares
        for fleet, green in ((self.blue, False), (self.green, True)):
            for variant in production(fleet):
                share = self.share(variant.name) if green else 1 - self.share(variant.name)
                variant.active = math.ceil(share * variant.document["DesiredInstanceCount"])
        if self._moved is not None:
            self._moved()

    def in_turn(self, variant: str) -> list[Variant]:
        """The variant's two fleets that take its requests now, in a random order by their
        shares."""
        share = float(self.share(variant))
        both = [(self.green, share), (self.blue, 1 - share)]
        if random.random() >= share:  # noqa: S311 - sharing traffic is no secret
            both.reverse()
        return [fleet[variant] for fleet, part in both if part > 0 and variant in fleet]

    def weights(self) -> list[tuple[Variant, float]]:
        """Every variant of both fleets with its weight for a request that names none."""
        weighted = []
        for fleet, green in ((self.blue, False), (self.green, True)):
            variants = production(fleet)
            total = sum(one.document["CurrentWeight"] for one in variants)
            for one in variants:
                share = self.share(one.name) if green else 1 - self.share(one.name)
                weight = one.document["CurrentWeight"] / total if total else 0.0
                weighted.append((one, weight * float(share)))
        return weighted


def production(fleet: Fleet) -> list[Variant]:
    """The variants of a fleet that answer requests: all but the shadow variants."""
    return [variant for variant in fleet.values() if not variant.document.get("Shadow")]


def named_variant(fleet: Fleet, shift: Shift | None, name: str) -> Variant | None:
    """The variant for a request that names it, or None."""
    if shift is not None:
        turn = [one for one in shift.in_turn(name) if not one.document.get("Shadow")]
        return turn[0] if turn else None
    found = fleet.get(name)
    return None if found is None or found.document.get("Shadow") else found


def any_variant(fleet: Fleet, shift: Shift | None) -> Variant | None:
    """The variant for a request that names none, drawn by weight, or None where none has a
    weight."""
    variants = production(fleet)
    if shift is None and len(variants) == 1:
        return variants[0]
    weighted = (
        shift.weights()
        if shift is not None
        else [(one, one.document["CurrentWeight"]) for one in variants]
    )
    if not any(weight for _, weight in weighted):
        return None
    (drawn,) = random.choices(weighted, [weight for _, weight in weighted])  # noqa: S311
    return drawn[0]
