"""Deliberate faults: a seeded plan of faults, set over HTTP (`/_local/faults`), and single
immediate faults.

A rule strikes opportunities: a call, the start of a job, the life of a container, one request to
S3, one notification. The draw depends on the seed, the rule's place in the plan, the opportunity's
name, and the number of earlier opportunities of that name. The same seed and the same calls
therefore meet the same faults, however calls of different names interleave. docs/local-cloud.md
describes the kinds to users.
"""

import asyncio
import random
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Annotated, Any, Final, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from local_sagemaker.clock import MACHINE
from local_sagemaker.errors import LocalSageMakerError, ServiceError
from local_sagemaker.processes.containers import Container

ContainerKind = Literal["kill_container", "hang_container", "slow_container", "spot_interruption"]
Kind = Literal[
    "throttle",
    "server_error",
    "lost_answer",
    "resource_limit",
    "capacity",
    "slow_provisioning",
    "spot_interruption",
    "kill_container",
    "hang_container",
    "slow_container",
    "s3_error",
    "lost_notification",
    "repeated_notification",
    "failed_update",
]
CAPACITY_REASON: Final = (
    "CapacityError: Unable to provision requested ML compute capacity. "
    "Please retry using a different ML instance type."
)
"""The FailureReason of a job that found no instances."""
UPDATE_REASON: Final = (
    "Unable to provision requested ML compute capacity due to InsufficientInstanceCapacity error. "
    "Please retry using a different ML instance type or after some time."
)
_HOLD_INSTANCES: Final = frozenset(
    {
        "CreateTrainingJob",
        "CreateTransformJob",
        "CreateProcessingJob",
        "CreateEndpoint",
        "UpdateEndpoint",
        "UpdateEndpointWeightsAndCapacities",
    }
)
_JOB_NAMES: Final = ("TrainingJobName", "TransformJobName", "ProcessingJobName")
_CALLS: Final = ("operation", "endpoint", "job", "image")
_SELECTORS: Final[Mapping[str, tuple[str, ...]]] = {
    "throttle": _CALLS,
    "server_error": _CALLS,
    "lost_answer": _CALLS,
    "resource_limit": _CALLS,
    "capacity": ("job", "image"),
    "slow_provisioning": ("endpoint", "image"),
    "spot_interruption": ("job", "image"),
    "kill_container": ("job", "endpoint", "image"),
    "hang_container": ("job", "endpoint", "image"),
    "slow_container": ("job", "endpoint", "image"),
    "s3_error": ("operation",),
    "lost_notification": ("endpoint",),
    "repeated_notification": ("endpoint",),
    "failed_update": ("operation", "endpoint"),
}
_LASTING: Final = ("capacity", "spot_interruption", "hang_container", "slow_container")
_LONGEST_SECONDS: Final = 28 * 24 * 3600.0
_RULES_LIMIT: Final = 200
_EVENTS_KEPT: Final = 1000
_SLOW_SECONDS: Final = 1.0

Pattern = Annotated[str, Field(min_length=1, max_length=256)]
Seconds = Annotated[float, Field(ge=0, le=_LONGEST_SECONDS, allow_inf_nan=False)]


class NoCapacityError(LocalSageMakerError):
    """AWS currently has no instances of that type; the message is the FailureReason."""


