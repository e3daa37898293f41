"""Recall@K as the loop measures it: hits, ties and both directions by hand."""

from __future__ import annotations

import numpy as np

from mmsearch.training.validation import recalls


def test_perfect_embeddings_reach_one_and_a_tie_never_helps() -> None:
    images = np.eye(3, dtype=np.float32)
    owners = np.array([0, 0, 1, 2])
    perfect = recalls(images, images[owners], owners)
    assert perfect.mean == 1.0
    equal = np.ones((3, 4), dtype=np.float32) / 2
    assert recalls(equal, np.ones((4, 4), dtype=np.float32) / 2, owners).text_to_image[0] == 0.0


def test_ranks_by_hand() -> None:
    # Caption 1 belongs to image 1 but lies nearest image 0; image 1's best own caption is beaten by caption 0.
    images = np.array([[1, 0], [0.6, 0.8]], dtype=np.float32)
    captions = np.array([[0.8, 0.6], [1, 0]], dtype=np.float32)
    measured = recalls(images, captions, np.array([0, 1]))
    assert measured.text_to_image == (0.0, 1.0, 1.0)
    assert measured.image_to_text == (0.0, 1.0, 1.0)
