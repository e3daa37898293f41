"""A run that is refused says so before it looks at any photo, and leaves nothing behind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("safetensors")
pytest.importorskip("matplotlib")

from mmsearch.durable import LOCK_NAME, WriterLock  # noqa: E402
from mmsearch.errors import CollectionBusy, DatasetError, MMSearchError, UsageError  # noqa: E402
from mmsearch.training import train_run  # noqa: E402
from mmsearch.training.follow import Tell  # noqa: E402
from mmsearch.training.plan import Plan, TrainOptions  # noqa: E402
from mmsearch.training.run_directory import RunDirectory  # noqa: E402
from mmsearch.training.train_run import train  # noqa: E402

PLAN = Plan("tiny", "d", "s", "itc", epochs=1, batch=4, seed=0, rate=1e-3, views=1)


def refused(options: TrainOptions, kind: type[MMSearchError]) -> None:
    with pytest.raises(kind):
        train(options, Tell(lambda line: None))


@pytest.fixture
def asked(starting_model: Path, tmp_path: Path) -> TrainOptions:
    return TrainOptions(source=str(tmp_path / "no.csv"), out=tmp_path / "deep" / "run", start=str(starting_model))


def test_a_refused_run_leaves_no_directory(asked: TrainOptions, tmp_path: Path) -> None:
    refused(asked, DatasetError)
    refused(replace(asked, checkpointing=True), UsageError)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_was_there_stays_as_it_was(asked: TrainOptions) -> None:
    asked.out.mkdir(parents=True)
    refused(asked, DatasetError)
    assert list(asked.out.iterdir()) == []
    (asked.out / LOCK_NAME).write_bytes(b"{}")
    refused(asked, DatasetError)
    assert [path.name for path in asked.out.iterdir()] == [LOCK_NAME]


def test_a_run_that_has_begun_stays(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    with run.held():
        run.begin(PLAN)
    assert run.earlier(resume=True) == PLAN and (run.path / LOCK_NAME).exists()


def test_a_lock_on_a_file_that_a_refused_run_has_removed_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = WriterLock.__enter__

    def late(self: WriterLock) -> WriterLock:
        found = taken(self)
        (tmp_path / "run" / LOCK_NAME).unlink()
        return found

    monkeypatch.setattr(WriterLock, "__enter__", late)
    run = RunDirectory(tmp_path / "run")
    with pytest.raises(CollectionBusy, match="another process is training there"), run.held():
        pytest.fail("two could write")
    monkeypatch.undo()
    with run.held():
        assert json.loads((run.path / LOCK_NAME).read_bytes())["pid"]


@pytest.mark.parametrize(
    "changed", [{"unlock": "none", "objectives": "itc"}, {"unlock": "none", "objectives": "itm", "tower_rate": 1e-5}]
)
def test_options_that_exclude_each_other_are_refused_before_any_photo_is_read(
    asked: TrainOptions, monkeypatch: pytest.MonkeyPatch, changed: dict[str, object]
) -> None:
    def read(*given: object, **more: object) -> None:
        pytest.fail("photos were read")

    monkeypatch.setattr(train_run, "load_train_data", read)
    refused(replace(asked, **changed), UsageError)  # type: ignore[arg-type]