class _Selecting(BaseModel):
    """The patterns of names in rules and single faults, with `*` and `?` as in a shell. A missing
    pattern matches all names."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    operation: Pattern | None = None
    endpoint: Pattern | None = None
    job: Pattern | None = None
    image: Pattern | None = None
    seconds: Seconds | None = None

    @field_validator("operation", "endpoint", "job", "image")
    @classmethod
    def _selector_of_its_kind(cls, value: str | None, info: ValidationInfo) -> str | None:
        kind = info.data.get("kind")
        if value is not None and kind is not None and info.field_name not in _SELECTORS[kind]:
            raise ValueError(
                f"a rule of kind {kind} does not select by {info.field_name}, only by "
                f"{' and '.join(_SELECTORS[kind])}"
            )
        return value

    @field_validator("seconds")
    @classmethod
    def _lasting(cls, value: float | None, info: ValidationInfo) -> float | None:
        kind = info.data.get("kind")
        if value is not None and kind is not None and kind not in _LASTING:
            raise ValueError(
                f"{kind} has no duration; only {', '.join(_LASTING)} have one. Leave it out"
            )
        return value


class Rule(_Selecting):
    """One line of a plan.

    - `kind`: the kind of fault.
    - `probability`: the share of opportunities that are struck.
    - `most`: the most strikes, or None for no limit.
    - `operation`, `endpoint`, `job`, `image`: shell patterns that the opportunity's names must
      match.
    - `after_seconds`: the bounds of the container's age at the strike; without them the fault
      strikes at once. For slow provisioning, which needs them, the bounds of the delay.
    - `seconds`: the duration, for kinds that last.
    """

    probability: float = Field(default=1.0, ge=0, le=1, allow_inf_nan=False)
    most: int | None = Field(default=None, ge=0)
    after_seconds: tuple[Seconds, Seconds] | None = None

    @field_validator("after_seconds")
    @classmethod
    def _of_a_container(
        cls, value: tuple[float, float] | None, info: ValidationInfo
    ) -> tuple[float, float] | None:
        kind = info.data.get("kind")
        if value is None or kind is None:
            return value
        waiting = (*get_args(ContainerKind), "slow_provisioning")
        if kind not in waiting:
            raise ValueError(
                f"{kind} strikes at once; only {', '.join(waiting)} strike after a while"
            )
        if value[0] > value[1]:
            raise ValueError("the first number must not be larger than the second")
        return value

    @model_validator(mode="after")
    def _delay_of_provisioning(self) -> Self:
        if self.kind == "slow_provisioning" and self.after_seconds is None:
            raise ValueError("slow_provisioning needs after_seconds, the bounds of the delay")
        return self


class Plan(BaseModel):
    """The body of `PUT /_local/faults`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = Field(default=0, ge=-(2**63), lt=2**63)
    rules: list[Rule] = Field(max_length=_RULES_LIMIT)


class Strike(_Selecting):
    """The body of `POST /_local/faults/now`: one fault for every running container, or spot job,
    that the patterns select."""

    kind: ContainerKind


class Event(BaseModel):
    """A fault that happened: its time (seconds since 1970), its kind and its target."""

    at: float
    kind: Kind
    where: str


class RuleReport(Rule):
    """A rule and how often it struck."""

    happened: int


class Report(BaseModel):
    """The answer of `/_local/faults`: the plan, how often each rule struck, and the last 1,000
    faults, including single ones."""

    seed: int
    rules: list[RuleReport]
    happened: list[Event]


@dataclass(frozen=True)
class Subject:
    """An opportunity for a fault: its name, and the names that rules select by. A rule selects by
    image what has at least one image that matches."""

    where: str
    operation: str | None = None
    endpoint: str | None = None
    job: str | None = None
    images: tuple[str, ...] = ()

    @classmethod
    def of_call(cls, operation: str, params: Mapping[str, Any]) -> "Subject":
        """A call, with the names in its parameters."""
        job = next((params[name] for name in _JOB_NAMES if name in params), None)
        endpoint = params.get("EndpointName")
        image = params.get("AlgorithmSpecification", {}).get("TrainingImage") or params.get(
            "AppSpecification", {}
        ).get("ImageUri")
        named = job or endpoint
        where = f"{operation} {named}" if named else operation
        return cls(where, operation, endpoint, job, (image,) if image else ())

    def selected_by(self, selecting: _Selecting) -> bool:
        """Whether every given pattern matches."""
        for name in _CALLS:
            pattern = getattr(selecting, name)
            if name == "operation" and pattern is None and selecting.kind == "failed_update":
                pattern = "UpdateEndpoint"
            if pattern is not None and not any(
                fnmatchcase(value, pattern) for value in self._names(name)
            ):
                return False
        return True

    def _names(self, selector: str) -> tuple[str, ...]:
        if selector == "image":
            return self.images
        value: str | None = getattr(self, selector)
        return () if value is None else (value,)


@dataclass
class _Armed:
    """An active rule. `reserved` strikes are scheduled, and count towards `most`."""

    number: int
    rule: Rule
    happened: int = 0
    reserved: int = 0
    seen: Counter[str] = field(default_factory=Counter)

    def left(self) -> bool:
        return self.rule.most is None or self.happened + self.reserved < self.rule.most


