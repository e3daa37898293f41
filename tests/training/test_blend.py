"""Weights on the straight line between two models; what only one of them has stays."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from tiny_dual_encoder import tiny_dual_encoder  # noqa: E402

from mmsearch.training.architecture import with_fusion  # noqa: E402
from mmsearch.training.weight_average import blend  # noqa: E402


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_share_of_the_way_back_to_the_start(share: float) -> None:
    model, start = tiny_dual_encoder(seed=1), tiny_dual_encoder(seed=2)
    learned = {name: value.clone() for name, value in model.state_dict().items()}
    blend(model, start, share)
    for name, value in model.state_dict().items():
        expected = (1 - share) * learned[name] + share * start.state_dict()[name]
        assert torch.allclose(value, expected, atol=1e-6), name


def test_a_head_that_the_start_lacks_stays_as_it_was_learned() -> None:
    model = tiny_dual_encoder(seed=1)
    learned = {name: value.clone() for name, value in model.state_dict().items()}
    blend(model, with_fusion(tiny_dual_encoder(seed=2), None), 0.5)
    now = model.state_dict()
    head = [name for name in now if name.startswith(("matcher.", "projector."))]
    assert head and all(torch.equal(now[name], learned[name]) for name in head)
    assert not torch.equal(now["image_head.project.weight"], learned["image_head.project.weight"])
