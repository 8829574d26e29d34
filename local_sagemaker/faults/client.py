"""A client of the fault plan, for tests and benchmarks in Python; docs/local-cloud.md shows the
same calls in curl."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from local_sagemaker.errors import LocalSageMakerError
from local_sagemaker.faults.plan import Plan, Report, Rule, Strike

_TIMEOUT_SECONDS = 30.0


class NothingStruckError(LocalSageMakerError, LookupError):
    """A single fault selected nothing that runs."""


class FaultsClient:
    """The faults of the emulator at `url` (`http://127.0.0.1:PORT`). Every method raises
    urllib.error.URLError when the emulator does not answer."""

    def __init__(self, url: str) -> None:
        self._url = f"{url.rstrip('/')}/_local/faults"

    def plan(self, rules: Sequence[Rule], seed: int = 0) -> None:
        """Replace the current plan with these rules."""
        self._call("PUT", "", Plan(seed=seed, rules=list(rules)).model_dump_json(exclude_none=True))

    def report(self) -> Report:
        """The plan, how often each rule struck, and the latest faults."""
        return Report.model_validate(self._call("GET"))

    def end(self) -> Report:
        """End the plan; returns its last report."""
        return Report.model_validate(self._call("DELETE"))

    @contextmanager
    def planned(self, *rules: Rule, seed: int = 0) -> Iterator[None]:
        """Apply these rules within a `with` block."""
        self.plan(rules, seed)
        try:
            yield
        finally:
            self.end()

    def now(self, strike: Strike) -> list[str]:
        """Carry out one fault at once; returns the names of its targets. Raises
        NothingStruckError."""
        try:
            struck: list[str] = self._call(
                "POST", "/now", strike.model_dump_json(exclude_none=True)
            )["struck"]
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            raise NothingStruckError(f"nothing that runs is selected by {strike!r}") from error
        return struck

    def _call(self, method: str, path: str = "", body: str | None = None) -> Any:
        request = urllib.request.Request(  # noqa: S310 - the address of a local emulator
            self._url + path,
            method=method,
            data=body.encode() if body is not None else None,
            headers={"Content-Type": "application/json"},
        )
        # As above.
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:  # noqa: S310
            return json.load(answer)
