"""Each role may do exactly what the rules allow; an independent judge reads the policies."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.isolation import rules
from tests.isolation.attached_rules import attached
from tests.isolation.judge import Judge, Request
from tests.isolation.template import Template


def not_as_ruled(
    judge: Judge, template: Template, asked: Sequence[tuple[Request, bool]]
) -> list[str]:
    decided = judge.decide(rules.every_policy(template), [request for request, _ in asked])
    return [
        f"{'may not' if may else 'may'} {r.action} {r.resource} {r.context} as {r.principal} with "
        f"{r.identity}"
        for (r, may), said in zip(asked, decided, strict=True)
        if said not in {may, None}
    ]


@pytest.mark.parametrize("identity", rules.IDENTITIES)
def test_a_role_may_do_what_the_rules_say_and_nothing_else(
    identity: str, judge: Judge, template: Template
) -> None:
    asked = rules.asked(template, identity, rules.every_action(template))
    assert not not_as_ruled(judge, template, asked)


@pytest.mark.parametrize("identity", rules.IDENTITIES)
def test_every_action_of_a_role_was_tried_on_what_it_is_for(
    identity: str, judge: Judge, template: Template
) -> None:
    """A name that the judge does not know, or a rule without a target, must not look like a
    denial."""
    meant = [
        request
        for request, may in rules.asked(template, identity, rules.every_action(template))
        if may
    ]
    decided = judge.decide(rules.every_policy(template), meant)
    names = rules.policies_of(template, identity)
    named = set().union(*(rules.actions_of(template.identity_policies()[name]) for name in names))
    tried = {request.action for request, said in zip(meant, decided, strict=True) if said}
    assert tried == {action for action in named if not action.startswith("sts:")}


def test_a_role_is_taken_on_by_whom_it_is_for_and_with_no_other_tag(
    judge: Judge, template: Template
) -> None:
    asked = list(rules.trusted(template))
    assert {request.resource for request, may in asked if may} == {
        template.arn(role) for role in template.named("AWS::IAM::Role")
    }
    assert not not_as_ruled(judge, template, asked)


def test_buckets_want_tls_and_queues_hear_their_own_bucket_or_topic_alone(
    judge: Judge, template: Template
) -> None:
    assert not not_as_ruled(judge, template, list(attached(template)))
