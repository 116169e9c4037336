"""Convolution with a narrow kernel, summed directly with vector instructions: faster than transforms up to 15 x 15.

Sums of a block of rows and vectors are kept in registers while the kernel passes over them, so that each pixel that is
loaded serves several sums. The compiler finds no such loop by itself. Where llvmlite is of another version than the one that
this was written for (`diffim.pixels.llvm_vectors.AVAILABLE`), a plain loop makes the same sums in the same order.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba.core import cgutils
from numba.extending import intrinsic

from diffim.pixels.llvm_vectors import AVAILABLE, FLAGS, array_structs, broadcast, load_vector, types, vector_pointer
from tasks.arrays import F32
from tasks.compiled import compiled

__all__ = ["BLOCK_SHAPE", "NarrowKernel", "convolve_directly", "convolve_plainly"]

MOST = 7  # px of half width that are summed directly
LOST = 1e-3  # of a kernel's sum that may lie outside of the part that is summed
LANES = 16 if binding.get_host_cpu_features().get("avx512f") else 8
ROWS, VECTORS = 2, 4  # of a block
PADDING = ROWS - 1  # rows of zeros above and below the weights
BLOCK_SHAPE = (ROWS, VECTORS * LANES)  # px; the sums do not depend on it
_VECTOR = ir.VectorType(ir.FloatType(), LANES)


@dataclass(frozen=True)
class NarrowKernel:
    """The middle of a kernel stamp, as the sums take it.

    Parameters
    ----------
    weights
        Shape (side + 2, side): the stamp turned by 180 degrees, with a row of zeros above and one below.
    side
        Side of the part of the stamp that is summed, px, odd.
    """

    weights: F32
    side: int

    @classmethod
    def of(cls, stamp: F32) -> "NarrowKernel | None":
        """Return the narrowest middle of a stamp, shape (S, S), without negative values that has nearly its sum; None: it is wide.

        What is left out is made good for by a factor, so that the sum stays.
        """
        middle, total = stamp.shape[0] // 2, stamp.sum()
        for half in range(min(MOST, middle) + 1):
            part = stamp[middle - half : middle + half + 1, middle - half : middle + half + 1]
            if part.sum() >= (1 - LOST) * total > 0:
                turned = np.asarray(part[::-1, ::-1] * (total / part.sum()), np.float32)
                return cls(np.pad(turned, ((PADDING, PADDING), (0, 0))), part.shape[0])
        return None

    def convolve(self, window: F32, first: int, height: int, width: int, out: F32) -> None:
        """Write the convolution of a part of a window to `out` [:height, :width].

        Parameters
        ----------
        window
            C-contiguous image that holds the part and half of the kernel's side around it.
        first
            Row and column of `window` at which the part begins.
        height, width
            Shape of the part, px; no smaller than `BLOCK_SHAPE`.
        out
            C-contiguous image, at least as large as the part.
        """
        convolve = convolve_directly if AVAILABLE else convolve_plainly
        convolve(window, first - self.side // 2, height, width, self.weights, out)


def _sum_block(typing: Any, window: Any, start: Any, weights: Any, out: Any, out_start: Any) -> Any:
    """Write the sums of one block to `out` from its element `out_start` on, from `window` from its element `start` on.

    The three arrays are C-contiguous; elements are numbered as in memory.
    """

    def make(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        arrays = array_structs(context, builder, signature, arguments)
        pixels, kernel, sink = (arrays[k].data for k in (0, 2, 3))
        width, side, out_width = (builder.extract_value(arrays[k].shape, 1) for k in (0, 2, 3))
        start, out_start = arguments[1], arguments[4]
        index = start.type

        allocate: Any = cgutils.alloca_once  # the compiler keeps what lies there in registers
        sums = [[allocate(builder, _VECTOR) for _ in range(VECTORS)] for _ in range(ROWS)]
        for cell in (s for row in sums for s in row):
            builder.store(ir.Constant(_VECTOR, None), cell)
        with cgutils.for_range(builder, builder.add(side, index(ROWS - 1))) as row:
            line = builder.add(start, builder.mul(row.index, width))
            below = builder.mul(row.index, side)
            with cgutils.for_range(builder, side) as column:
                first = builder.add(line, column.index)
                vectors = [
                    load_vector(builder, pixels, builder.add(first, index(k * LANES)), LANES) for k in range(VECTORS)
                ]
                for r in range(ROWS):  # the padded weights are those of this row of pixels in each row of the block
                    weight = builder.add(builder.add(below, column.index), builder.mul(side, index(ROWS - 1 - r)))
                    weights_ = broadcast(builder, builder.load(builder.gep(kernel, [weight])), LANES)
                    for k in range(VECTORS):
                        part = builder.fmul(weights_, vectors[k], flags=FLAGS)
                        builder.store(builder.fadd(builder.load(sums[r][k]), part, flags=FLAGS), sums[r][k])
        for r in range(ROWS):
            line = builder.add(out_start, builder.mul(out_width, index(r)))
            for k in range(VECTORS):
                target = vector_pointer(builder, sink, builder.add(line, index(k * LANES)), LANES)
                builder.store(builder.load(sums[r][k]), target, align=4)
        return context.get_dummy_value()

    return types.void(window, start, weights, out, out_start), make


_summed: Any = intrinsic(_sum_block)


@compiled
def convolve_directly(window: Any, low: int, height: int, width: int, weights: Any, out: Any) -> None:
    """Write the sums of the kernel times the pixels from (`low`, `low`) of a window on, block by block.

    Parameters are those of `NarrowKernel.convolve`, but for `low`: half of the kernel's side before the part.
    """
    rows, columns = BLOCK_SHAPE
    for j in range(0, height, rows):
        y = min(j, height - rows)  # the last block overlaps the one before
        for i in range(0, width, columns):
            x = min(i, width - columns)
            _summed(window, (low + y) * window.shape[1] + low + x, weights, out, y * out.shape[1] + x)


@compiled(fastmath=set(FLAGS))
def convolve_plainly(window: Any, low: int, height: int, width: int, weights: Any, out: Any) -> None:
    """Do what `convolve_directly` does, with the compiler's own instructions."""
    side = weights.shape[1]
    for y in range(height):
        sums = out[y, :width]
        sums[:] = 0
        for j in range(side):
            for i in range(side):
                weight, pixels = weights[PADDING + j, i], window[low + y + j, low + i : low + i + width]
                for x in range(width):
                    sums[x] += weight * pixels[x]
