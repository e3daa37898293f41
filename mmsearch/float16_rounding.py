"""How far vectors rounded to float16, and scores of them, are from what they stand for: measured, not assumed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# How far from 1 the length of a vector may be, far above what rounding to float16 does to it.
_ODD_LENGTH = 2.0**-8
# Sums of tensor cores are rounded more coarsely than those of a processor.
_SUM_ERROR = 2.0**-22


class Rounding:
    """What rounding did to vectors that are shown to it in blocks. Each stands for a unit vector.

    `deviation` is the largest distance between such a vector, at its full length of 1, and what is held of it, without
    the rows that are odd: damaged ones, whose length is not 1 or not a number.
    """

    def __init__(self) -> None:
        self.deviation = 0.0
        self._odd = [np.empty(0, np.int64)]

    @property
    def odd(self) -> npt.NDArray[np.int64]:
        """Rows (O,), ascending where the blocks were."""
        return np.concatenate(self._odd)

    def seen(
        self, first: int, *, lengths: npt.NDArray[np.float32], distances: npt.NDArray[np.float32] | None = None
    ) -> npt.NDArray[np.bool_]:
        """Which rows of a block (B,) are odd. `first` is the number of its first row, `lengths` (B,) are those of the
        stored vectors, `distances` (B,) how far they were moved; None where they are held as they are stored.
        """
        # Being told that a long vector is a unit vector would be as wrong as having it in another place.
        deviations = np.abs(lengths - 1)
        if distances is not None:
            deviations = np.maximum(deviations, distances)
        # Written so that what is not a number is odd too.
        odd = np.asarray(~(deviations <= _ODD_LENGTH))
        self._odd.append(first + np.flatnonzero(odd))
        self.deviation = max(self.deviation, float(deviations[~odd].max(initial=0)))
        return odd


def float16_error(queries: npt.NDArray[np.float32], deviation: float) -> npt.NDArray[np.float64]:
    """How far q' . v' may be from q . v for each of the `queries` q (Q, D), with q' and v' rounded to float16.

    `deviation` is the largest distance between a unit vector v and v'. By Cauchy and Schwarz each distance counts once.
    """
    lost = np.linalg.norm(queries.astype(np.float64) - queries.astype(np.float16), axis=1)
    return np.asarray(1.01 * (lost + deviation + queries.shape[1] * _SUM_ERROR), np.float64)
