"""Metric math: against Python's own arithmetic, and the rules for points that are missing."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_sagemaker.monitoring.metric_math import Expression, InvalidExpressionError

NUMBERS = st.integers(min_value=-50, max_value=50).map(float)
LEAVES = st.one_of(st.sampled_from(["m1", "m2"]), st.integers(0, 20).map(str))
OPERATORS = st.sampled_from(["+", "-", "*", "/", "<", ">", "<=", ">=", "==", "!="])
EXPRESSIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.tuples(inner, OPERATORS, inner).map(lambda parts: f"({parts[0]} {parts[1]} {parts[2]})"),
        inner.map(lambda text: f"-{text}"),
        inner.map(lambda text: f"ABS({text})"),
        st.tuples(inner, inner, inner).map(lambda parts: f"IF({', '.join(parts)})"),
    ),
    max_leaves=12,
)


@given(EXPRESSIONS, NUMBERS, NUMBERS)
def test_a_value_is_what_python_makes_of_it(text: str, first: float, second: float) -> None:
    found = Expression.parse(text).values({"m1": [first], "m2": [second]})
    names = {
        "m1": first,
        "m2": second,
        "ABS": abs,
        "IF": lambda condition, a, b: a if condition else b,
    }
    try:
        # The expression is this test's own.
        expected: float | None = float(eval(text, {"__builtins__": {}}, names))  # noqa: S307
    except ZeroDivisionError:
        return  # Python evaluates both branches of IF, so the judge has no say
    assert found == [pytest.approx(expected)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("m1 + m2", [11.0, None, None]),
        ("FILL(m2, 0) + m1", [11.0, 2.0, None]),
        ("FILL(m1, REPEAT)", [1.0, 2.0, 2.0]),
        ("FILL(m1, m2)", [1.0, 2.0, 30.0]),
        ("m1 / (m1 - 1)", [None, 2.0, None]),
        ("IF(m1 != 0, m2 / (m1 * 60 / 10 * 12))", [10 / 72, None, None]),
        ("IF(m1 > 1, m1, 9)", [9.0, 2.0, None]),
        ("m1 > 1 && m1 < 3 OR m1 == 1", [1.0, 1.0, None]),
        ("2 ^ 3 ^ 2 + CEIL(0.2) - floor(1.9)", [512.0, 512.0, 512.0]),
        ("1e3 - .5", [999.5, 999.5, 999.5]),
    ],
)
def test_points_that_are_missing(text: str, expected: list[float | None]) -> None:
    series = {"m1": [1.0, 2.0, None], "m2": [10.0, None, 30.0]}
    assert Expression.parse(text).values(series) == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "ends too early"),
        ("m1 +", "ends too early"),
        ("m1 m2", "'m2' is not expected here"),
        ("(m1", "'\\)' is missing"),
        ("m1 $ 2", "'\\$ 2' is not understood"),
        ("SEARCH(m1)", "SEARCH with 1 arguments is not emulated"),
        ("IF(m1)", "IF with 1 arguments"),
        ("(" * 60 + "m1" + ")" * 60, "too many brackets"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(text: str, why: str) -> None:
    with pytest.raises(InvalidExpressionError, match=why):
        Expression.parse(text)


@given(st.text(max_size=40))
def test_no_text_breaks_the_parser(text: str) -> None:
    with contextlib.suppress(InvalidExpressionError, KeyError):
        Expression.parse(text).values({})
