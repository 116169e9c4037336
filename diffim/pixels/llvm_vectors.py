"""Building blocks of compiled functions that give LLVM's vector instructions themselves, as numba's intrinsics.

What is built of them depends on the interface of llvmlite. `AVAILABLE` says whether the installed version is the one that
it was written for; with any other, the plain twins of these functions are used, which give the same numbers.
"""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from llvmlite import ir
from numba import types as numba_types

__all__ = [
    "AVAILABLE",
    "FLAGS",
    "LLVMLITE",
    "array_structs",
    "broadcast",
    "load_vector",
    "shuffle",
    "types",
    "vector_pointer",
]

LLVMLITE = "0.50.0"
AVAILABLE = version("llvmlite") == LLVMLITE
types: Any = numba_types  # its names are made at run time
FLAGS = ("contract", "nsz")
_INDEX = ir.IntType(32)


def array_structs(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> dict[int, Any]:
    """Return those arguments of an intrinsic that are arrays, by their number, with their fields ``data`` and ``shape``."""
    return {
        k: context.make_array(kind)(context, builder, value)
        for k, (kind, value) in enumerate(zip(signature.args, arguments, strict=True))
        if isinstance(kind, types.Array)
    }


def vector_pointer(builder: ir.IRBuilder, pointer: Any, index: Any, lanes: int) -> Any:
    """Return a pointer to the vector of `lanes` float32 numbers that begins at an index of an array."""
    return builder.bitcast(builder.gep(pointer, [index]), ir.VectorType(ir.FloatType(), lanes).as_pointer())


def load_vector(builder: ir.IRBuilder, pointer: Any, index: Any, lanes: int) -> Any:
    """Return the vector of `lanes` float32 numbers that begins at an index of an array."""
    return builder.load(vector_pointer(builder, pointer, index, lanes), align=4)


def shuffle(builder: ir.IRBuilder, one: Any, other: Any, lanes: Sequence[int]) -> Any:
    """Return the vector of some lanes of two vectors; those of the second are counted on from the first."""
    return builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(_INDEX, len(lanes)), list(lanes)))


def broadcast(builder: ir.IRBuilder, number: Any, lanes: int) -> Any:
    """Return a vector with one float32 number in all lanes."""
    first = builder.insert_element(ir.Constant(ir.VectorType(ir.FloatType(), lanes), ir.Undefined), number, _INDEX(0))
    return shuffle(builder, first, first, [0] * lanes)