Action = Callable[[float | None], bool]
"""Carries out a fault. It gets the rule's `seconds`, and returns whether its target still
existed."""


class Exposure:
    """A running target of faults, from `Faults.expose` until `withdraw`."""

    def __init__(
        self,
        faults: "Faults",
        subject: Subject,
        actions: Mapping[ContainerKind, Action],
        relieve: Callable[[], None],
    ) -> None:
        self._faults = faults
        self.subject = subject
        self.actions = actions
        self.relieve = relieve
        self.timers: dict[asyncio.TimerHandle, _Armed] = {}

    def withdraw(self) -> None:
        """End the exposure, so that no fault strikes the target."""
        self._faults.withdraw(self)


class Faults:
    """The current plan. `strikes` may be called from any thread, the other methods from the event
    loop's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seed = 0
        self._rules: list[_Armed] = []
        self._events: deque[Event] = deque(maxlen=_EVENTS_KEPT)
        self._exposures: set[Exposure] = set()

    def report(self) -> Report:
        """The plan and its faults so far."""
        with self._lock:
            rules = [
                RuleReport(**armed.rule.model_dump(), happened=armed.happened)
                for armed in self._rules
            ]
            return Report(seed=self._seed, rules=rules, happened=list(self._events))

    def replace(self, plan: Plan) -> None:
        """Replace the current plan. Running targets are opportunities for the new plan, with age
        zero."""
        self.end()
        with self._lock:
            self._seed = plan.seed
            self._rules = [_Armed(number, rule) for number, rule in enumerate(plan.rules)]
        for exposure in sorted(self._exposures, key=lambda exposure: exposure.subject.where):
            self._arm(exposure)

    def end(self) -> None:
        """End the plan: cancel its scheduled faults, resume hung containers, and restore the speed
        of slow ones."""
        for exposure in self._exposures:
            for timer in exposure.timers:
                timer.cancel()
            exposure.timers.clear()
            exposure.relieve()
        with self._lock:
            self._rules = []
            self._seed = 0
            self._events.clear()

    def strikes(self, kind: Kind, subject: Subject) -> Rule | None:
        """The rule that strikes this opportunity, if any; the strike counts as happened."""
        struck = self._strike(kind, subject)
        return struck[0] if struck else None

    def delay(self, kind: Kind, subject: Subject) -> float:
        """The seconds by which a rule delays this opportunity: drawn between its `after_seconds`,
        or 0 without such a rule."""
        struck = self._strike(kind, subject)
        return struck[1].uniform(*(struck[0].after_seconds or (0.0, 0.0))) if struck else 0.0

    def _strike(self, kind: Kind, subject: Subject) -> tuple[Rule, random.Random] | None:
        if not self._rules:
            return None
        with self._lock:
            for armed in self._rules:
                if (fate := self._draw(armed, kind, subject)) is not None:
                    armed.happened += 1
                    self._events.append(Event(at=MACHINE.now(), kind=kind, where=subject.where))
                    return armed.rule, fate
        return None

    def refuse(self, subject: Subject) -> None:
        """Check a call before it is carried out. Raises ServiceError if a rule makes the service
        refuse it."""
        if not self._rules:
            return
        if self.strikes("throttle", subject):
            raise ServiceError("ThrottlingException", "Rate exceeded")
        if struck := self._strike("server_error", subject):
            if struck[1].random() < 0.5:
                raise ServiceError(
                    "InternalFailure",
                    "The request processing has failed because of an unknown error.",
                    500,
                )
            raise ServiceError(
                "ServiceUnavailable", "The request has failed due to a temporary failure.", 503
            )
        if subject.operation in _HOLD_INSTANCES and self.strikes("resource_limit", subject):
            raise ServiceError(
                "ResourceLimitExceeded",
                "The account-level service limit for this usage is reached, by a fault that was "
                "planned. Please use AWS Service "
                "Quotas to request an increase for this quota.",
            )

    def expose(
        self,
        subject: Subject,
        actions: Mapping[ContainerKind, Action],
        relieve: Callable[[], None] = lambda: None,
    ) -> Exposure:
        """Expose a new target to later faults, which `actions` carry out; `relieve` ends lasting
        faults."""
        exposure = Exposure(self, subject, actions, relieve)
        self._exposures.add(exposure)
        self._arm(exposure)
        return exposure

    def withdraw(self, exposure: Exposure) -> None:
        """Remove a target that has ended; its scheduled strikes may then hit another."""
        self._exposures.discard(exposure)
        for timer, armed in exposure.timers.items():
            timer.cancel()
            armed.reserved -= 1
        exposure.timers.clear()

    def strike_now(self, strike: Strike) -> list[str]:
        """Carry out one fault on every running target that it selects; returns the names of the
        targets."""
        struck = []
        for exposure in sorted(self._exposures, key=lambda exposure: exposure.subject.where):
            action = exposure.actions.get(strike.kind)
            if (
                action is not None
                and exposure.subject.selected_by(strike)
                and action(strike.seconds)
            ):
                struck.append(exposure.subject.where)
        with self._lock:
            self._events.extend(
                Event(at=MACHINE.now(), kind=strike.kind, where=where) for where in struck
            )
        return struck

    def _arm(self, exposure: Exposure) -> None:
        """Draw the target's faults and their times now."""
        for armed in self._rules:
            for kind in exposure.actions:
                with self._lock:
                    fate = self._draw(armed, kind, exposure.subject)
                    if fate is None:
                        continue
                    armed.reserved += 1
                low, high = armed.rule.after_seconds or (0.0, 0.0)
                self._schedule(exposure, kind, armed, fate.uniform(low, high))

    def _schedule(
        self, exposure: Exposure, kind: ContainerKind, armed: _Armed, seconds: float
    ) -> None:
        def strike() -> None:
            exposure.timers.pop(timer, None)
            struck = exposure.actions[kind](armed.rule.seconds)
            with self._lock:
                armed.reserved -= 1
                if struck:
                    armed.happened += 1
                    self._events.append(
                        Event(at=MACHINE.now(), kind=kind, where=exposure.subject.where)
                    )

        timer = MACHINE.call_later(seconds, strike)
        exposure.timers[timer] = armed

    def _draw(self, armed: _Armed, kind: Kind, subject: Subject) -> random.Random | None:
        """The draw for one rule and one opportunity: None, or a random generator for the fault's
        further draws."""
        rule = armed.rule
        if rule.kind != kind or not subject.selected_by(rule) or not armed.left():
            return None
        time_before = armed.seen[subject.where]
        armed.seen[subject.where] += 1
        # The seed makes the draw reproducible.
        fate = random.Random(f"{self._seed}/{armed.number}/{subject.where}/{time_before}")  # noqa: S311
        return fate if fate.random() < rule.probability else None


