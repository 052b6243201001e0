"""The language of filters: which items a request may show.

    price <= 20 and "Comedy" in categories and brand in ["acme", "other"]
    not (brand == "acme" or created < "2025-01-01") and in_stock == true

The grammar is a strict subset of Python's, so Python's own parser reads it; nothing is evaluated by Python, and every
other construct is refused. The result is a tree of conditions, which `recsys.items.filter_columns` evaluates for all
items at once.

An item's values: an attribute is split at "|", so `subtitles = "de|en"` has two. A condition holds if it holds for any
of them. A missing value equals nothing and is neither less nor greater than anything; `not`, `!=` and `not in` are the
plain opposites, so they hold for it. `x is null` asks for it.
"""

import ast
import io
import math
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

from recsys.contracts.errors import InvalidFilter
from recsys.contracts.text import free_text

MAX_LENGTH = 2_000  # characters
MAX_DEPTH = 16  # of `and`, `or` and `not` inside each other
MAX_CONDITIONS = 64


class Kind(StrEnum):
    """What a field holds."""

    TEXT = "text"
    TIME = "time"  # Unix milliseconds
    ATTRIBUTE = "attribute"  # free text, also read as a number or as true or false


# an item's own fields; every other name is one of its attributes
FIELDS = {
    "item_id": Kind.TEXT,
    "title": Kind.TEXT,
    "categories": Kind.TEXT,
    "creator": Kind.TEXT,
    "created": Kind.TIME,
    "regions": Kind.TEXT,
    "available_from": Kind.TIME,
    "available_until": Kind.TIME,
}
_ATTRIBUTES = "attributes"  # attributes["release year"]: a name with spaces, or that of an own field


class Field(NamedTuple):
    name: str
    kind: Kind


@dataclass(frozen=True)
class Among:
    """Some value is one of these. Numbers and truths are apart: 1 and true are equal to Python."""

    field: Field
    texts: frozenset[str] = frozenset()
    numbers: frozenset[float] = frozenset()
    truths: frozenset[bool] = frozenset()


@dataclass(frozen=True)
class Order:
    """Some value is less, or greater, than `bound`."""

    field: Field
    operator: str  # "<", "<=", ">" or ">="
    bound: float


@dataclass(frozen=True)
class Missing:
    """There is no value."""

    field: Field


@dataclass(frozen=True)
class Not:
    part: "Condition"


@dataclass(frozen=True)
class Every:
    parts: tuple["Condition", ...]


@dataclass(frozen=True)
class Some:
    parts: tuple["Condition", ...]


Condition = Among | Order | Missing | Not | Every | Some


class Filter(NamedTuple):
    """A filter as it was sent, and what it means."""

    text: str
    condition: Condition


@lru_cache(maxsize=1_024)
def parse_filter(text: str) -> Filter:
    """
    Raises:
        InvalidFilter: too long, too deep, or not an expression of the language; the message names the place.

    >>> parse_filter('price <= 20').condition
    Order(field=Field(name='price', kind=<Kind.ATTRIBUTE: 'attribute'>), operator='<=', bound=20.0)
    """
    if len(text) > MAX_LENGTH:
        raise InvalidFilter(f"filter: {len(text)} characters; at most {MAX_LENGTH} are read")
    if "\\" in text:
        raise InvalidFilter("filter: a backslash is not allowed; quote with ' what has a \" in it")
    plain = " ".join(text.splitlines()).replace("\t", " ").strip()
    try:
        tree = ast.parse(plain, mode="eval")
        _refuse_what_the_tree_hides(plain)
    except SyntaxError as error:
        raise InvalidFilter(f"filter: {error.msg}, at character {error.offset or 1}") from None
    except (
        ValueError,
        MemoryError,
        RecursionError,
        tokenize.TokenError,
    ):  # a null byte; too much inside each other
        raise InvalidFilter("filter: cannot be read as an expression") from None
    conditions = sum(len(node.ops) for node in ast.walk(tree) if isinstance(node, ast.Compare))
    if conditions > MAX_CONDITIONS:
        raise InvalidFilter(f"filter: {conditions} conditions; at most {MAX_CONDITIONS} are read")
    try:
        return Filter(text, _condition(tree.body, MAX_DEPTH))
    except _Refused as refused:
        before = plain.encode()[: refused.offset].decode()
        raise InvalidFilter(f"filter: {refused.reason}, at character {len(before) + 1}") from None


def filter_of(text: str) -> Filter | None:
    """None: nothing is asked for. Raises `InvalidFilter`: as `parse_filter`."""
    return parse_filter(text) if text.strip() else None


def conditions_of(condition: Condition) -> Iterator[Among | Order | Missing]:
    """The conditions on single fields."""
    match condition:
        case Not(part):
            yield from conditions_of(part)
        case Every(parts) | Some(parts):
            for part in parts:
                yield from conditions_of(part)
        case _:
            yield condition


def _refuse_what_the_tree_hides(plain: str) -> None:
    """A comment, which would take the rest of the line, and texts that are one for lack of a comma between them.
    Raises `SyntaxError`: there is one."""
    before = tokenize.ENDMARKER
    for token in tokenize.generate_tokens(io.StringIO(plain).readline):
        if token.type == tokenize.COMMENT:
            raise SyntaxError("a comment is not allowed", ("", 1, token.start[1] + 1, plain))
        if token.type == before == tokenize.STRING:
            raise SyntaxError("a comma is missing before this text", ("", 1, token.start[1] + 1, plain))
        before = token.type


