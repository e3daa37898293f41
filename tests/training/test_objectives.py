"""Every objective learns: its gradient reaches the towers, and ten pairs are told apart by the matching head alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tiny_dual_encoder import WORDS, tiny_dual_encoder  # noqa: E402

from mmsearch.training import fitting  # noqa: E402
from mmsearch.training.batches import BatchConfig, Dataset  # noqa: E402
from mmsearch.training.captions import CaptionedImages  # noqa: E402
from mmsearch.training.fitting import FitConfig, Loop, freeze  # noqa: E402
from mmsearch.training.objectives import (  # noqa: E402
    CONTRASTS,
    Objectives,
    Seen,
    alignment_loss,
    matching_loss,
    one_caption_each,
    see,
)
from mmsearch.training.word_pieces import WordPieces  # noqa: E402

PHOTOS, CAPTIONS = 10, 2


def _data() -> Dataset:
    rng = np.random.default_rng(0)
    maps = rng.normal(0, 6, (PHOTOS, 4, 4, 32)).astype(np.float16)
    count = PHOTOS * CAPTIONS
    ids = torch.from_numpy(rng.integers(200, WORDS, (count, 6)))
    pieces = WordPieces(ids, torch.from_numpy(rng.integers(3, 7, count)))
    owners = np.repeat(np.arange(PHOTOS, dtype=np.int64), CAPTIONS)
    captions = CaptionedImages(
        tuple(Path(f"{i}.jpg") for i in range(PHOTOS)), tuple(f"caption {i}" for i in range(count)), owners
    )
    return Dataset([maps], pieces, captions, torch.nn.functional.normalize(torch.randn(count, 8), dim=-1))


def _loop(objectives: Objectives, **changes: float) -> Loop:
    model = tiny_dual_encoder()
    batches = BatchConfig(images=PHOTOS, captions_per_image=CAPTIONS, word_drop=0.0, teacher_share=0.0)
    config = FitConfig(epochs=1000, warm_epochs=0.0, objectives=objectives, batches=batches, **changes)  # type: ignore[arg-type]
    freeze(model, config)
    return Loop(model, _data(), config, None)


def test_a_contrast_that_nobody_knows_is_not_taken_for_another() -> None:
    with pytest.raises(ValueError, match="contrast is 'triplet', expected one of infonce, hinge, sigmoid"):
        Objectives(contrast="triplet")  # type: ignore[arg-type]


def test_captions_without_a_word_to_ask_for_teach_nothing_and_spoil_nothing() -> None:
    loop = _loop(Objectives(itc=0.0, itm=0.0, mlm=1.0))
    ids = loop.batches.data.pieces.ids
    ids[:, 0], ids[:, 1:] = 101, 102
    losses = loop.losses(np.arange(PHOTOS))
    assert float(losses["masked"].detach()) == 0.0
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_gradients_are_finite_in_bfloat16_for_every_objective(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "autocast", lambda _: torch.autocast("cpu", torch.bfloat16))
    for contrast in CONTRASTS:
        loop = _loop(Objectives(itm=1.0, mlm=1.0, mim=1.0, contrast=contrast))
        loop.model.config = replace(loop.model.config, largest_scale=1e5)
        with torch.no_grad():  # far sharper than training makes it
            loop.model.log_scale.fill_(10.0)
        losses = loop.losses(np.arange(PHOTOS))
        torch.autograd.backward(torch.stack([loss.float() for loss in losses.values()]).sum())
        gradients = [each.grad for each in loop.model.parameters() if each.grad is not None]
        assert len(gradients) > 10
        assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_captions_are_seen_in_groups_and_found_again() -> None:
    loop = _loop(Objectives())
    images = np.array([7, 2, 9, 0, 4])
    seen, rows = see(loop.model, loop.batches, images, towers_learn=False)
    own = torch.from_numpy(loop.batches.data.captions.image_of)[rows]
    assert torch.equal(torch.from_numpy(images)[seen.own], own)
    assert torch.equal(seen.matches.nonzero()[:, 0].sort().values, torch.arange(5).repeat_interleave(CAPTIONS))
    picked = one_caption_each(seen.own, np.random.default_rng(0))
    assert torch.equal(seen.own[picked], torch.arange(5))
    covered = torch.zeros(len(picked), dtype=torch.bool)
    for where, group, inside in seen.by_group(picked):
        covered[where] = True
        full = loop.batches.data.pieces.ids[rows[picked[where]], : group.ids.shape[1]]
        assert torch.equal(group.ids[inside] * group.mask[inside], full * group.mask[inside])
    assert covered.all()


@pytest.mark.parametrize(
    ("objectives", "names"),
    [
        (Objectives(itm=0.0), {"itc"}),
        (Objectives(itm=0.0, contrast="hinge"), {"itc"}),
        (Objectives(itm=0.0, contrast="sigmoid"), {"itc"}),
        (Objectives(itc=0.0, itm=1.0, align=0.0), {"itc", "itm"}),
        (Objectives(itc=0.0, itm=1.0), {"itc", "align", "itm"}),
        (Objectives(itc=0.0, itm=0.0, mlm=1.0), {"itc", "masked"}),
        (Objectives(itc=0.0, itm=0.0, mim=1.0), {"itc", "masked"}),
        (Objectives(itm=1.0, mlm=1.0, mim=1.0), {"itc", "align", "itm", "masked"}),
    ],
)
def test_every_objective_teaches_both_towers(objectives: Objectives, names: set[str]) -> None:
    loop = _loop(objectives)
    losses = loop.losses(np.arange(PHOTOS))
    assert set(losses) == names
    torch.autograd.backward(torch.stack(list(losses.values())).sum())
    for parameter in (loop.model.image_tower.head.weight, loop.model.text_tower.layers[0].query.weight):
        assert parameter.grad is not None
        assert float(parameter.grad.abs().sum()) > 0


@pytest.mark.parametrize("objectives", [Objectives(itm=1.0), Objectives(itm=1.0, mlm=0.2, mim=0.5)])
def test_the_matching_head_learns_ten_photos_by_heart(objectives: Objectives) -> None:
    loop = _loop(objectives, head_rate=5e-3, image_rate=1e-3, text_rate=1e-3, average_decay=0.5)
    model = loop.model.train()
    for _ in range(120):
        loop.step(np.arange(PHOTOS))
    model.eval()
    assert model.matcher is not None
    right = 0
    with torch.no_grad():
        seen, _ = see(model, loop.batches, np.arange(PHOTOS), towers_learn=False)
        for group in seen.groups:
            shared = (len(group.ids), -1, -1)
            tokens = model.match_tokens(seen.tower_map)
            logits = torch.stack([model.matcher(each.expand(shared), group.states, group.mask) for each in tokens])
            right += int((logits.argmax(0) == seen.own[group.first : group.first + len(group.ids)]).sum())
    assert right >= 0.9 * PHOTOS * CAPTIONS  # by chance two of twenty


def test_the_matching_head_learns_from_the_tokens_that_a_search_gives_it() -> None:
    limit = 3
    loop = _loop(Objectives())
    model = loop.model
    assert model.matcher is not None
    model.matcher.config = replace(model.matcher.config, max_text_tokens=limit)
    seen, rows = see(model, loop.batches, np.arange(PHOTOS), towers_learn=False)
    tokens, targets = model.match_tokens(seen.tower_map), loop.batches.targets(np.arange(PHOTOS), rows, seen.matches)
    picked = one_caption_each(seen.own, np.random.default_rng(0))
    beyond = tuple(
        replace(group, states=torch.cat([group.states[:, :limit], torch.randn_like(group.states[:, limit:])], dim=1))
        for group in seen.groups
    )
    assert any(group.states.shape[1] > limit for group in seen.groups)

    def losses(batch: Seen) -> tuple[float, float]:
        generator = torch.Generator().manual_seed(0)
        matching = matching_loss(model, batch, tokens=tokens, picked=picked, generator=generator)
        return float(matching.detach()), float(alignment_loss(model, batch, tokens=tokens, targets=targets).detach())

    assert losses(replace(seen, groups=beyond)) == losses(seen)
    cut = replace(
        seen,
        groups=tuple(replace(each, mask=each.mask & (torch.arange(each.mask.shape[1]) < 2)) for each in seen.groups),
    )
    assert losses(cut) != losses(seen)


def test_no_word_is_asked_for_that_the_matching_head_does_not_read() -> None:
    loop = _loop(Objectives(itc=0.0, itm=0.0, mlm=1.0, mim=1.0))
    assert loop.model.matcher is not None
    loop.model.matcher.config = replace(loop.model.matcher.config, max_text_tokens=2)
    ids = loop.batches.data.pieces.ids
    ids[:, :2] = torch.tensor([101, 102])
    losses = loop.losses(np.arange(PHOTOS))
    assert torch.isfinite(losses["masked"])
    ids[:, 1] = 500
    assert float(loop.losses(np.arange(PHOTOS))["masked"].detach()) > float(losses["masked"].detach()) + 0.5
