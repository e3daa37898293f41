"""A run that is stopped or killed and gone on with ends in the same weights, bit by bit; the best epoch is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("safetensors")
pytest.importorskip("matplotlib")

from tiny_dual_encoder import WORDS, tiny_dual_encoder  # noqa: E402

from mmsearch.errors import MMSearchError, ModelError  # noqa: E402
from mmsearch.indexer.interrupt import Interrupt  # noqa: E402
from mmsearch.progress import Progress  # noqa: E402
from mmsearch.training import follow as follow_module  # noqa: E402
from mmsearch.training.batches import Dataset  # noqa: E402
from mmsearch.training.captions import CaptionedImages  # noqa: E402
from mmsearch.training.checkpoint import load_checkpoint, load_weights  # noqa: E402
from mmsearch.training.dual_encoder import DualEncoder  # noqa: E402
from mmsearch.training.fitting import fit  # noqa: E402
from mmsearch.training.follow import Follow, Tell, TrainingStopped  # noqa: E402
from mmsearch.training.plan import Plan, fit_config  # noqa: E402
from mmsearch.training.run_directory import RunDirectory  # noqa: E402
from mmsearch.training.word_pieces import WordPieces  # noqa: E402

PHOTOS, EPOCHS, BATCH = 12, 3, 4
STEPS = EPOCHS * (PHOTOS // BATCH)
PLAN = Plan(
    origin="tiny",
    data="d",
    start="s",
    objectives="itc,itm,mlm,mim",
    epochs=EPOCHS,
    batch=BATCH,
    seed=3,
    rate=3e-3,
    views=2,
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in one order: what is compared bit by bit must not depend on how threads share the work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data() -> Dataset:
    rng = np.random.default_rng(0)
    views = [rng.normal(0, 6, (PHOTOS, 4, 4, 32)).astype(np.float16) for _ in range(2)]
    ids = torch.from_numpy(rng.integers(200, WORDS, (2 * PHOTOS, 6)))
    pieces = WordPieces(ids, torch.full((2 * PHOTOS,), 6))
    owners = np.repeat(np.arange(PHOTOS, dtype=np.int64), 2)
    texts = tuple(f"caption {number}" for number in range(2 * PHOTOS))
    captions = CaptionedImages(tuple(Path(f"{number}.jpg") for number in range(PHOTOS)), texts, owners)
    sentences = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(2 * PHOTOS, 8))).float(), dim=-1)
    return Dataset(views, pieces, captions, sentences)


class Crash(Exception):
    """Stands for a kill: nothing of ours catches it."""


@dataclass
class Session:
    """One process of a run, and when it ends: `disturb` is called after each step with its number."""

    directory: Path
    disturb: Callable[[int, Interrupt], None] = field(default=lambda step, interrupt: None)
    plan: Plan = PLAN

    def learn(self, data: Dataset) -> tuple[DualEncoder, Follow]:
        interrupt = Interrupt()
        run = RunDirectory(self.directory)
        if not self.directory.exists():
            run.begin(self.plan)

        def progress(event: Progress) -> None:
            self.disturb(event.done, interrupt)

        follow = Follow(run, self.plan, data, interrupt=interrupt, tell=Tell(lambda line: None, progress))
        model = tiny_dual_encoder()
        average = fit(model, (data, data), fit_config(self.plan, captions=2, fresh=True), watcher=follow)
        return average, follow


@pytest.fixture(scope="module")
def undisturbed(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[DualEncoder, Follow]:
    torch.set_num_threads(1)
    return Session(tmp_path_factory.mktemp("whole") / "run").learn(data)


def assert_same(one: tuple[DualEncoder, Follow], other: tuple[DualEncoder, Follow]) -> None:
    for name, value in one[0].state_dict().items():
        assert torch.equal(value, other[0].state_dict()[name]), name
    assert one[1].history == other[1].history


@pytest.mark.parametrize("step", [1, 2, 3, 4, STEPS])
def test_a_run_stopped_after_any_step_goes_on_to_the_same_weights(
    data: Dataset, tmp_path: Path, undisturbed: tuple[DualEncoder, Follow], step: int
) -> None:
    def stop(done: int, interrupt: Interrupt) -> None:
        if done == step:
            interrupt.request()

    with pytest.raises(TrainingStopped, match=f"stopped after step {step} of {STEPS}.*--resume goes on") as stopped:
        Session(tmp_path / "run", stop).learn(data)
    assert stopped.value.exit_code == 130
    assert_same(undisturbed, Session(tmp_path / "run").learn(data))


def test_a_killed_run_goes_on_from_its_last_checkpoint_to_the_same_weights(
    data: Dataset, tmp_path: Path, undisturbed: tuple[DualEncoder, Follow], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow_module, "SAVE_EVERY_S", 0.0)
    for kill_at in (2, 5, 8):

        def kill(done: int, interrupt: Interrupt, kill_at: int = kill_at) -> None:
            if done == kill_at:
                raise Crash

        with pytest.raises(Crash):
            Session(tmp_path / "run", kill).learn(data)
    assert_same(undisturbed, Session(tmp_path / "run").learn(data))


def test_another_seed_ends_elsewhere(data: Dataset, tmp_path: Path, undisturbed: tuple[DualEncoder, Follow]) -> None:
    average, _ = Session(tmp_path / "run", plan=replace(PLAN, seed=4)).learn(data)
    assert not torch.equal(average.image_head.project.weight, undisturbed[0].image_head.project.weight)


def test_the_best_epoch_is_kept_and_only_it(data: Dataset, undisturbed: tuple[DualEncoder, Follow]) -> None:
    average, follow = undisturbed
    means = [epoch.recalls.mean for epoch in follow.history.epochs]
    assert len(means) == EPOCHS + 1
    kept = follow.history.kept.number
    assert means[kept] == max(means[1:])
    assert sorted(path.name for path in follow.run.training.glob("best-*")) == [follow.run.best(kept).name]
    model = tiny_dual_encoder()
    load_weights(follow.run.best(kept), model)
    if kept == EPOCHS:
        assert torch.equal(model.image_head.project.weight, average.image_head.project.weight)


def test_each_epoch_leaves_a_picture_and_losses_by_name(undisturbed: tuple[DualEncoder, Follow]) -> None:
    follow = undisturbed[1]
    assert follow.run.curves.read_bytes().startswith(b"\x89PNG")
    assert {"itc", "itm"} <= set(follow.history.epochs[1].losses)
    assert not follow.history.epochs[0].losses


def test_a_damaged_checkpoint_is_refused_with_what_to_do(
    data: Dataset, tmp_path: Path, undisturbed: tuple[DualEncoder, Follow]
) -> None:
    whole = undisturbed[1].run.checkpoint.read_bytes()
    path = tmp_path / "checkpoint.safetensors"
    for damaged in (b"", whole[: len(whole) // 2], whole[:8] + b"x" * 40 + whole[48:]):
        path.write_bytes(damaged)
        with pytest.raises(ModelError, match=r"cannot be read.*begin again without --resume"):
            load_checkpoint(path)


def test_a_checkpoint_of_another_shape_is_refused(
    data: Dataset, tmp_path: Path, undisturbed: tuple[DualEncoder, Follow]
) -> None:
    run = RunDirectory(tmp_path / "run")
    run.begin(PLAN)
    run.checkpoint.write_bytes(undisturbed[1].run.checkpoint.read_bytes())
    run.checkpoint.write_bytes(run.checkpoint.read_bytes().replace(b"model/log_scale", b"model/log_scalf"))
    with pytest.raises(ModelError, match="does not fit the model"):
        Session(tmp_path / "run").learn(data)


def test_a_full_disk_says_what_to_do(data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mmsearch.training.checkpoint.write_atomic", full)
    with pytest.raises(MMSearchError, match=r"No space left on device.*make room, then go on with --resume"):
        Session(tmp_path / "run").learn(data)
