"""What a split leaves, as its reader takes it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts import patterns
from contracts.errors import MalformedDocumentError
from contracts.split_files import SplitTenant, document, parse, tenant_of_customer

CUSTOMER = st.text(st.characters(codec="utf-8"), min_size=1, max_size=80)


@given(st.dictionaries(CUSTOMER, st.integers(1, 10**9), min_size=1, max_size=8))
def test_what_is_written_is_read_again(rows: dict[str, int]) -> None:
    written = [SplitTenant(tenant_of_customer(one), one, count) for one, count in rows.items()]
    read = parse(json.dumps(document(written)).encode())
    assert read == sorted(written, key=lambda one: one.tenant)


@given(CUSTOMER)
def test_a_customers_tenant_tells_no_name_that_is_no_id(customer: str) -> None:
    tenant = tenant_of_customer(customer)
    assert patterns.TENANT.fullmatch(tenant)
    assert tenant == tenant_of_customer(customer)
    if "@" in customer or " " in customer:
        assert tenant.startswith("customer-")


ONE = {"customer": "a", "rows": 1}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"format": 2, "tenants": {"a": ONE}}, "format"),
        ({"format": 1, "tenants": {}}, "must have 1 to"),
        ({"format": 1, "tenants": []}, "must be a JSON object"),
        ({"format": 1, "tenants": {"../a": ONE}}, "no tenant's id"),
        ({"format": 1, "tenants": {"a": "b"}}, "must be a JSON object"),
        ({"format": 1, "tenants": {"a": {"rows": 1}}}, "customer"),
        ({"format": 1, "tenants": {"a": ONE | {"rows": 0}}}, "rows"),
        ({"format": 1, "tenants": {"a": ONE | {"rows": True}}}, "rows"),
        ({"format": 1, "tenants": {"a": ONE | {"customer": "x" * 201}}}, "customer"),
    ],
)
def test_anything_else_is_refused_by_name(content: Any, words: str) -> None:
    with pytest.raises(MalformedDocumentError, match=words):
        parse(json.dumps(content).encode())