class ContainerFaults:
    """The faults of one container. `delay_seconds` is the delay of each of its invocations."""

    def __init__(
        self, faults: Faults, subject: Subject, container: Container, *, serves: bool
    ) -> None:
        self._container = container
        self._serves = serves
        self._waking: asyncio.TimerHandle | None = None
        self.delay_seconds = 0.0
        self._exposure = faults.expose(
            subject,
            {
                "kill_container": self._kill,
                "hang_container": self._hang,
                "slow_container": self._slow,
            },
            self._relieve,
        )

    def withdraw(self) -> None:
        """End the faults of a container that has ended."""
        self._exposure.withdraw()
        if self._waking is not None:
            self._waking.cancel()

    def _kill(self, _: float | None) -> bool:
        return self._container.kill()

    def _hang(self, seconds: float | None) -> bool:
        if seconds is not None:
            self._wake_after(seconds)
        return self._container.pause()

    def _slow(self, seconds: float | None) -> bool:
        seconds = _SLOW_SECONDS if seconds is None else seconds
        if not self._serves:
            return self._hang(seconds)
        self.delay_seconds = seconds
        return True

    def _wake_after(self, seconds: float) -> None:
        if self._waking is not None:
            self._waking.cancel()
        self._waking = MACHINE.call_later(seconds, self._container.resume)

    def _relieve(self) -> None:
        self.delay_seconds = 0.0
        if self._waking is not None:
            self._waking.cancel()
        self._container.resume()
