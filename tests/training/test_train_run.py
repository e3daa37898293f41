"""A whole run on coloured pictures: what it writes is a model that opens at once, and says what it is from."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("safetensors")
pytest.importorskip("matplotlib")

from tiny_dual_encoder import MAX_TOKENS, SIZE  # noqa: E402
from tiny_training import TorchSession, worn_model, write_coloured_photos  # noqa: E402

from mmsearch.errors import CollectionBusy, DatasetError, ModelError, UsageError  # noqa: E402
from mmsearch.eval.datasets import load_dataset  # noqa: E402
from mmsearch.eval.run import EvalOptions, evaluate  # noqa: E402
from mmsearch.model import load_model  # noqa: E402
from mmsearch.model_manifest import ModelManifest, load_model_manifest, verify  # noqa: E402
from mmsearch.progress import Progress  # noqa: E402
from mmsearch.training import eyes, train_export  # noqa: E402
from mmsearch.training.captions import CaptionedImages  # noqa: E402
from mmsearch.training.dual_encoder import DualEncoder  # noqa: E402
from mmsearch.training.follow import Tell  # noqa: E402
from mmsearch.training.package import ModelFacts  # noqa: E402
from mmsearch.training.plan import TrainOptions  # noqa: E402
from mmsearch.training.stored_weights import load_stored  # noqa: E402
from mmsearch.training.train_data import load_train_data  # noqa: E402
from mmsearch.training.train_export import Words, publish  # noqa: E402
from mmsearch.training.train_rerank import Reranking  # noqa: E402
from mmsearch.training.train_run import TrainReport, train  # noqa: E402
from mmsearch.training.validation import Recalls  # noqa: E402


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, starting_model: Path) -> Path:
    """A folder with a starting model and a dataset."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "start").symlink_to(starting_model)
    write_coloured_photos(folder / "photos")
    return folder


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks at the early maps here: they need not come from ONNX Runtime."""
    monkeypatch.setattr(eyes, "early_session", TorchSession)


def options(world: Path, out: Path, **others: object) -> TrainOptions:
    usual = TrainOptions(
        source=str(world / "photos" / "pairs.csv"), out=out, start=str(world / "start"), epochs=4, rate=1e-2
    )
    return replace(usual, **others)  # type: ignore[arg-type]


def silent() -> Tell:
    return Tell(lambda line: None)


@pytest.fixture(scope="module")
def run(world: Path) -> tuple[TrainReport, list[str], list[Progress]]:
    lines: list[str] = []
    events: list[Progress] = []
    report = train(options(world, world / "out"), Tell(lines.append, events.append))
    return report, lines, events


def test_the_directory_is_a_model_that_opens_at_once(run: tuple[TrainReport, list[str], list[Progress]]) -> None:
    report = run[0]
    manifest = load_model_manifest(report.out)
    verify(manifest)
    assert manifest.name == "out"
    model = load_model(report.out, threads=1)
    dataset = load_dataset(report.out.parent / "photos" / "pairs.csv")
    measured = evaluate(dataset, model, EvalOptions(use_cache=False))
    assert measured.mean_recall is not None
    assert model.encode_texts(["red"]).shape == (1, 16)


def test_it_learns(run: tuple[TrainReport, list[str], list[Progress]]) -> None:
    report = run[0]
    losses = [float(line.split("loss ")[1].split(",")[0]) for line in run[1] if line.startswith("epoch ")]
    assert len(losses) == 4
    assert losses[-1] < losses[0]
    assert 1 <= report.best_epoch <= 4


def test_recalls_before_and_after_are_of_the_start_and_of_the_files(
    run: tuple[TrainReport, list[str], list[Progress]], world: Path
) -> None:
    report = run[0]
    quality = load_model_manifest(report.out).quality
    assert quality["mean_recall"] == round(report.after.mean, 4)
    assert quality["images"] == len(report.data.validation.paths) == 4
    assert quality["dataset"] == "pairs.csv, held out"
    assert 0 <= report.before.mean <= 1


def test_the_card_says_what_it_is_from_and_under_which_terms(
    run: tuple[TrainReport, list[str], list[Progress]],
) -> None:
    report = run[0]
    card = (report.out / "MODEL_CARD.md").read_text(encoding="utf-8")
    for words in (
        f"tiny 0, fingerprint {report.plan.start}",
        "pairs.csv: 36 photos",
        "pairs.csv, held out: 4 photos",
        "| objectives | itc |",
        f"| epochs | 4, kept: the weights after epoch {report.best_epoch} |",
        "| seed | 0 |",
        "the terms of that data apply to these weights too",
        "| before training |",
        "| these files |",
    ):
        assert words in card, words
    assert "the terms of that data apply" in load_model_manifest(report.out).license
    assert "random numbers" in (report.out / "STARTING_MODEL_CARD.md").read_text(encoding="utf-8")


def test_what_is_left_is_the_model_its_curves_and_the_checkpoints(
    run: tuple[TrainReport, list[str], list[Progress]],
) -> None:
    report = run[0]
    assert {path.name for path in report.out.iterdir()} == {
        "MODEL_CARD.md",
        "STARTING_MODEL_CARD.md",
        "curves.png",
        "image.onnx",
        "lock",
        "manifest.json",
        "mmsearch-train.json",
        "text.onnx",
        "tokenizer.json",
        "training",
    }
    assert {path.suffix for path in (report.out / "training").iterdir()} == {".safetensors"}
    assert str(Path.home()) not in (report.out / "manifest.json").read_text(encoding="utf-8")


def test_progress_names_each_part_and_carries_loss_and_recall(
    run: tuple[TrainReport, list[str], list[Progress]],
) -> None:
    events = run[2]
    assert list(dict.fromkeys(event.phase for event in events)) == ["check", "prepare", "train", "export"]
    last = [event for event in events if event.phase == "train"][-1]
    assert last.done == last.total
    assert "loss" in last.note and "R@1" in last.note and "mean recall" in last.note


def test_the_written_model_can_be_trained_further(run: tuple[TrainReport, list[str], list[Progress]]) -> None:
    assert load_stored(run[0].out).config.fusion is None


def test_a_finished_run_is_not_resumed_and_other_directories_are_not_touched(
    run: tuple[TrainReport, list[str], list[Progress]], world: Path
) -> None:
    with pytest.raises(UsageError, match="holds a finished run"):
        train(options(world, world / "out", resume=True), silent())
    before = sorted((world / "photos").iterdir())
    with pytest.raises(UsageError, match="not a model that training made"):
        train(options(world, world / "photos"), silent())
    assert sorted((world / "photos").iterdir()) == before
    with pytest.raises(UsageError, match="holds no run to go on with"):
        train(options(world, world / "nowhere", resume=True), silent())
    assert not (world / "nowhere").exists()


def test_a_stopped_run_goes_on_with_the_same_plan_alone(world: Path, tmp_path: Path, quick: None) -> None:
    class Enough(Exception):
        """Ends a run as a kill would."""

    def after_an_epoch(line: str) -> None:
        if line.startswith("epoch 1"):
            raise Enough

    asked = options(world, tmp_path / "run", epochs=3, batch=18, seed=5)
    with pytest.raises(Enough):
        train(asked, Tell(after_an_epoch))
    assert not (tmp_path / "run" / "manifest.json").exists()
    with pytest.raises(UsageError, match="not finished: --resume goes on with it"):
        train(asked, silent())
    other = write_coloured_photos(tmp_path / "photos", photos=30)
    for changed, named in (
        ({"epochs": 4}, "--epochs was 3, is 4"),
        ({"batch": 9, "seed": 6}, "--batch was 18, is 9, --seed was 5, is 6"),
        ({"objectives": "itc,itm"}, "--objective was itc, is itc,itm"),
        ({"source": str(other)}, "the photos or captions of DATASET or --val changed"),
    ):
        with pytest.raises(UsageError, match=named):
            train(replace(asked, resume=True, **changed), silent())  # type: ignore[arg-type]
    unsaid = replace(asked, resume=True, epochs=None, batch=None, seed=None, rate=None, start=None)
    lines: list[str] = []

    def after_the_last(line: str) -> None:
        lines.append(line)
        if line.startswith("epoch 3 of 3"):
            raise Enough

    with pytest.raises(Enough):
        train(unsaid, Tell(after_the_last))
    assert "going on after step 2 of 6" in lines
    assert sum(line.startswith("epoch ") for line in lines) == 2


@pytest.fixture(scope="module")
def matching(world: Path, matching_model: Path) -> TrainReport:
    """A run that begins with a matching head and learns all four objectives."""
    asked = options(world, world / "matched", start=str(matching_model), objectives="mim,mlm,itm,itc", epochs=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eyes, "early_session", TorchSession)
        # What one epoch teaches would not be chosen, on most machines.
        everything = Reranking(0.03, ("text_to_image", "image_to_text"))
        patch.setattr(train_export, "chosen", lambda *given, usual: everything)
        return train(asked, silent())


def test_all_objectives_are_learned_and_the_model_reranks(matching: TrainReport) -> None:
    assert matching.plan.objectives == "itc,itm,mlm,mim"
    manifest = load_model_manifest(matching.out)
    assert manifest.itm is not None
    fusion = worn_model().config.fusion
    assert fusion is not None
    assert (manifest.itm.tokens, manifest.itm.token_dim) == (fusion.tokens, fusion.token_dim)
    assert {side: bank.bank for side, bank in manifest.hubness.items()} == {
        "text_to_image": "bank-texts.npy",
        "image_to_text": "bank-images.npy",
    }
    assert manifest.itm.weight == 0.03
    dataset = load_dataset(matching.out.parent / "photos" / "pairs.csv")
    measured = evaluate(dataset, load_model(matching.out, threads=1), EvalOptions(rerank=True, use_cache=False))
    assert measured.mean_recall is not None
    assert load_stored(matching.out).config.fusion is not None


def test_a_head_that_does_not_help_is_left_out_of_the_model(
    starting_model: Path, matching_model: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def as_exported_before(
        model: DualEncoder, start: ModelManifest, directory: Path, validation: CaptionedImages
    ) -> Recalls:
        source = starting_model if model.config.fusion is None else matching_model
        for path in (*source.glob("*.onnx"), source / "tokenizer.json"):
            shutil.copy(path, directory)
        return Recalls((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

    monkeypatch.setattr(train_export, "_write_files", as_exported_before)
    monkeypatch.setattr(train_export, "chosen", lambda *given, usual: Reranking(0.0, ()))
    (tmp_path / "training").mkdir()
    data = load_train_data(str(world / "photos" / "pairs.csv"), None)
    facts = ModelFacts("bare", "1", 16, SIZE, MAX_TOKENS, "any", "none", 0, 0, Recalls((0, 0, 0), (0, 0, 0)))
    start = load_model_manifest(matching_model)
    publish(worn_model(), start, out=tmp_path, data=data, describe=lambda measured: Words("a card", facts))
    manifest = load_model_manifest(tmp_path)
    assert manifest.itm is None and not manifest.hubness
    assert not [path for path in tmp_path.iterdir() if path.name == "itm.onnx" or path.suffix == ".npy"]
    assert load_stored(tmp_path).config.fusion is None


def test_two_runs_do_not_share_a_directory(world: Path, tmp_path: Path) -> None:
    def second(line: str) -> None:
        with pytest.raises(CollectionBusy, match="another process is training there"):
            train(options(world, tmp_path / "run"), silent())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(options(world, tmp_path / "run"), Tell(second))


def test_a_batch_larger_than_the_dataset_is_shrunk_and_said(world: Path, tmp_path: Path, quick: None) -> None:
    lines: list[str] = []

    def tell(line: str) -> None:
        lines.append(line)
        if line.startswith("before training"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(options(world, tmp_path / "run", batch=500), Tell(tell))
    assert any(line.startswith("--batch 500 is more than there are photos") for line in lines)
    assert json.loads((tmp_path / "run" / "mmsearch-train.json").read_bytes())["plan"]["batch"] == 36


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"epochs": 0}, "--epochs is 0"),
        ({"batch": 1}, "--batch is 1"),
        ({"seed": -1}, "--seed is -1"),
        ({"rate": 0.0}, "--lr is 0"),
        ({"rate": float("nan")}, "--lr is nan"),
        ({"remember": 1.0}, "--remember is 1"),
        ({"objectives": "itc,magic"}, "--objective has 'magic'"),
        ({"objectives": ""}, "--objective has ''"),
    ],
)
def test_values_that_no_run_can_have_are_refused_before_anything_is_read(
    changed: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        options(Path("/nowhere"), Path("/nowhere/out"), **changed)


def test_a_starting_model_that_is_not_ours_and_a_missing_dataset_are_named(
    world: Path, tmp_path: Path, tiny_model_dir: Path
) -> None:
    with pytest.raises(ModelError, match="training cannot start from model"):
        train(options(world, tmp_path / "a", start=str(tiny_model_dir)), silent())
    with pytest.raises(DatasetError, match="does not exist"):
        train(options(world, tmp_path / "b", source=str(tmp_path / "no.csv")), silent())
