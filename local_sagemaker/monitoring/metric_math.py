"""CloudWatch's metric math, as far as scaling policies need it: arithmetic, comparison, `IF`,
`FILL`, and functions of each value.

Syntax and rules: docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/using-metric-math.html. A
point that one of an operator's series lacks is missing from the result. A comparison gives 1 or 0.
"""

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

Series = Sequence[float | None]
"""A value a period, the oldest first; None where there is none."""
_Value = float | list[float | None]

_TOKEN: Final = re.compile(
    r"\s*(?:(?P<number>\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+)|(?P<name>[A-Za-z][A-Za-z0-9_]*)"
    r"|(?P<symbol>==|!=|<=|>=|&&|\|\||[-+*/^<>(),\[\]]))"
)
_LEVELS: Final[tuple[Mapping[str, Callable[[float, float], float]], ...]] = (
    {"||": lambda a, b: float(bool(a) or bool(b))},
    {"&&": lambda a, b: float(bool(a) and bool(b))},
    {
        "==": lambda a, b: float(a == b),
        "!=": lambda a, b: float(a != b),
        "<": lambda a, b: float(a < b),
        "<=": lambda a, b: float(a <= b),
        ">": lambda a, b: float(a > b),
        ">=": lambda a, b: float(a >= b),
    },
    {"+": operator.add, "-": operator.sub},
    {"*": operator.mul, "/": operator.truediv},
)
"""The operators that stand between two values, the weakest first."""
_WORDS: Final = {"AND": "&&", "OR": "||"}
_EACH: Final[Mapping[str, Callable[[float], float]]] = {
    "ABS": abs,
    "CEIL": math.ceil,
    "FLOOR": math.floor,
}
_DEEPEST: Final = 50  # levels of brackets


class InvalidExpressionError(ValueError):
    """An expression that cannot be evaluated; the message says where and why."""


@dataclass(frozen=True)
class Expression:
    """A parsed expression. `names` are the ids of the series that it is about."""

    text: str
    names: frozenset[str]
    _evaluate: Callable[[Mapping[str, Series], int], _Value]

    @classmethod
    def parse(cls, text: str) -> "Expression":
        """Raises InvalidExpressionError."""
        parser = _Parser(text)
        evaluate = parser.whole()
        return cls(text, frozenset(parser.names), evaluate)

    def values(self, series: Mapping[str, Series]) -> list[float | None]:
        """The result, a value a period; every series has the same number of periods."""
        length = max((len(values) for values in series.values()), default=1)
        found = self._evaluate(series, length)
        return found if isinstance(found, list) else [found] * length


