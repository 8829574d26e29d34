"""A model's id names its tenant and its name, and no two models share a key that tells them
apart."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tenantry.names import ids, s3_keys, sagemaker_names, table_keys
from tenantry.names.tiers import Own
from tests.tenantry.names.test_names import PREFIXES, TENANTS, WORKLOADS

NAMES = st.from_regex(r"[a-z0-9][a-z0-9-]{0,31}", fullmatch=True)


@given(TENANTS, NAMES, WORKLOADS)
@example("acme", "default", "energy")
@example("acme", "history", "energy")
def test_an_id_is_its_tenant_and_its_name(tenant: str, name: str, workload: str) -> None:
    owner, named, of = ids.tenant_id(tenant), ids.model_name(name), ids.workload_name(workload)
    model = ids.model_of(owner, named)
    assert ids.model_id(model) == model
    assert (ids.tenant_of(model), ids.name_of(model)) == (owner, named)
    assert (model == owner) is (named == ids.DEFAULT_MODEL)
    assert table_keys.parse_table_partition(table_keys.table_partition(model, of)) == (model, of)
    history = table_keys.history_partition(model, of)
    assert table_keys.parse_table_partition(history) == (model, of)


@given(TENANTS, NAMES, TENANTS, NAMES, WORKLOADS, WORKLOADS)
def test_two_models_have_no_key_in_common(
    tenant: str, name: str, other: str, other_name: str, workload: str, other_workload: str
) -> None:
    one = ids.model_of(ids.tenant_id(tenant), ids.model_name(name))
    two = ids.model_of(ids.tenant_id(other), ids.model_name(other_name))
    of_one, of_two = ids.workload_name(workload), ids.workload_name(other_workload)
    same, day = (one, of_one) == (two, of_two), date(2026, 1, 2)
    builders: tuple[Callable[[ids.ModelId, ids.WorkloadName], str], ...] = (
        lambda model, its: table_keys.table_partition(model, its),
        lambda model, its: s3_keys.prediction(its, model, ids.batch_name("nightly"), day),
        lambda model, its: s3_keys.archived_requests_prefix(its, model, day),
        lambda model, its: s3_keys.batch_input(its, day, "b-1", model),
        lambda model, its: ids.request_id_of(its, model, "content"),
    )
    for of in builders:
        assert (of(one, of_one) == of(two, of_two)) is same


@pytest.mark.parametrize(
    "text", ["acme.", ".winter", "acme.Winter", "acme.a.b", "acme/winter", "acme.a b", 7, None]
)
def test_what_is_no_models_id_is_refused(text: object) -> None:
    with pytest.raises(ids.InvalidIdError):
        ids.model_id(text)


@given(PREFIXES, WORKLOADS, TENANTS, NAMES)
def test_a_silo_tenants_named_model_has_an_endpoint_of_its_own_among_its_machines(
    prefix: str, workload: str, tenant: str, name: str
) -> None:
    of, owner = ids.workload_name(workload), ids.tenant_id(tenant)
    model = ids.model_of(owner, ids.model_name(name))
    home = sagemaker_names.endpoint_name(prefix, of, Own(owner))
    assert sagemaker_names.endpoint_name(prefix, of, Own(model)) == home
    single = sagemaker_names.model_endpoint_name(prefix, of, Own(model), "single")
    default = sagemaker_names.model_endpoint_name(prefix, of, Own(owner), "single")
    assert (single == default) is (model == owner)
    assert len(single) <= 63
    if not sagemaker_names.silo_names_are_shortened(prefix, of):
        assert sagemaker_names.without_end(single) == home
        pattern = re.escape(f"{prefix}-{of}-") + sagemaker_names.OF_A_WORKLOAD
        assert re.fullmatch(pattern, single)