def _condition(node: ast.expr, depth: int) -> Condition:
    if depth <= 0:
        raise InvalidFilter(f"filter: more than {MAX_DEPTH} of `and`, `or` and `not` inside each other")
    match node:
        case ast.BoolOp(op=operator, values=values):
            parts = tuple(_condition(value, depth - 1) for value in values)
            return Every(parts) if isinstance(operator, ast.And) else Some(parts)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return Not(_condition(operand, depth - 1))
        case ast.Compare(left=left, ops=operators, comparators=others):  # 5 <= price <= 20 is two of them
            sides = [left, *others]
            parts = tuple(map(_comparison, sides, operators, others))
            return parts[0] if len(parts) == 1 else Every(parts)
        case _ if (field := _field(node)) is not None:
            raise _refused(node, f"compare {field.name} with something, such as `{field.name} == true`")
    raise _refused(node, "a comparison is needed, such as `price <= 20`")


def _comparison(left: ast.expr, operator: ast.cmpop, right: ast.expr) -> Condition:
    match operator:
        case ast.NotIn():
            return Not(_comparison(left, ast.In(), right))
        case ast.NotEq():
            return Not(_comparison(left, ast.Eq(), right))
        case ast.IsNot():
            return Not(_comparison(left, ast.Is(), right))
        case ast.In():
            return _membership(left, right)
    field, literal, swapped = _field(left), right, False
    if field is None:
        field, literal, swapped = _field(right), left, True
    if field is None:
        raise _refused(left, "one side of a comparison must be a field")
    value = _value(literal)
    if isinstance(operator, ast.Eq | ast.Is):
        if value is None:
            return Missing(field)
        if isinstance(operator, ast.Eq):
            return _among(field, [value])
        raise _refused(literal, "`is` asks for null alone; write ==")
    return Order(field, _operator(operator, swapped), _bound(field, value))


def _membership(left: ast.expr, right: ast.expr) -> Condition:
    """`"Comedy" in categories` or `region in ["de", "at"]`."""
    if (field := _field(right)) is not None and _field(left) is None:
        return _among(field, [_value(left)])
    if (field := _field(left)) is not None and isinstance(right, ast.List | ast.Tuple | ast.Set):
        return _among(field, [_value(each) for each in right.elts])
    raise _refused(
        left, '`in` needs a value and a field, or a field and a list: `brand in ["acme", "other"]`'
    )


def _operator(operator: ast.cmpop, swapped: bool) -> str:
    """As if the field came first."""
    straight = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}[type(operator)]
    return {"<": ">", "<=": ">=", ">": "<", ">=": "<="}[straight] if swapped else straight


def _field(node: ast.expr) -> Field | None:
    match node:
        case ast.Name(id=name) if name not in _WORDS and name != _ATTRIBUTES:
            return Field(name, FIELDS.get(name, Kind.ATTRIBUTE))
        case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=str(key))) if (
            name == _ATTRIBUTES
        ):
            return Field(_text(node, key), Kind.ATTRIBUTE)
    return None


Value = str | float | bool | None
_WORDS: dict[str, Value] = {"null": None, "true": True, "false": False}


def _value(node: ast.expr) -> Value:
    match node:
        case ast.Constant(value=bool(value)):
            return value
        case ast.Constant(value=int(value)) | ast.Constant(value=float(value)):
            return _number(node, value)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int(value) | float(value))):
            return -_number(node, value)
        case ast.Constant(value=str(value)):
            return _text(node, value)
        case ast.Constant(value=None):
            return None
        case ast.Name(id=name) if name in _WORDS:
            return _WORDS[name]
        case ast.Name(id=name):
            raise _refused(node, f'two fields cannot be compared; if {name} is a text, write "{name}"')
    raise _refused(node, "a text, a number, true, false or null is needed")


def _number(node: ast.expr, value: float) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _refused(node, "the number is too large")
    return number


def _text(node: ast.expr, value: str) -> str:
    """In the form in which items have it."""
    try:
        return free_text(value)
    except ValueError as error:
        raise _refused(node, f"the text {error}") from None


def _among(field: Field, values: Sequence[Value]) -> Among:
    if None in values:
        raise InvalidFilter(f"filter: {field.name}: null is in no list; write `{field.name} is null`")
    if field.kind is Kind.TIME:
        return Among(field, numbers=frozenset(_bound(field, value) for value in values))
    texts = frozenset(value for value in values if isinstance(value, str))
    truths = frozenset(value for value in values if isinstance(value, bool))
    numbers = frozenset(float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool))
    if field.kind is Kind.TEXT and (truths or numbers):
        raise InvalidFilter(f"filter: {field.name} holds texts; put what it is compared with in quotes")
    return Among(field, texts, numbers, truths)


def _bound(field: Field, value: Value) -> float:
    """What the field's values are compared with: a number, or a time as Unix milliseconds."""
    if field.kind is Kind.TEXT:
        raise InvalidFilter(f"filter: {field.name} holds texts, which have no order; use == or in")
    if isinstance(value, float):
        return value
    if field.kind is Kind.ATTRIBUTE:
        raise InvalidFilter(
            f"filter: {field.name}: only numbers have an order; write a number without quotes"
        )
    try:
        time = datetime.fromisoformat(value if isinstance(value, str) else "")
    except ValueError:
        raise InvalidFilter(
            f'filter: {field.name} is a time; compare it with one such as "2026-01-31" or "2026-01-31T12:00:00Z"'
        ) from None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1_000


class _Refused(Exception):
    """`offset`: of the node in the expression's UTF-8 bytes."""

    def __init__(self, reason: str, offset: int) -> None:
        self.reason = reason
        self.offset = offset


def _refused(node: ast.expr, reason: str) -> _Refused:
    return _Refused(reason, node.col_offset)
