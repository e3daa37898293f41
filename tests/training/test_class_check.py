"""How well names find photos, on similarities made by hand."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mmsearch.training.class_check import judged  # noqa: E402


def test_fractions_are_those_counted_by_hand() -> None:
    # Photos of the classes 0, 0, 1 and 6, among seven names.
    similarities = np.full((4, 7), 0.1, np.float32)
    similarities[0, 0] = 0.9  # named first, and what the name 0 finds first
    similarities[1, [0, 1]] = 0.3, 0.8  # named second; the name 1 finds it before its own photo
    similarities[2, 1] = 0.7  # named first
    similarities[3] = [0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.15]  # its name comes last; found first by it
    report = judged(similarities, np.array([0, 0, 1, 6]), 1.0)
    assert (report.photos, report.classes) == (4, 3)
    assert report.named_first == pytest.approx(2 / 4)
    assert report.named_in_five == pytest.approx(3 / 4)
    assert report.found_first == pytest.approx(2 / 3)


def test_a_tie_counts_against_the_model_everywhere() -> None:
    report = judged(np.zeros((8, 8), np.float32), np.arange(8), 1.0)
    assert (report.named_first, report.named_in_five, report.found_first) == (0.0, 0.0, 0.0)


def test_photos_of_one_class_may_tie_with_each_other() -> None:
    similarities = np.array([[0.5, 0.1], [0.5, 0.1], [0.1, 0.2]], np.float32)
    assert judged(similarities, np.array([0, 0, 1]), 1.0).found_first == 1.0
