"""Filters of alerts: simple expressions over the fields of a packet.

::

    diaSource.band == 'r' and diaSource.snr > 10
    diaObject.nDiaSources >= 2 and abs(diaSource.psfFlux) > 1000 and not diaSource.isDipole
    ssSource is not None or diaSource.reliability > 0.8

Comparisons, ``and``/``or``/``not``, arithmetic, ``in`` a list of constants, ``is None``, ``abs``, ``min``, ``max`` and
``len``. A comparison with a value that is null is false, as in SQL; nothing else of Python is reachable.
"""

import ast
import operator
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

from alertprod_client.errors import FilterError
from alertprod_client.schemas import SCHEMA_ID, fields_of, schema
from alertprod_client.wire import decode_body

__all__ = ["AlertFilter", "read_for", "read_scalars"]

_LARGE = ("prvDia", "cutout")  # how the names of histories and cutouts begin

_MAX_TEXT = 2000
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}  # fmt: skip
_FUNCTIONS: dict[str, Callable[..., Any]] = {"abs": abs, "min": min, "max": max, "len": len}
_Value = Callable[[Mapping[str, Any]], Any]


class AlertFilter:
    """A compiled expression: call it with a packet.

    Raises
    ------
    FilterError
        The text is no such expression, with the place.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        if len(text) > _MAX_TEXT:
            raise FilterError(f"the filter is longer than {_MAX_TEXT} characters")
        try:
            tree = ast.parse(text.strip(), mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise FilterError(f"{text!r} is no expression: {error}") from error
        self._value = _compile(tree.body, text)
        self.needs_whole = any(isinstance(n, ast.Name) and n.id.startswith(_LARGE) for n in ast.walk(tree))

    def __call__(self, packet: Mapping[str, Any]) -> bool:
        """Return whether a packet passes."""
        try:
            return bool(self._value(packet))
        except (TypeError, ValueError, ZeroDivisionError):  # null in arithmetic, a text compared with a number
            return False


def _compile(node: ast.expr, text: str) -> _Value:
    """Return a function of the packet for a node of the expression."""
    match node:
        case ast.Constant(value=value) if value is None or isinstance(value, bool | int | float | str):
            return lambda packet: value
        case ast.Name() | ast.Attribute():
            return _field(node, text)
        case ast.BoolOp(op=op, values=values):
            parts = [_compile(v, text) for v in values]
            wanted = any if isinstance(op, ast.Or) else all
            return lambda packet: wanted(_true(p, packet) for p in parts)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            inner = _compile(operand, text)
            return lambda packet: not _true(inner, packet)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            inner = _compile(operand, text)
            return lambda packet: -inner(packet)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            one, two, act = _compile(left, text), _compile(right, text), _BINARY[type(op)]
            return lambda packet: act(one(packet), two(packet))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
            inputs, function = [_compile(a, text) for a in arguments], _FUNCTIONS[name]
            return lambda packet: function(*(i(packet) for i in inputs))
        case ast.Compare():
            return _comparison(node, text)
    raise FilterError(
        f"{ast.unparse(node)!r} in {text!r}: only fields, numbers, comparisons and and/or/not are understood"
    )


def _true(part: _Value, packet: Mapping[str, Any]) -> bool:
    try:
        return bool(part(packet))
    except (TypeError, ValueError, ZeroDivisionError):
        return False


def _field(node: ast.expr, text: str) -> _Value:
    names: list[str] = []
    inner = node
    while isinstance(inner, ast.Attribute):
        names.append(inner.attr)
        inner = inner.value
    if not isinstance(inner, ast.Name):
        raise FilterError(f"{ast.unparse(node)!r} in {text!r} is no field of an alert")
    path = [inner.id, *reversed(names)]
    _check_path(path, text)

    def value(packet: Mapping[str, Any]) -> Any:
        out: Any = packet
        for name in path:
            if out is None:
                return None
            out = out.get(name)  # a field that a schema of its time did not have is null
        return out

    return value


def _check_path(path: list[str], text: str) -> None:
    """A field that no alert has is a mistake in the filter, found before the first alert."""
    ok = len(path) == 1 and path[0] in {f["name"] for f in schema()["fields"]}
    if len(path) == 2 and path[0] in ("diaSource", "diaObject", "ssSource", "mpc_orbits"):
        ok = path[1] in {name for name, _, _ in fields_of(path[0])}
    if not ok:
        raise FilterError(f"{'.'.join(path)!r} in {text!r} is no field of an alert")


def _comparison(node: ast.Compare, text: str) -> _Value:
    if len(node.ops) != 1:
        raise FilterError(f"{ast.unparse(node)!r} in {text!r}: write a chain of comparisons with 'and'")
    op, left, right = node.ops[0], _compile(node.left, text), node.comparators[0]
    if isinstance(op, ast.In | ast.NotIn):
        if not isinstance(right, ast.List | ast.Tuple) or not all(isinstance(e, ast.Constant) for e in right.elts):
            raise FilterError(f"{ast.unparse(node)!r} in {text!r}: 'in' wants a list of constants")
        values = [e.value for e in right.elts if isinstance(e, ast.Constant)]
        inside = isinstance(op, ast.In)
        return lambda packet: (value := left(packet)) is not None and (value in values) == inside
    other = _compile(right, text)
    if isinstance(op, ast.Is | ast.IsNot):
        if not (isinstance(right, ast.Constant) and right.value is None):
            raise FilterError(f"{ast.unparse(node)!r} in {text!r}: 'is' goes with None only")
        null = isinstance(op, ast.Is)
        return lambda packet: (left(packet) is None) == null
    compare = _COMPARE[type(op)]

    def value(packet: Mapping[str, Any]) -> bool:
        one, two = left(packet), other(packet)
        return one is not None and two is not None and compare(one, two)

    return value


@lru_cache(maxsize=4)
def _scalar_schema(schema_id: int) -> dict[str, Any]:
    """The schema without histories and cutouts: a reader's schema, so that their bytes are skipped."""
    full = schema(schema_id)
    fields = [f for f in full["fields"] if not f["name"].startswith(_LARGE)]
    return {"type": "record", "name": full["name"], "fields": fields}


def read_scalars(body: bytes, schema_id: int = SCHEMA_ID) -> dict[str, Any]:
    """Return a packet without histories and cutouts: what filters look at, at a fraction of the cost.

    Raises
    ------
    AlertError
        The bytes are no packet.
    """
    return decode_body(body, schema_id, _scalar_schema(schema_id))


def read_for(filters: Iterable[AlertFilter], body: bytes, schema_id: int = SCHEMA_ID) -> dict[str, Any]:
    """Return what the filters look at: the whole packet when one needs a history or a cutout, else the scalars.

    Raises
    ------
    AlertError
        The bytes are no packet.
    """
    needs_whole = any(f.needs_whole for f in filters)
    return decode_body(body, schema_id) if needs_whole else read_scalars(body, schema_id)
