"""Lanczos-3 interpolation of one point in an image and its variance, with vector instructions.

Of a sum over 6 x 6 pixels the compiler sees short loops, for which it has no vectors, whichever way they are written. So
the instructions are given: a row of 6 pixels (and 2 of weight 0), each a pair of value and variance, is one vector of 16,
which is summed over the rows first and across at the end. The time does not depend on how the source is turned.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

from diffim.pixels.llvm_vectors import FLAGS, array_data, load, place, shuffled, spread, types
from tasks.arrays import F32

__all__ = ["LANES", "STEPS", "TABLE", "A", "interpolate", "weigh"]

A = 3
LANES = 8  # pixels of a vector: the 2 A of a row, and what fills it up
STEPS = 1024  # of the table between two pixels: linear between them the weights are right to 1e-6


def _table() -> F32:
    """Return the weights (STEPS + 1, LANES) of the pixels -A+1..A at sub-pixel offsets 0..1; their sum is 1."""
    offset = np.arange(STEPS + 1)[:, None] / STEPS
    t = np.arange(-A + 1, A + 1)[None, :] - offset
    weights = np.where(np.abs(t) < A, np.sinc(t) * np.sinc(t / A), 0)
    weights[np.abs(weights) < 1e-12] = 0  # squares of denormal numbers are slow
    table = np.zeros((STEPS + 1, LANES), np.float32)
    table[:, : 2 * A] = weights / weights.sum(1, keepdims=True)
    return table


TABLE = _table()


def _weigh(typing: Any, table: Any, step: Any, fraction: Any, weights: Any, k: Any) -> Any:
    """Write the weights at `step` of the flat `table` and the `fraction` of the way to the next, each with its square.

    They become the `k`-th vector of pairs of the flat array `weights`.
    """

    def make(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        data = array_data(context, builder, signature, arguments)
        row, fraction, to = arguments[1], arguments[2], arguments[4]
        row, to = builder.mul(row, row.type(LANES)), builder.mul(to, to.type(2 * LANES))
        low = load(builder, data[0], row, LANES)
        high = load(builder, data[0], builder.add(row, row.type(LANES)), LANES)
        slope = builder.fmul(spread(builder, fraction, LANES), builder.fsub(high, low), flags=FLAGS)
        w = builder.fadd(low, slope, flags=FLAGS)
        pairs = [i for k in range(LANES) for i in (k, LANES + k)]
        both = shuffled(builder, w, builder.fmul(w, w), pairs)
        builder.store(both, place(builder, data[3], to, 2 * LANES), align=4)
        return context.get_dummy_value()

    return types.void(table, step, fraction, weights, k), make


def _interpolate(typing: Any, pairs: Any, at: Any, width: Any, wx: Any, wy: Any, k: Any) -> Any:
    """Return the sums of image and variance (flat `pairs`, rows of `width` pixels) over the 6 rows of 8 pixels from `at` on.

    The weights are the `k`-th vectors of `wx` and `wy`. All 48 pixels must be in the image and finite.
    """

    def make(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        data = array_data(context, builder, signature, arguments)
        two = arguments[1].type(2)
        at, width = builder.mul(arguments[1], two), builder.mul(arguments[2], two)
        k = builder.mul(arguments[5], arguments[5].type(2 * LANES))
        sums: list[Any] = []
        for q in range(2 * A):
            pair = load(builder, data[4], builder.add(k, k.type(2 * q)), 2)
            weight = shuffled(builder, pair, pair, [0, 1] * LANES)
            part = builder.fmul(weight, load(builder, data[0], at, 2 * LANES), flags=FLAGS)
            if q < 2:  # two sums that do not wait for each other
                sums.append(part)
            else:
                sums[q % 2] = builder.fadd(sums[q % 2], part, flags=FLAGS)
            at = builder.add(at, width)
        total = builder.fmul(builder.fadd(*sums), load(builder, data[3], k, 2 * LANES))
        lanes = LANES
        while lanes > 1:  # across by halves, down to one pair
            low, high = (shuffled(builder, total, total, range(a, a + lanes)) for a in (0, lanes))
            total, lanes = builder.fadd(low, high), lanes // 2
        found = [builder.extract_element(total, ir.IntType(32)(plane)) for plane in range(2)]
        return context.make_tuple(builder, signature.return_type, found)

    return types.UniTuple(types.float32, 2)(pairs, at, width, wx, wy, k), make


weigh: Any = intrinsic(_weigh)
interpolate: Any = intrinsic(_interpolate)
