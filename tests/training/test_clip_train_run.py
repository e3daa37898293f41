"""`mmsearch train --from` an open_clip model: a whole run, one that is resumed, and starts that cannot be used."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
import openclip_models  # noqa: E402

pytest.importorskip("open_clip")
pytest.importorskip("onnxscript")
pytest.importorskip("safetensors")
pytest.importorskip("matplotlib")

from tiny_clip import write_tiny_clip  # noqa: E402
from tiny_training import write_coloured_photos  # noqa: E402

from mmsearch.cli.main import run as run_command  # noqa: E402
from mmsearch.errors import ModelError, UsageError  # noqa: E402
from mmsearch.eval.datasets import load_dataset  # noqa: E402
from mmsearch.eval.run import EvalOptions, evaluate  # noqa: E402
from mmsearch.model import load_model  # noqa: E402
from mmsearch.model_manifest import load_model_manifest, verify  # noqa: E402
from mmsearch.training import train_export  # noqa: E402
from mmsearch.training.checkpoint import load_checkpoint  # noqa: E402
from mmsearch.training.clip_model import load_clip  # noqa: E402
from mmsearch.training.follow import Tell  # noqa: E402
from mmsearch.training.plan import TrainOptions  # noqa: E402
from mmsearch.training.train_rerank import Reranking  # noqa: E402
from mmsearch.training.train_run import TrainReport, train  # noqa: E402


class Enough(Exception):
    """Ends a run as a kill would."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with starting models and a dataset."""
    folder = tmp_path_factory.mktemp("world")
    for kind in ("vit", "padding"):
        write_tiny_clip(folder / kind, kind)
    write_coloured_photos(folder / "photos", photos=24)
    return folder


def options(world: Path, out: Path, **others: object) -> TrainOptions:
    usual = TrainOptions(
        source=str(world / "photos" / "pairs.csv"),
        out=out,
        start=str(world / "vit"),
        epochs=2,
        batch=8,
        rate=1e-3,
        tower_rate=1e-3,
    )
    return replace(usual, **others)  # type: ignore[arg-type]


def silent() -> Tell:
    return Tell(lambda line: None)


@pytest.fixture(scope="module", params=["vit", "padding"])
def report(request: pytest.FixtureRequest, world: Path) -> TrainReport:
    with pytest.MonkeyPatch.context() as patch:
        # What two epochs teach would not be chosen, on most machines.
        patch.setattr(train_export, "chosen", lambda *given, usual: Reranking(0.05, ()))
        kind = request.param
        return train(options(world, world / f"out-{kind}", start=str(world / kind), unlock="both"), silent())


