"""How the client distinguishes jobs and failures."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipes_sagemaker.client import failure_class
from pipes_sagemaker.comparison import first_difference
from tests.pipes_sagemaker.counting_jobs import Params


@pytest.mark.parametrize(
    ("status", "secondary_status", "reason", "expected"),
    [
        (
            "Failed",
            "Failed",
            "CapacityError: Unable to provision requested ML compute capacity.",
            "capacity",
        ),
        ("Failed", "Failed", "InternalServerError: We encountered an internal error.", "internal"),
        ("Failed", "Failed", "out of memory", "algorithm"),
        ("Failed", "Failed", "", "unknown"),
        ("Stopped", "MaxRuntimeExceeded", "", "max_runtime"),
        ("Stopped", "MaxWaitTimeExceeded", "", "max_wait"),
        ("Stopped", "Stopped", "", "stopped"),
    ],
)
def test_failures_are_classified(
    status: str, secondary_status: str, reason: str, expected: str
) -> None:
    assert failure_class(status, secondary_status, reason) == expected


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    requested=st.dictionaries(st.text(max_size=3), json_values, max_size=4), defaults=json_values
)
def test_what_sagemaker_adds_by_itself_is_no_difference(
    requested: dict[str, Any], defaults: Any
) -> None:
    described = {**json.loads(json.dumps(requested)), "added by SageMaker": defaults}
    assert first_difference(requested, described, "ResourceConfig") is None


@given(
    requested=st.dictionaries(st.text(max_size=3), json_values, min_size=1, max_size=4),
    data=st.data(),
)
def test_a_changed_value_is_found_and_named(requested: dict[str, Any], data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(requested)))
    found = first_difference(
        requested, {**requested, key: "no drawn text is this long"}, "InputDataConfig"
    )
    assert found is not None
    assert found[0].startswith(f"InputDataConfig.{key}")


def test_an_added_hyperparameter_is_a_difference() -> None:
    assert first_difference({"a": "1"}, {"a": "1", "b": "2"}, "HyperParameters") == (
        "HyperParameters.b",
        None,
        "2",
    )


def test_channels_are_compared_by_name_and_their_uris_without_a_last_slash() -> None:
    def channel(name: str, uri: str) -> Params:
        return {"ChannelName": name, "DataSource": {"S3DataSource": {"S3Uri": uri}}}

    requested = [channel("a", "s3://b/one"), channel("b", "s3://b/two/")]
    assert (
        first_difference(
            requested, [channel("b", "s3://b/two"), channel("a", "s3://b/one/")], "InputDataConfig"
        )
        is None
    )
    found = first_difference(
        requested, [channel("a", "s3://b/one"), channel("b", "s3://b/2")], "InputDataConfig"
    )
    assert found == ("InputDataConfig[b].DataSource.S3DataSource.S3Uri", "s3://b/two", "s3://b/2")
