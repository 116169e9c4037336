"""Interpolation of one point in an image and its variance, with vector instructions.

Of a sum over 6 x 6 pixels the compiler sees short loops, for which it has no vectors, in whatever form they are written. So
the instructions are given: a row of 6 pixels (and 2 of weight 0), each a pair of value and variance, is one vector of 16,
which is summed over the rows first and across at the end. The time does not depend on how the source is turned.

Each of the two compiled functions has a plain twin of the same arithmetic in the same order, which is used where llvmlite is
of another version (`diffim.pixels.llvm_vectors.AVAILABLE`).
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

from diffim.pixels.llvm_vectors import (
    AVAILABLE,
    FLAGS,
    array_structs,
    broadcast,
    load_vector,
    shuffle,
    types,
    vector_pointer,
)
from exposure.interpolation import STEPS, weight_table
from tasks.arrays import F32
from tasks.compiled import compiled

__all__ = ["LANES", "TABLE", "A", "interpolate", "interpolate_plainly", "weigh", "weigh_plainly"]

A = 3  # px that the kernel reaches
LANES = 8  # pixels of a vector: the 2 A of a row, and what fills it up
WIDTHS = (3.0, 4.66)  # px: of stars of all widths from 3 px on the flux is kept to 0.03 %


def _table() -> F32:
    """Return the weights (STEPS + 1, LANES) of the pixels -A+1..A at sub-pixel offsets 0..1; their sum is 1."""
    table = np.zeros((STEPS + 1, LANES), np.float32)
    table[:, : 2 * A] = weight_table(A, WIDTHS)
    return table


TABLE = _table()


def _weigh(typing: Any, table: Any, step: Any, fraction: Any, weights: Any, k: Any) -> Any:
    """Write the weights at `step` of the flat `table`, moved by `fraction` towards the next step, each with its square.

    They become the `k`-th vector of LANES pairs (weight, weight squared) of the flat array `weights`.
    """

    def make(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        arrays = array_structs(context, builder, signature, arguments)
        row, fraction, target = arguments[1], arguments[2], arguments[4]
        row, target = builder.mul(row, row.type(LANES)), builder.mul(target, target.type(2 * LANES))
        low = load_vector(builder, arrays[0].data, row, LANES)
        high = load_vector(builder, arrays[0].data, builder.add(row, row.type(LANES)), LANES)
        slope = builder.fmul(broadcast(builder, fraction, LANES), builder.fsub(high, low), flags=FLAGS)
        w = builder.fadd(low, slope, flags=FLAGS)
        pairs = [i for k in range(LANES) for i in (k, LANES + k)]
        both = shuffle(builder, w, builder.fmul(w, w), pairs)
        builder.store(both, vector_pointer(builder, arrays[3].data, target, 2 * LANES), align=4)
        return context.get_dummy_value()

    return types.void(table, step, fraction, weights, k), make


def _interpolate(typing: Any, pairs: Any, start: Any, width: Any, wx: Any, wy: Any, k: Any) -> Any:
    """Return the weighted sums of image and variance over 6 rows of 8 pixels, the first of which is pixel `start`.

    `pairs` holds (value, variance) of all pixels, flat, in rows of `width` pixels. The weights are the `k`-th vectors of
    `wx` and `wy`. All 48 pixels must be in the image and finite.
    """

    def make(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        arrays = array_structs(context, builder, signature, arguments)
        two = arguments[1].type(2)
        index, width = builder.mul(arguments[1], two), builder.mul(arguments[2], two)
        k = builder.mul(arguments[5], arguments[5].type(2 * LANES))
        sums: list[Any] = []
        for q in range(2 * A):
            pair = load_vector(builder, arrays[4].data, builder.add(k, k.type(2 * q)), 2)
            weight = shuffle(builder, pair, pair, [0, 1] * LANES)
            part = builder.fmul(weight, load_vector(builder, arrays[0].data, index, 2 * LANES), flags=FLAGS)
            if q < 2:  # two sums that do not wait for each other
                sums.append(part)
            else:
                sums[q % 2] = builder.fadd(sums[q % 2], part, flags=FLAGS)
            index = builder.add(index, width)
        total = builder.fmul(builder.fadd(*sums), load_vector(builder, arrays[3].data, k, 2 * LANES))
        lanes = LANES
        while lanes > 1:  # across by halves, down to one pair
            low, high = (shuffle(builder, total, total, range(a, a + lanes)) for a in (0, lanes))
            total, lanes = builder.fadd(low, high), lanes // 2
        planes = [builder.extract_element(total, ir.IntType(32)(plane)) for plane in range(2)]
        return context.make_tuple(builder, signature.return_type, planes)

    return types.UniTuple(types.float32, 2)(pairs, start, width, wx, wy, k), make


@compiled(fastmath=set(FLAGS))
def weigh_plainly(table: Any, step: int, fraction: Any, weights: Any, k: int) -> None:
    """Do what `weigh` does, with the compiler's own instructions."""
    row, target = step * LANES, k * 2 * LANES
    for i in range(LANES):
        low, high = table[row + i], table[row + LANES + i]
        w = low + fraction * (high - low)
        weights[target + 2 * i] = w
        weights[target + 2 * i + 1] = w * w


@compiled(fastmath=set(FLAGS))
def _sum_of_three(w0: Any, p0: Any, w1: Any, p1: Any, w2: Any, p2: Any) -> Any:
    return w0 * p0 + w1 * p1 + w2 * p2


@compiled(inline=True)
def _column(pairs: Any, first: int, step: int, wx: Any, wy: Any, k: int, i: int) -> Any:
    """Return the weighted sum of column `i` of one plane: rows 0, 2, 4 and rows 1, 3, 5 are summed by themselves."""
    a = first + 2 * i
    even = _sum_of_three(wy[k], pairs[a], wy[k + 4], pairs[a + 2 * step], wy[k + 8], pairs[a + 4 * step])
    a += step
    odd = _sum_of_three(wy[k + 2], pairs[a], wy[k + 6], pairs[a + 2 * step], wy[k + 10], pairs[a + 4 * step])
    return (even + odd) * wx[k + 2 * i]


@compiled(inline=True)
def _across(pairs: Any, first: int, step: int, wx: Any, wy: Any, k: int) -> Any:
    """Return the weighted sum of one plane: columns that are 4, then 2, then 1 apart are added."""
    c0 = _column(pairs, first, step, wx, wy, k, 0) + _column(pairs, first, step, wx, wy, k, 4)
    c1 = _column(pairs, first, step, wx, wy, k, 1) + _column(pairs, first, step, wx, wy, k, 5)
    c2 = _column(pairs, first, step, wx, wy, k, 2) + _column(pairs, first, step, wx, wy, k, 6)
    c3 = _column(pairs, first, step, wx, wy, k, 3) + _column(pairs, first, step, wx, wy, k, 7)
    return (c0 + c2) + (c1 + c3)


@compiled
def interpolate_plainly(pairs: Any, start: int, width: int, wx: Any, wy: Any, k: int) -> tuple[np.float32, np.float32]:
    """Return the interpolated value and variance of one pixel as `interpolate` does, with the compiler's own instructions."""
    vector = k * 2 * LANES
    value = _across(pairs, 2 * start, 2 * width, wx, wy, vector)
    return value, _across(pairs, 2 * start + 1, 2 * width, wx, wy, vector + 1)  # the variance, with the squared weights


weigh: Any = intrinsic(_weigh) if AVAILABLE else weigh_plainly
interpolate: Any = intrinsic(_interpolate) if AVAILABLE else interpolate_plainly
