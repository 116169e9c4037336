"""Lanczos-3 interpolation of one point in an image and its variance, with vector instructions.

Of a sum over 6 x 6 pixels the compiler sees short loops, for which it has no vectors, whichever way they are written. So
the instructions are given: a row of 6 pixels (and 2 of weight 0) is one vector of 8, which is summed over the rows first
and across at the end. The time does not depend on how the source is turned.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types as numba_types
from numba.extending import intrinsic
from numpy.typing import NDArray

__all__ = ["LANES", "STEPS", "TABLE", "A", "array_data", "interpolate", "types", "weigh"]

A = 3
LANES = 8  # pixels of a vector: the 2 A of a row, and what fills it up
STEPS = 1024  # of the table between two pixels: linear between them the weights are right to 1e-6
types: Any = numba_types  # its names are made at run time
_FLAGS = ("contract", "nsz")
_VECTOR, _INDEX = ir.VectorType(ir.FloatType(), LANES), ir.IntType(32)


def _table() -> NDArray[np.float32]:
    """Return the weights (STEPS + 1, LANES) of the pixels -A+1..A at sub-pixel offsets 0..1; their sum is 1."""
    offset = np.arange(STEPS + 1)[:, None] / STEPS
    t = np.arange(-A + 1, A + 1)[None, :] - offset
    weights = np.where(np.abs(t) < A, np.sinc(t) * np.sinc(t / A), 0)
    weights[np.abs(weights) < 1e-12] = 0  # squares of denormal numbers are slow
    table = np.zeros((STEPS + 1, LANES), np.float32)
    table[:, : 2 * A] = weights / weights.sum(1, keepdims=True)
    return table


TABLE = _table()


def _weigh(typing: Any, table: Any, step: Any, fraction: Any, weights: Any, squares: Any, k: Any) -> Any:
    """Write the weights at `step` of the flat `table` and the `fraction` of the way to the next, and their squares.

    They become the `k`-th vectors of the flat arrays `weights` and `squares`.
    """

    def make(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        data = array_data(context, builder, signature, arguments)
        row, fraction, place = (arguments[1], arguments[2], arguments[5])
        lanes = row.type(LANES)
        row, place = builder.mul(row, lanes), builder.mul(place, lanes)
        low, high = _load(builder, data[0], row), _load(builder, data[0], builder.add(row, lanes))
        slope = builder.fmul(_in_all_lanes(builder, fraction), builder.fsub(high, low), flags=_FLAGS)
        w = builder.fadd(low, slope, flags=_FLAGS)
        for k, value in ((3, w), (4, builder.fmul(w, w))):
            builder.store(value, _place(builder, data[k], place), align=4)
        return context.get_dummy_value()

    return types.void(table, step, fraction, weights, squares, k), make


def _interpolate(
    typing: Any, image: Any, variance: Any, at: Any, width: Any, wx: Any, sx: Any, wy: Any, sy: Any, k: Any
) -> Any:
    """Return the sums of image and variance (flat float32, rows of `width`) over the 6 rows of 8 pixels from `at` on.

    The weights are the `k`-th vectors of `wx` and `wy`, for the variance those of their squares `sx` and `sy`. All 48
    pixels must be in the image and finite.
    """

    def make(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        data = array_data(context, builder, signature, arguments)
        at, width, k = arguments[2], arguments[3], builder.mul(arguments[8], arguments[8].type(LANES))
        sums: list[list[Any]] = [[], []]
        for q in range(2 * A):
            for plane, factors in ((0, 6), (1, 7)):
                factor = builder.load(builder.gep(data[factors], [builder.add(k, k.type(q))]))
                pixels, known = _load(builder, data[plane], at), sums[plane]
                part = builder.fmul(_in_all_lanes(builder, factor), pixels, flags=_FLAGS)
                if q < 2:  # two sums that do not wait for each other
                    known.append(part)
                else:
                    known[q % 2] = builder.fadd(known[q % 2], part, flags=_FLAGS)
            at = builder.add(at, width)
        found = [
            _across(builder, builder.fmul(builder.fadd(*sums[plane]), _load(builder, data[factors], k)))
            for plane, factors in ((0, 4), (1, 5))
        ]
        return context.make_tuple(builder, signature.return_type, found)

    return types.UniTuple(types.float32, 2)(image, variance, at, width, wx, sx, wy, sy, k), make


weigh: Any = intrinsic(_weigh)
interpolate: Any = intrinsic(_interpolate)


def array_data(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> dict[int, Any]:
    """Return pointers to the data of those arguments of an intrinsic that are arrays, by their number."""
    return {
        k: context.make_array(kind)(context, builder, value).data
        for k, (kind, value) in enumerate(zip(signature.args, arguments, strict=True))
        if isinstance(kind, types.Array)
    }


def _place(builder: ir.IRBuilder, pointer: Any, index: Any) -> Any:
    return builder.bitcast(builder.gep(pointer, [index]), _VECTOR.as_pointer())


def _load(builder: ir.IRBuilder, pointer: Any, index: Any) -> Any:
    return builder.load(_place(builder, pointer, index), align=4)


def _in_all_lanes(builder: ir.IRBuilder, value: Any) -> Any:
    vector = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), value, _INDEX(0))
    return builder.shuffle_vector(vector, vector, ir.Constant(ir.VectorType(_INDEX, LANES), [0] * LANES))


def _across(builder: ir.IRBuilder, vector: Any) -> Any:
    """The sum of all lanes, by halves."""
    lanes = LANES
    while lanes > 1:
        lanes //= 2
        halves = [
            builder.shuffle_vector(vector, vector, ir.Constant(ir.VectorType(_INDEX, lanes), list(range(k, k + lanes))))
            for k in (0, lanes)
        ]
        vector = builder.fadd(*halves)
    return builder.extract_element(vector, _INDEX(0))
