"""A table of batch results holds the answers of all tenants: no tenant's session, and no container,
has anything of it."""

from __future__ import annotations

from typing import Final

import pytest

from tests.isolation import rules
from tests.isolation.judge import Judge, Request
from tests.isolation.query_rules import QUERY, query_targets
from tests.isolation.template import Template

WITHOUT: Final = ("TenantClientRole", "SiloPolicy", "TrainingRole", "ServingRole", "BatchRole")


@pytest.mark.parametrize("identity", WITHOUT)
def test_a_tenants_session_and_its_containers_have_nothing_of_the_tables(
    identity: str, judge: Judge, template: Template
) -> None:
    tags = {"aws:PrincipalTag/tenant": "energy"}  # a tenant that is named like the workload
    names = rules.policies_of(template, identity)
    data = template.arn("DataBucket")
    found = [target for target in query_targets(data) if target[0] != "foreign"]
    asked = [
        Request(action, resource, tags, rules.PRINCIPAL, names)
        for _, _, resource, _ in found
        for actions in QUERY
        for action in actions.split()
        if action.partition(":")[0] == resource.split(":")[2]
    ]
    decided = judge.decide(rules.every_policy(template), asked)
    assert True not in decided
    assert decided.count(False) >= len(found)