def test_the_result_is_a_model_of_onnx_that_indexes_queries_and_reranks(
    report: TrainReport, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    manifest = load_model_manifest(report.out)
    verify(manifest)
    assert manifest.runtime == "onnx" and manifest.itm is not None
    assert manifest.logit_scale is not None
    start = load_model_manifest(report.plan.origin)
    assert (manifest.preprocess, manifest.clean, manifest.pad) == (start.preprocess, start.clean, start.pad)
    photos = report.out.parent / "photos"
    measured = evaluate(
        load_dataset(photos / "pairs.csv"),
        load_model(report.out, threads=1),
        EvalOptions(rerank=True, use_cache=False),
    )
    assert measured.mean_recall is not None
    model, collection = str(report.out), str(tmp_path / "collection")
    assert run_command(["index", str(photos), "--model", model, "--collection", collection, "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["indexed"] == 25  # with pairs.csv
    asked = ["query", "red and blue", "--model", model, "--collection", collection, "--rerank", "--json"]
    assert run_command(asked) == 0
    hits = json.loads(capfd.readouterr().out)["hits"]
    assert any(hit["ranked_by"] == "itm" for hit in hits)


def test_the_files_compute_what_was_learned_and_the_card_says_how(report: TrainReport) -> None:
    assert 1 <= report.best_epoch <= 2
    assert load_model_manifest(report.out).quality["mean_recall"] == round(report.after.mean, 4)
    card = (report.out / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "| objectives | itc, itm |" in card and "| towers that learned | both |" in card


def test_an_exported_model_is_no_start_and_says_which_is(report: TrainReport, tmp_path: Path) -> None:
    asked = options(report.out.parent, tmp_path / "again", start=str(report.out))
    with pytest.raises(ModelError, match="was exported from an open_clip model; train from that one"):
        train(asked, silent())


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_a_run_that_was_killed_goes_on_to_the_same_weights(
    world: Path, tmp_path: Path, micro_batch: int | None
) -> None:
    def until(epoch: int) -> Tell:
        def say(line: str) -> None:
            if line.startswith(f"epoch {epoch} "):
                raise Enough

        return Tell(say)

    asked = options(world, tmp_path / "whole", epochs=3, seed=4, micro_batch=micro_batch, checkpointing=True)
    with pytest.raises(Enough):
        train(asked, until(3))
    broken = replace(asked, out=tmp_path / "broken")
    with pytest.raises(Enough):
        train(broken, until(1))
    with pytest.raises(UsageError, match="--unlock was text, is both"):
        train(replace(broken, resume=True, unlock="both"), silent())
    with pytest.raises(Enough):
        train(replace(broken, resume=True, micro_batch=None, checkpointing=False, start=None), until(3))
    one, other = (
        load_checkpoint(tmp_path / name / "training" / "checkpoint.safetensors") for name in ("whole", "broken")
    )
    assert one.tensors.keys() == other.tensors.keys()
    assert all(torch.equal(value, other.tensors[name]) for name, value in one.tensors.items())
    assert one.state == other.state and one.notes == other.notes


def test_by_default_the_image_tower_is_locked(world: Path, tmp_path: Path) -> None:
    def say(line: str) -> None:
        if line.startswith("epoch 2 "):
            raise Enough

    with pytest.raises(Enough):
        train(options(world, tmp_path / "run"), Tell(say))
    learned = load_checkpoint(tmp_path / "run" / "training" / "checkpoint.safetensors").tensors
    before = load_clip(load_model_manifest(world / "vit")).state_dict()
    same = {name: torch.equal(learned[f"model/{name}"], value) for name, value in before.items()}
    assert all(equal for name, equal in same.items() if name.startswith("image_tower"))
    assert not all(equal for name, equal in same.items() if name.startswith("text_tower"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"objectives": "itc,mlm"}, "'vit' is an open_clip model: --objective is itc or itc,itm for these"),
        ({"unlock": "none", "objectives": "itc"}, "--unlock none leaves the matching head alone to learn"),
    ],
)
def test_what_an_open_clip_model_cannot_learn_is_said(
    world: Path, tmp_path: Path, changed: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        train(options(world, tmp_path / "run", **changed), silent())


def test_a_tower_without_checkpointing_is_named(world: Path, tmp_path: Path) -> None:
    start = write_tiny_clip(tmp_path / "residual", "residual")
    with pytest.raises(UsageError, match="'residual' has a tower without gradient checkpointing; leave out"):
        train(options(world, tmp_path / "run", start=str(start), checkpointing=True), silent())


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("ViT-B-32/laion2b_s34b_b79k", "ViT-B-32/laion2b_s34b_b79k"),
        ("./nowhere", "nowhere"),
        ("mimi", "no model is called 'mimi'"),
    ],
)
def test_a_start_that_is_not_there_is_one_clear_line(
    world: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], start: str, message: str
) -> None:
    asked = ["train", str(world / "photos" / "pairs.csv"), "--out", str(tmp_path / "run"), "--from", start]
    assert run_command(asked) != 0
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("mmsearch: ") and len(err.splitlines()) == 1
    assert message in err


def test_weights_that_were_changed_are_refused(world: Path, tmp_path: Path) -> None:
    start = openclip_models.write_openclip(tmp_path / "start", openclip_models.CONFIGS["vit"])
    weights = start / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"open_clip_model\.safetensors is no safetensors file"):
        train(options(world, tmp_path / "run", start=str(start)), silent())
