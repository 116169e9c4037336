"""The derivatives by the parameters of the maps: all of them for a normal matrix, or at once their product for a gradient.

A term of a map of order 5 has 21 values a measurement and axis; they are products of 12, which is all that is kept.
"""

from calibration.joint.model.linearise import Basis
from tasks.arrays import F64, I64
from tasks.compiled import compiled

__all__ = ["add_map_gradient", "expand"]


@compiled
def expand(basis: Basis, dcr: bool, model: F64) -> None:
    """Write the derivatives (n, 2, K) by the parameters of the maps, run after run."""
    outer, inner, slope, chroma = basis.outer, basis.inner, basis.slope, basis.chroma
    no, ni = outer.shape[2], inner.shape[2]
    to, ti = no * (no + 1) // 2, ni * (ni + 1) // 2
    for m in range(outer.shape[0]):
        t = 0
        for j in range(no):
            for i in range(no - j):
                value = outer[m, 0, i] * outer[m, 1, j]
                model[m, 0, t], model[m, 1, to + t] = value, value
                model[m, 0, to + t], model[m, 1, t] = 0.0, 0.0
                t += 1
        t = 2 * to
        for j in range(ni):
            for i in range(ni - j):
                value = inner[m, 0, i] * inner[m, 1, j]
                for r in range(2):
                    model[m, r, t], model[m, r, ti + t] = slope[m, r, 0] * value, slope[m, r, 1] * value
                t += 1
        if dcr:
            t += ti
            model[m, 0, t], model[m, 1, t] = chroma[m, 0], chroma[m, 1]


@compiled
def add_map_gradient(basis: Basis, starts: I64, dcr: bool, pull: F64, out: F64) -> None:
    """Add J^T `pull` (n, 2) of a block to the gradient (P,) of the maps' parameters."""
    outer, inner, slope, chroma = basis.outer, basis.inner, basis.slope, basis.chroma
    no, ni = outer.shape[2], inner.shape[2]
    to, ti = no * (no + 1) // 2, ni * (ni + 1) // 2
    for m in range(outer.shape[0]):
        p, q = pull[m, 0], pull[m, 1]
        if p == 0.0 and q == 0.0:
            continue
        t = starts[m, 0]
        for j in range(no):
            a, b = outer[m, 1, j] * p, outer[m, 1, j] * q
            for i in range(no - j):
                out[t] += outer[m, 0, i] * a
                out[t + to] += outer[m, 0, i] * b
                t += 1
        p_u, p_v = slope[m, 0, 0] * p + slope[m, 1, 0] * q, slope[m, 0, 1] * p + slope[m, 1, 1] * q
        t = starts[m, 1]
        for j in range(ni):
            for i in range(ni - j):
                value = inner[m, 0, i] * inner[m, 1, j]
                out[t] += value * p_u
                out[t + ti] += value * p_v
                t += 1
        if dcr:
            out[starts[m, 2]] += chroma[m, 0] * p + chroma[m, 1] * q
