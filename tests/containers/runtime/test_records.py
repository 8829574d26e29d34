"""Records: the model that each names, and its request, whoever wrote the record."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containers.runtime.serving.records import model_of_record
from containers.runtime.serving.serving_errors import BadRequestError
from contracts.records import Record

MODEL = "acme/v1.tar.gz"
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(VALUES, st.booleans(), st.booleans(), st.booleans())
def test_a_record_means_the_same_however_it_is_written(
    request: Any, turned: bool, spaced: bool, more: bool
) -> None:
    fields = {"model": MODEL, "request": request} | ({"later": 1} if more else {})
    if turned:
        fields = dict(reversed(fields.items()))
    separators = (", ", ": ") if spaced else (",", ":")
    name, body = model_of_record(json.dumps(fields, separators=separators).encode())
    assert (name, json.loads(body)) == (MODEL, request)


def test_the_products_own_record_keeps_the_words_of_its_request() -> None:
    line = Record(MODEL, {"rows": [{"seats": 12.50, "contract": "année"}]}).line()
    assert model_of_record(line + b"\n") == (MODEL, line[line.index(b'{"rows"') : -1])
    # The last of two fields of one name counts, as JSON's parser has it.
    twice = b'{"model":"acme/v1.tar.gz","request":1,"request":2}'
    assert model_of_record(twice) == (MODEL, b"2")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"model":"acme/v1.tar.gz","request":{}', "is not JSON"),
        (b'{"model":"acme/v1.tar.gz","request":{"a":NaN}}', "is not a JSON number"),
        (b'{"model":"acme/v1.tar.gz","request":\xff}', "is not JSON"),
        (b'{"model":"acme/v1.tar.gz","request":{}}{}', "is not JSON"),
        (b'{"model":"../v1.tar.gz","request":{}}', "must be '{tenant}/{version}.tar.gz'"),
        (b'{"model":"acme/v1.tar.gz"}', "must be an object with 'model' and 'request'"),
        (b'{"model":"acme/v1.tar.gz","request":' + b"[" * 100_000, "is not JSON"),
    ],
    ids=["no end", "NaN", "no UTF-8", "two", "another place", "no request", "deep"],
)
def test_a_malformed_record_is_refused(line: bytes, said: str) -> None:
    with pytest.raises(BadRequestError) as told:
        model_of_record(line)
    assert said in told.value.message
