"""Parts of a set, each with its own gallery."""

from __future__ import annotations

import numpy as np
import pytest

from mmsearch.errors import UsageError
from mmsearch.eval.folds import split_into_folds


def test_folds_follow_the_order_of_the_file_and_take_their_own_captions() -> None:
    pairs = np.array([(0, 0), (1, 1), (2, 2), (3, 3), (3, 4)])
    first, second = split_into_folds(pairs, np.array([3, 0, 2, 1]), 2)
    assert first.images.tolist() == [3, 0]
    assert first.captions.tolist() == [0, 3, 4]
    assert first.pairs.tolist() == [[1, 0], [0, 1], [0, 2]]
    assert second.images.tolist() == [2, 1]
    assert second.pairs.tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("folds", [0, 3, 5])
def test_unequal_folds_are_refused(folds: int) -> None:
    with pytest.raises(UsageError, match="cannot be split"):
        split_into_folds(np.array([(0, 0)]), np.arange(4), folds)
