"""Which epoch is kept: by recall, and where recall cannot tell, by how well the matching head does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
import openclip_models  # noqa: E402, F401 - makes open_clip importable

pytest.importorskip("open_clip")
pytest.importorskip("onnxscript")
pytest.importorskip("safetensors")
pytest.importorskip("matplotlib")

from tiny_clip import noise_pairs, tiny_clip, write_tiny_clip  # noqa: E402

from mmsearch.indexer.interrupt import Interrupt  # noqa: E402
from mmsearch.training import head_check  # noqa: E402
from mmsearch.training.batches import BatchConfig, Dataset, as_input  # noqa: E402
from mmsearch.training.clip_model import ClipDual  # noqa: E402
from mmsearch.training.fitting import FitConfig, fit  # noqa: E402
from mmsearch.training.follow import Follow, Tell  # noqa: E402
from mmsearch.training.head_check import held_out_loss  # noqa: E402
from mmsearch.training.history import History, history_from_json  # noqa: E402
from mmsearch.training.plan import Plan  # noqa: E402
from mmsearch.training.run_directory import RunDirectory  # noqa: E402
from mmsearch.training.validation import Recalls  # noqa: E402

PAIRS, EPOCHS = 10, 4
LOW, HIGH = Recalls((0.1,) * 3, (0.1,) * 3), Recalls((0.2,) * 3, (0.1,) * 3)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ClipDual:
    return tiny_clip(write_tiny_clip(tmp_path_factory.mktemp("clip") / "vit"))


def history(*epochs: tuple[Recalls, float | None]) -> History:
    told = History()
    told.close(HIGH)
    for recalls, matching in epochs:
        told.add({"itm": 1.0})
        told.close(recalls, matching=matching)
    return told


@pytest.mark.parametrize(
    ("epochs", "kept"),
    [
        ([(LOW, None), (LOW, None), (LOW, None)], 3),
        ([(LOW, None), (HIGH, None), (LOW, None)], 2),
        ([(LOW, 0.5), (LOW, 0.3), (LOW, 0.4)], 2),
        ([(LOW, 0.3), (LOW, 0.3), (LOW, 0.4)], 2),
        ([(HIGH, 0.9), (LOW, 0.3), (LOW, 0.4)], 1),
        ([(LOW, None), (LOW, 0.7), (LOW, 0.8)], 2),
    ],
    ids=["the latest of equals", "recall", "matching", "the latest of the same", "recall before matching", "measured"],
)
def test_the_epoch_that_is_kept(epochs: list[tuple[Recalls, float | None]], kept: int) -> None:
    told = history(*epochs)
    assert told.kept.number == kept
    assert history_from_json(json.loads(json.dumps(told.as_json()))) == told


def one_by_one(model: ClipDual, data: Dataset) -> float:
    """The loss, pair after pair."""
    owned = [rows[0] for rows in data.captions.captions_of()]
    with torch.no_grad():
        photos = [model.look(as_input(data.views[0][row : row + 1]), learn=False) for row in range(PAIRS)]
        words = [data.pieces.batch(torch.tensor([row])) for row in owned]
        texts = [model.read(*each, learn=False) for each in words]
        cosines = torch.tensor([[float((photo[0] * text[0]).sum()) for text in texts] for photo in photos])
        cosines[range(PAIRS), range(PAIRS)] = -2.0

        def loss(photo: int, text: int) -> float:
            tokens, mask = model.match_tokens(photos[photo][1]), words[text][1].bool()
            assert model.matcher is not None
            logit = model.matcher(tokens, texts[text][1], mask)
            return float(torch.nn.functional.softplus(-logit if photo == text else logit))

        pairs = [(row, row) for row in range(PAIRS)]
        pairs += [(int(cosines[:, row].argmax()), row) for row in range(PAIRS)]
        pairs += [(row, int(cosines[row].argmax())) for row in range(PAIRS)]
        return sum(loss(*pair) for pair in pairs) / len(pairs)


@pytest.mark.parametrize("batch", [64, 4])
def test_the_held_out_loss_is_that_of_each_pair_by_itself(
    model: ClipDual, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(head_check, "_BATCH", batch)
    monkeypatch.setattr(head_check, "autocast", lambda _: torch.autocast("cpu", enabled=False))
    data = noise_pairs(PAIRS)
    assert held_out_loss(model, data) == pytest.approx(one_by_one(model, data), abs=1e-5)
    monkeypatch.setattr(head_check, "MOST_PHOTOS", 5)
    assert held_out_loss(model, data) != pytest.approx(one_by_one(model, data), abs=1e-5)


def test_a_run_with_locked_towers_keeps_the_head_that_matches_best(model: ClipDual, tmp_path: Path) -> None:
    plan = Plan("tiny", "d", "s", "itc,itm", epochs=EPOCHS, batch=5, seed=0, rate=1e-2, views=1, unlock="none")
    run = RunDirectory(tmp_path / "run")
    run.begin(plan)
    lines: list[str] = []
    follow = Follow(run, plan, noise_pairs(PAIRS), interrupt=Interrupt(), tell=Tell(lines.append))
    batches = BatchConfig(images=5, captions_per_image=2, word_drop=0.0, teacher_share=0.0)
    config = FitConfig(
        epochs=EPOCHS,
        stop_after=EPOCHS,
        head_rate=1e-2,
        image_rate=0.0,
        text_rate=0.0,
        validate_every=1,
        batches=batches,
    )
    learned = fit(model, (noise_pairs(PAIRS), noise_pairs(PAIRS)), config, watcher=follow)
    epochs = follow.history.epochs
    assert len({each.recalls for each in epochs}) == 1
    matching = [each.matching for each in epochs[1:] if each.matching is not None]
    assert len(matching) == EPOCHS and matching == sorted(matching, reverse=True)  # noise is learned by heart
    assert follow.history.kept.number == EPOCHS and run.best(EPOCHS).exists() and not run.best(1).exists()
    assert matching[-1] == pytest.approx(held_out_loss(learned, noise_pairs(PAIRS)))
    assert lines[-1].endswith(f", matching loss {matching[-1]:.3f}")
