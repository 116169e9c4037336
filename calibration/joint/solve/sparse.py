"""The reduced system of very many model parameters: S kept sparse."""

import numpy as np
import scipy.sparse
import scipy.sparse.linalg

from calibration.errors import SingularFit
from calibration.joint.model.rows import Rows
from calibration.joint.solve.elimination import Reduced
from tasks.arrays import F64, I64

__all__ = ["SparseFactor", "sparse_schur"]


def sparse_schur(rows: Rows, inverse: F64, size: int) -> scipy.sparse.csr_matrix:
    """Return B D^-1 B^T of one block, sparse (size, size); `inverse` (m, q, q) is D^-1 of its stars."""
    n = len(rows.residual)
    m, q = inverse.shape[:2]
    star = np.repeat(np.arange(m), np.diff(rows.offsets))
    coupling = np.einsum("nia,nij,njk->nak", rows.star, rows.weight, rows.model, optimize=True)
    columns = np.concatenate(
        [s[:, None] + np.arange(length) for s, length in zip(rows.starts.T, rows.lengths, strict=True)], axis=1
    )
    row = np.broadcast_to((star[:, None] * q + np.arange(q))[:, :, None], (n, q, columns.shape[1]))
    column = np.broadcast_to(columns[:, None, :], row.shape)
    b = scipy.sparse.csr_matrix((coupling.ravel(), (row.ravel(), column.ravel())), shape=(m * q, size))
    d = scipy.sparse.block_diag(inverse, format="csr") if q > 1 else scipy.sparse.diags(inverse[:, 0, 0])
    return (b.T @ (d @ b)).tocsr()


class SparseFactor:
    """LU of the sparse S (SuperLU with the ordering for symmetric patterns), scaled to a unit diagonal.

    Parameters
    ----------
    parts
        B D^-1 B^T of each block.
    index
        Parameters that are solved for.
    prior_weight
        (P,) inverse variances that are added to the diagonal.

    Raises
    ------
    SingularFit
        S is singular.
    """

    def __init__(self, reduced: Reduced, parts: list[scipy.sparse.csr_matrix], index: I64, prior_weight: F64) -> None:
        size = reduced.gradient.size
        used = reduced.columns[:, 0] >= 0
        columns = reduced.columns[used]
        row = np.broadcast_to(columns[:, :, None], reduced.groups[used].shape)
        column = np.broadcast_to(columns[:, None, :], row.shape)
        entries = reduced.groups[used].ravel(), (row.ravel(), column.ravel())
        matrix = scipy.sparse.csr_matrix(entries, shape=(size, size))
        for part in parts:
            matrix = matrix - part
        matrix = (matrix + scipy.sparse.diags(prior_weight)).tocsr()[index][:, index]
        diagonal = matrix.diagonal()
        if not (diagonal > 0).all():
            raise SingularFit(f"{int((~(diagonal > 0)).sum())} model parameters are not determined by the data")
        self.scale = 1.0 / np.sqrt(diagonal)
        scaling = scipy.sparse.diags(self.scale)
        try:
            self.factor = scipy.sparse.linalg.splu(
                (scaling @ matrix @ scaling).tocsc(), permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True}
            )
        except RuntimeError as error:
            raise SingularFit(f"the reduced normal matrix of {index.size} parameters is singular") from error

    def solve(self, right: F64) -> F64:
        """Return S^-1 right, shape (P,)."""
        return np.asarray(self.scale * self.factor.solve(self.scale * right), np.float64)
