"""What compiled functions with vector instructions of their own (LLVM's, given by numba's intrinsics) are made of."""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types as numba_types

__all__ = ["FLAGS", "array_data", "load", "place", "shuffled", "spread", "types"]

types: Any = numba_types  # its names are made at run time
FLAGS = ("contract", "nsz")
_INDEX = ir.IntType(32)


def array_data(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> dict[int, Any]:
    """Return pointers to the data of those arguments of an intrinsic that are arrays, by their number."""
    return {
        k: context.make_array(kind)(context, builder, value).data
        for k, (kind, value) in enumerate(zip(signature.args, arguments, strict=True))
        if isinstance(kind, types.Array)
    }


def place(builder: ir.IRBuilder, pointer: Any, index: Any, lanes: int) -> Any:
    """Return a pointer to the vector of `lanes` numbers that begins at an index."""
    return builder.bitcast(builder.gep(pointer, [index]), ir.VectorType(ir.FloatType(), lanes).as_pointer())


def load(builder: ir.IRBuilder, pointer: Any, index: Any, lanes: int) -> Any:
    """Return that vector."""
    return builder.load(place(builder, pointer, index, lanes), align=4)


def shuffled(builder: ir.IRBuilder, one: Any, other: Any, lanes: Sequence[int]) -> Any:
    """Return the vector of some lanes of two."""
    return builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(_INDEX, len(lanes)), list(lanes)))


def spread(builder: ir.IRBuilder, number: Any, lanes: int) -> Any:
    """Return a vector with one number in all lanes."""
    first = builder.insert_element(ir.Constant(ir.VectorType(ir.FloatType(), lanes), ir.Undefined), number, _INDEX(0))
    return shuffled(builder, first, first, [0] * lanes)
