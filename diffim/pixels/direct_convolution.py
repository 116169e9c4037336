"""Convolution with a narrow kernel, summed directly with vector instructions: faster than transforms up to 15 x 15.

Sums of a block of rows and vectors are kept in registers while the kernel passes over them, so that each pixel that is
loaded serves several sums. The compiler finds no such loop by itself.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba.core import cgutils
from numba.extending import intrinsic

from diffim.pixels.llvm_vectors import FLAGS, array_data, load, place, spread, types
from tasks.arrays import F32
from tasks.compiled import compiled

__all__ = ["BLOCK_SHAPE", "NarrowKernel"]

MOST = 7  # px of half width that are summed directly
LOST = 1e-3  # of a kernel's sum that may lie outside of the part that is summed
LANES = 16 if binding.get_host_cpu_features().get("avx512f") else 8
ROWS, VECTORS = 2, 4  # of a block
BLOCK_SHAPE = (ROWS, VECTORS * LANES)  # px; the sums do not depend on it
_VECTOR = ir.VectorType(ir.FloatType(), LANES)


@dataclass(frozen=True)
class NarrowKernel:
    """The middle of a kernel stamp, as the sums take it: turned around, with rows of zeros above and below."""

    weights: F32
    side: int

    @classmethod
    def of(cls, stamp: F32) -> "NarrowKernel | None":
        """Return the narrowest middle of a stamp without negative values that has nearly its sum; None: it is wide.

        What is left out is made good for by a factor, so that the sum stays.
        """
        middle, total = stamp.shape[0] // 2, stamp.sum()
        for half in range(min(MOST, middle) + 1):
            part = stamp[middle - half : middle + half + 1, middle - half : middle + half + 1]
            if part.sum() >= (1 - LOST) * total > 0:
                turned = np.asarray(part[::-1, ::-1] * (total / part.sum()), np.float32)
                return cls(np.pad(turned, ((ROWS - 1, ROWS - 1), (0, 0))), part.shape[0])
        return None

    def convolve(self, window: F32, first: int, height: int, width: int, out: F32) -> None:
        """Write the convolution of a window to `out` [:height, :width], whose first pixel is at index `first` of it.

        The part is no smaller than `BLOCK_SHAPE`.
        """
        _convolve(window, first - self.side // 2, height, width, self.weights, self.side, out)


def _sum_block(
    typing: Any, window: Any, at: Any, stride: Any, weights: Any, side: Any, out: Any, to: Any, out_stride: Any
) -> Any:
    """Write the sums of one block to the flat `out` from `to` on, from the flat `window` from `at` on."""

    def make(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        data = array_data(context, builder, signature, arguments)
        _, at, stride, _, side, _, to, out_stride = arguments
        index = at.type

        room: Any = cgutils.alloca_once  # the compiler keeps what lies there in registers
        sums = [[room(builder, _VECTOR) for _ in range(VECTORS)] for _ in range(ROWS)]
        for one in (s for row in sums for s in row):
            builder.store(ir.Constant(_VECTOR, None), one)
        with cgutils.for_range(builder, builder.add(side, index(ROWS - 1))) as row:
            start = builder.add(at, builder.mul(row.index, stride))
            below = builder.mul(row.index, side)
            with cgutils.for_range(builder, side) as column:
                first = builder.add(start, column.index)
                pixels = [load(builder, data[0], builder.add(first, index(k * LANES)), LANES) for k in range(VECTORS)]
                for r in range(ROWS):  # the padded weights are those of this row of pixels in each row of the block
                    weight = builder.add(builder.add(below, column.index), builder.mul(side, index(ROWS - 1 - r)))
                    wide = spread(builder, builder.load(builder.gep(data[3], [weight])), LANES)
                    for k in range(VECTORS):
                        part = builder.fmul(wide, pixels[k], flags=FLAGS)
                        builder.store(builder.fadd(builder.load(sums[r][k]), part, flags=FLAGS), sums[r][k])
        for r in range(ROWS):
            line = builder.add(to, builder.mul(out_stride, index(r)))
            for k in range(VECTORS):
                target = place(builder, data[5], builder.add(line, index(k * LANES)), LANES)
                builder.store(builder.load(sums[r][k]), target, align=4)
        return context.get_dummy_value()

    return types.void(window, at, stride, weights, side, out, to, out_stride), make


_summed: Any = intrinsic(_sum_block)


@compiled
def _convolve(window: Any, low: int, height: int, width: int, weights: Any, side: int, out: Any) -> None:
    pixels, stride, flat = window.reshape(-1), window.shape[1], weights.reshape(-1)
    target, out_stride = out.reshape(-1), out.shape[1]
    rows, columns = BLOCK_SHAPE
    for j in range(0, height, rows):
        y = min(j, height - rows)  # the last block overlaps the one before
        for i in range(0, width, columns):
            x = min(i, width - columns)
            _summed(pixels, (low + y) * stride + low + x, stride, flat, side, target, y * out_stride + x, out_stride)
