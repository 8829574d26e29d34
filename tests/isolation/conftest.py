"""The judge of policies, started once, and the template that it judges."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.isolation.judge import Judge, JudgeMissingError
from tests.isolation.template import Template


@pytest.fixture(scope="session")
def judge() -> Iterator[Judge]:
    try:
        with Judge() as started:
            yield started
    except JudgeMissingError as error:
        if os.environ.get("TENANTRY_POLICY_JUDGE_REQUIRED"):
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def template() -> Template:
    return Template()
