"""Public holidays by country, from the package ``holidays``, which is imported when it is asked."""

from __future__ import annotations

from datetime import date


def country_fault(code: str) -> str | None:
    """Why a code names no country whose holidays are known, as a sentence; None where it does."""
    try:
        holidays_of(code, 2025)
    except ImportError:
        return None  # apps have no need of the package; the orchestrator checks
    except (NotImplementedError, ValueError):
        return f"{code!r} is no country, as GB is, or none with holidays that are known"
    return None


def holidays_of(code: str, *years: int) -> list[date]:
    """The public holidays of some years, in order.

    Args:
        code: ISO 3166, with a subdivision after a hyphen: ``GB`` or ``DE-BY``.
        years: which years.

    Raises:
        NotImplementedError: there is no such country or subdivision.
    """
    from holidays import country_holidays

    country, _, subdivision = code.partition("-")
    return sorted(country_holidays(country, subdiv=subdivision or None, years=years))