_Node = Callable[[Mapping[str, Series], int], _Value]


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.names: set[str] = set()
        self._tokens = list(self._split())
        self._at = 0
        self._depth = 0

    def _split(self) -> "list[tuple[str, str]]":
        found, at = [], 0
        while at < len(self.text.rstrip()):
            match = _TOKEN.match(self.text, at)
            if match is None:
                raise InvalidExpressionError(
                    f"{self.text!r}: {self.text[at:].strip()[:20]!r} is not understood"
                )
            kind = str(match.lastgroup)
            word = match[kind]
            if kind == "name" and word.upper() in _WORDS:
                kind, word = "symbol", _WORDS[word.upper()]
            found.append((kind, word))
            at = match.end()
        return found

    def whole(self) -> _Node:
        node = self._level(0)
        if self._at < len(self._tokens):
            raise InvalidExpressionError(
                f"{self.text!r}: {self._tokens[self._at][1]!r} is not expected here"
            )
        return node

    def _next(self) -> tuple[str, str]:
        return self._tokens[self._at] if self._at < len(self._tokens) else ("end", "")

    def _take(self, symbol: str) -> bool:
        if self._next() == ("symbol", symbol):
            self._at += 1
            return True
        return False

    def _expect(self, symbol: str) -> None:
        if not self._take(symbol):
            raise InvalidExpressionError(
                f"{self.text!r}: {symbol!r} is missing before {self._next()[1] or 'its end'!r}"
            )

    def _level(self, number: int) -> _Node:
        if number == len(_LEVELS):
            return self._unary()
        node = self._level(number + 1)
        while self._next()[0] == "symbol" and self._next()[1] in _LEVELS[number]:
            apply = _LEVELS[number][self._next()[1]]
            self._at += 1
            node = _both(apply, node, self._level(number + 1))
        return node

    def _unary(self) -> _Node:
        if self._take("-"):
            return _each(operator.neg, self._unary())
        node = self._atom()
        if self._take("^"):
            node = _both(_power, node, self._unary())
        return node

    def _atom(self) -> _Node:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise InvalidExpressionError(f"{self.text!r} has too many brackets in one another")
        try:
            kind, word = self._next()
            if kind == "end":
                raise InvalidExpressionError(f"{self.text!r} ends too early")
            self._at += 1
            if kind == "number":
                return _constant(float(word))
            if kind == "name":
                return self._function(word.upper()) if self._take("(") else self._series(word)
            if word == "(":
                node = self._level(0)
                self._expect(")")
                return node
            raise InvalidExpressionError(f"{self.text!r}: {word!r} is not expected here")
        finally:
            self._depth -= 1

    def _series(self, name: str) -> _Node:
        self.names.add(name)

        return lambda series, _: list(series[name])

    def _function(self, name: str) -> _Node:
        if name == "FILL":
            return self._fill()
        arguments = [self._level(0)]
        while self._take(","):
            arguments.append(self._level(0))
        self._expect(")")
        if name == "IF" and len(arguments) in (2, 3):
            return _if(*arguments)
        if name in _EACH and len(arguments) == 1:
            return _each(_EACH[name], arguments[0])
        raise InvalidExpressionError(
            f"{self.text!r}: {name} with {len(arguments)} arguments is not emulated by "
            f"local_sagemaker"
        )

    def _fill(self) -> _Node:
        filled = self._level(0)
        self._expect(",")
        if self._next() == ("name", "REPEAT"):
            self._at += 1
            self._expect(")")
            return _repeated(filled)
        value = self._level(0)
        self._expect(")")
        return _filled(filled, value)


def _power(base: float, exponent: float) -> float:
    found = base**exponent
    return found if isinstance(found, float | int) else math.nan


def _at(value: _Value, place: int) -> float | None:
    return value[place] if isinstance(value, list) else value


def _constant(value: float) -> _Node:
    return lambda _, __: value


def _each(apply: Callable[[float], float], node: _Node) -> _Node:
    return _both(lambda a, _: apply(a), node, _constant(0.0))


def _both(apply: Callable[[float, float], float], left: _Node, right: _Node) -> _Node:
    """An operator between two values. A point without both, or without a finite result, is
    missing."""

    def one(a: float | None, b: float | None) -> float | None:
        if a is None or b is None:
            return None
        try:
            found = float(apply(a, b))
        except (ArithmeticError, ValueError):
            return None
        return found if math.isfinite(found) else None

    def evaluate(series: Mapping[str, Series], length: int) -> _Value:
        a, b = left(series, length), right(series, length)
        return [one(_at(a, place), _at(b, place)) for place in range(length)]

    return evaluate


def _if(condition: _Node, then: _Node, otherwise: _Node | None = None) -> _Node:
    """`IF(condition, a, b)`; without `b` a point whose condition is 0 is missing."""

    def evaluate(series: Mapping[str, Series], length: int) -> _Value:
        said, a = condition(series, length), then(series, length)
        b: _Value = [None] * length if otherwise is None else otherwise(series, length)

        def one(place: int) -> float | None:
            holds = _at(said, place)
            return None if holds is None else _at(a if holds else b, place)

        return [one(place) for place in range(length)]

    return evaluate


def _filled(node: _Node, value: _Node) -> _Node:
    def evaluate(series: Mapping[str, Series], length: int) -> _Value:
        found, instead = node(series, length), value(series, length)
        return [
            _at(instead, place) if (here := _at(found, place)) is None else here
            for place in range(length)
        ]

    return evaluate


def _repeated(node: _Node) -> _Node:
    def evaluate(series: Mapping[str, Series], length: int) -> _Value:
        found, last = node(series, length), None
        repeated: list[float | None] = []
        for place in range(length):
            here = _at(found, place)
            last = last if here is None else here
            repeated.append(last)
        return repeated

    return evaluate
