"""What a DeploymentConfig asks for: the steps of an update of an endpoint, its waits, its alarms.

Sources: docs.aws.amazon.com/sagemaker/latest/APIReference/API_DeploymentConfig.html and the
structures that it names; …/dg/deployment-guardrails-blue-green-canary.html, …-linear.html,
…/dg/deployment-guardrails-rolling.html and …/dg/deployment-guardrails-exclusions.html.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from local_sagemaker.account.state import Document
from local_sagemaker.errors import validation
from local_sagemaker.serverless.config import is_serverless

_EXCLUDED_INSTANCES: Final = "ml.inf1."
"""Endpoints on Inf1 have no guardrails (…/dg/deployment-guardrails-exclusions.html)."""


@dataclass(frozen=True)
class Step:
    """One shift of traffic, and what bakes after it.

    `shares` are the parts of the variants' traffic on the green fleet. `green` are the instances
    that the green fleet has, and `blue` those that the blue fleet keeps after the baking.
    """

    shares: Mapping[str, Fraction]
    green: Mapping[str, int]
    blue: Mapping[str, int]


@dataclass(frozen=True)
class Plan:
    """A deployment: its steps, with `wait_seconds` of baking after each.

    The blue fleet ends `termination_seconds` after the last baking. The deployment is rolled back
    `timeout_seconds` after its begin, or when one of `alarms` is in ALARM. `rollback` is the part
    of the blue fleet that one step of a rollback brings back.
    """

    steps: tuple[Step, ...]
    wait_seconds: int = 0
    termination_seconds: int = 0
    timeout_seconds: int | None = None
    alarms: tuple[str, ...] = ()
    rollback: Fraction = Fraction(1)

    def most_instances(self, blue: list[Document], green: list[Document]) -> list[Document]:
        """The variants with the instances that the deployment holds at most, both fleets together.

        A rolling deployment between two instance types holds the most of each.
        """
        most: dict[str, Document] = {}
        kept: Mapping[str, int] = _counts(blue)
        for step in self.steps:
            held = {("blue", name): count for name, count in kept.items()}
            held |= {("green", name): count for name, count in step.green.items()}
            by_type: dict[str, int] = {}
            for colour, documents in (("blue", blue), ("green", green)):
                for document in documents:
                    if is_serverless([document]):
                        continue
                    kind = document["Config"]["InstanceType"]
                    count = held[colour, document["VariantName"]]
                    by_type[kind] = by_type.get(kind, 0) + count
            for kind, count in by_type.items():
                if count > most.get(kind, {"DesiredInstanceCount": 0})["DesiredInstanceCount"]:
                    most[kind] = {"Config": {"InstanceType": kind}, "DesiredInstanceCount": count}
            kept = step.blue
        return list(most.values())


def deployment_plan(config: Document, blue: list[Document], green: list[Document]) -> Plan:
    """The plan of an update from the variants `blue` to `green` with this DeploymentConfig, {} for
    none. Raises ValidationException for what AWS does not allow.

    An endpoint that AWS excludes from guardrails falls back to all at once, without baking.
    """
    check(config)
    all_at_once = (_whole(blue, green),)
    if not config or any(
        document["Config"].get("InstanceType", "").startswith(_EXCLUDED_INSTANCES)
        for document in (*blue, *green)
    ):
        return Plan(all_at_once)
    if is_serverless((*blue, *green)):
        raise validation("DeploymentConfig is not supported for Serverless Inference.")
    if _production(blue) != _production(green):
        raise validation(
            "When doing a blue/green or rolling deployment, your new endpoint configuration must "
            "have the same variant name as the old endpoint configuration."
        )
    alarms = tuple(one["AlarmName"] for one in _alarms(config))
    if rolling := config.get("RollingUpdatePolicy"):
        return _rolling(rolling, alarms, blue, green)
    policy = config.get("BlueGreenUpdatePolicy")
    if policy is None:
        return Plan(all_at_once, alarms=alarms)
    routing = policy["TrafficRoutingConfiguration"]
    return Plan(
        _blue_green_steps(routing, blue, green) or all_at_once,
        routing["WaitIntervalInSeconds"],
        policy.get("TerminationWaitInSeconds", 0),
        policy.get("MaximumExecutionTimeoutInSeconds"),
        alarms,
    )


def check(config: Document) -> None:
    """Raises ValidationException for a DeploymentConfig that no endpoint can have."""
    rolling, policy = config.get("RollingUpdatePolicy"), config.get("BlueGreenUpdatePolicy")
    if rolling and policy:
        raise validation("Only one update policy should be used in the deployment configuration.")
    names = [alarm.get("AlarmName") for alarm in _alarms(config)]
    if None in names or len(set(names)) != len(names):
        raise validation("AutoRollbackConfiguration.Alarms must name each alarm once.")
    waits = 0
    if policy:
        routing = policy["TrafficRoutingConfiguration"]
        waits = policy.get("TerminationWaitInSeconds", 0) + routing["WaitIntervalInSeconds"]
        wanted = {"CANARY": "CanarySize", "LINEAR": "LinearStepSize"}.get(routing["Type"])
        for member in ("CanarySize", "LinearStepSize"):
            if (member in routing) != (member == wanted):
                verb = "is required" if member == wanted else "is not allowed"
                raise validation(
                    f"TrafficRoutingConfiguration.{member} {verb} with the type {routing['Type']}."
                )
        _check_percent("CanarySize", routing.get("CanarySize"), 1, 50)
        _check_percent("LinearStepSize", routing.get("LinearStepSize"), 10, 50)
    if rolling:
        waits = rolling["WaitIntervalInSeconds"]
        _check_percent("MaximumBatchSize", rolling["MaximumBatchSize"], 5, 50)
        _check_percent("RollbackMaximumBatchSize", rolling.get("RollbackMaximumBatchSize"), 5, 100)
    timeout = (rolling or policy or {}).get("MaximumExecutionTimeoutInSeconds")
    if timeout is not None and timeout <= waits:
        raise validation(
            "MaximumExecutionTimeoutInSeconds should be larger than the total waiting time "
            "specified in TerminationWaitInSeconds and WaitIntervalInSeconds."
        )


def _alarms(config: Document) -> list[Document]:
    alarms: list[Document] = config.get("AutoRollbackConfiguration", {}).get("Alarms", [])
    return alarms


def _production(variants: list[Document]) -> set[str]:
    return {one["VariantName"] for one in variants if not one.get("Shadow")}


def _counts(variants: list[Document]) -> dict[str, int]:
    return {one["VariantName"]: one["DesiredInstanceCount"] for one in variants}


def _whole(blue: list[Document], green: list[Document]) -> Step:
    """All traffic on the whole green fleet."""
    counts = _counts(green)
    return Step(dict.fromkeys(counts, Fraction(1)), counts, _counts(blue))


def _blue_green_steps(
    routing: Document, blue: list[Document], green: list[Document]
) -> tuple[Step, ...]:
    if routing["Type"] == "ALL_AT_ONCE":
        return ()
    canary = routing["Type"] == "CANARY"
    member, least = ("CanarySize", 1) if canary else ("LinearStepSize", 10)
    counts, kept = _counts(green), _counts(blue)
    sizes = {
        one["VariantName"]: _size(member, routing[member], one, least, 50)
        for one in green
        if not one.get("Shadow")
    }
    number = 2 if canary else max(math.ceil(1 / size) for size in sizes.values())
    steps = []
    for step in range(1, number + 1):
        shares = {
            name: Fraction(1) if step == number else min(Fraction(1), step * size)
            for name, size in sizes.items()
        }
        steps.append(Step(shares, counts, kept))
    return tuple(steps)


def _rolling(
    policy: Document, alarms: tuple[str, ...], blue: list[Document], green: list[Document]
) -> Plan:
    if any("ServerlessConfig" in one["Config"] for one in (*blue, *green)):
        raise validation("Rolling deployments do not support serverless inference endpoints.")
    if len(green) > 1 or len(blue) > 1:  # a shadow variant is one more
        raise validation("Rolling deployments do not support multi-variant inference endpoints.")
    (new,), (old,) = green, blue
    name, total, before = new["VariantName"], new["DesiredInstanceCount"], 0
    size = _size("MaximumBatchSize", policy["MaximumBatchSize"], new, 5, 50)
    batch = max(math.floor(size * total), 1)
    steps: list[Step] = []
    while before < total or not steps:
        before = min(before + batch, total)
        share = Fraction(before, total) if total else Fraction(1)
        left = math.ceil((1 - share) * old["DesiredInstanceCount"])
        steps.append(Step({name: share}, {name: before}, {name: left}))
    rollback = policy.get("RollbackMaximumBatchSize")
    return Plan(
        tuple(steps),
        policy["WaitIntervalInSeconds"],
        0,
        policy.get("MaximumExecutionTimeoutInSeconds"),
        alarms,
        _size("RollbackMaximumBatchSize", rollback, old, 0, 100) if rollback else Fraction(1),
    )


def _size(member: str, size: Document, variant: Document, least: int, most: int) -> Fraction:
    """A CapacitySize as a part of the variant. Raises ValidationException for one that is not from
    `least` to `most` percent of its instances."""
    count = variant["DesiredInstanceCount"]
    if size["Type"] == "CAPACITY_PERCENT":
        return Fraction(size["Value"], 100)
    if not least * count <= 100 * size["Value"] <= most * count:
        raise _out_of_range(member, least, most, f"{size['Value']} of {count} instances")
    return Fraction(size["Value"], count)


def _check_percent(member: str, size: Document | None, least: int, most: int) -> None:
    if size and size["Type"] == "CAPACITY_PERCENT" and not least <= size["Value"] <= most:
        raise _out_of_range(member, least, most, f"{size['Value']}%")


def _out_of_range(member: str, least: int, most: int, what: str) -> Exception:
    return validation(
        f"{member} must be between {least}% and {most}% of the variant's total instance count; it "
        f"is {what}."
    )
