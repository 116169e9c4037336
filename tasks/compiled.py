"""Functions that numba compiles: one decorator, which keeps their types."""

from collections.abc import Callable
from typing import Any, TypeVar, cast, overload

import numba

__all__ = ["compiled"]

_F = TypeVar("_F", bound=Callable[..., Any])


@overload
def compiled(function: _F) -> _F: ...


@overload
def compiled(
    *, fastmath: bool | set[str] = False, inline: bool = False, parallel: bool = False
) -> Callable[[_F], _F]: ...


def compiled(
    function: _F | None = None, *, fastmath: bool | set[str] = False, inline: bool = False, parallel: bool = False
) -> _F | Callable[[_F], _F]:
    """Compile a function on its first call and keep the machine code on disk; it runs without the interpreter's lock.

    Parameters
    ----------
    fastmath
        True, or the LLVM flags that may change the order of sums.
    inline
        The function's body is put into its compiled callers.
    parallel
        Loops over `numba.prange` are shared among threads.
    """
    options: dict[str, Any] = {"cache": True, "nogil": True, "fastmath": fastmath, "parallel": parallel}
    if inline:
        options["inline"] = "always"
    compile_ = cast("Callable[[_F], _F]", numba.njit(**options))
    return compile_ if function is None else compile_(function)
