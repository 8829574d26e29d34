"""The end of a run in which some tenants failed."""

from collections.abc import Mapping

from dagster import Failure

from tenantry.names import ids
from tenantry.onboarding.onboarding import failures_in_words


def raise_for(failures: Mapping[ids.ModelId, str]) -> None:
    """Fail the run when tenants failed, so that they show as failed; the others stay
    materialised."""
    if failures:
        failed = "1 tenant" if len(failures) == 1 else f"{len(failures)} tenants"
        raise Failure(
            f"{failed} failed; any others are done.\n{failures_in_words(failures)}",
            allow_retries=False,
        )
