from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_hub import FakeHub
from hub_model import DIRECTORY, NAME, REPOSITORY, WEIGHTS, hub_config, left_behind, tiny_files

from mmsearch.errors import MissingExtra
from mmsearch.model_plan import plan_pull


def waiting(store: Path) -> list[Path]:
    """The downloads that wait to be gone on with, small ones left out."""
    return [path for path in (store / ".partial").rglob("*") if path.is_file() and path.stat().st_size > 10_000]


@pytest.mark.case("F6")
def test_a_download_that_was_cut_off_goes_on_where_it_was(hub: FakeHub, models_command: Any, store: Path) -> None:
    hub.cut[WEIGHTS] = 20_000
    outcome = models_command("pull", NAME)
    assert outcome.code == 0, outcome.err
    starts = [int((asked or "bytes=0-")[6:].partition("-")[0]) for asked in hub.fetched(WEIGHTS)]
    assert starts == sorted(set(starts)) and len(starts) > 3
    assert (store / DIRECTORY / WEIGHTS).read_bytes() == tiny_files()[WEIGHTS]


class BrokenConnection(Exception):
    """What the HTTP library raises."""


BrokenConnection.__module__ = "httpx"


def test_going_on_does_not_depend_on_the_library_trying_again(
    hub: FakeHub, models_command: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = tiny_files()

    def http_get(url: str, target: Any, *, resume_size: int, **others: Any) -> None:
        data = files[url.rpartition("/")[2]]
        target.write(data[resume_size : resume_size + 50_000])
        if resume_size + 50_000 < len(data):
            raise BrokenConnection

    monkeypatch.setattr("huggingface_hub.file_download.http_get", http_get)
    outcome = models_command("pull", NAME)
    assert outcome.code == 0, outcome.err
    assert (store / DIRECTORY / WEIGHTS).read_bytes() == files[WEIGHTS]


def test_a_connection_that_brings_nothing_is_given_up(
    hub: FakeHub, models_command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def http_get(url: str, target: Any, **others: Any) -> None:
        raise BrokenConnection

    monkeypatch.setattr("huggingface_hub.file_download.http_get", http_get)
    assert "cannot be reached" in models_command("pull", NAME).error


def test_what_came_before_the_hub_failed_waits_for_the_next_try(hub: FakeHub, models_command: Any, store: Path) -> None:
    hub.cut[WEIGHTS] = 50_000
    hub.failing_ranges = True
    outcome = models_command("pull", NAME)
    (partial,) = waiting(store)
    assert outcome.code == 1
    assert "50,000 bytes" in outcome.error and str(partial) in outcome.error
    assert not (store / DIRECTORY).exists()
    hub.cut.clear()
    hub.failing_ranges = False
    hub.requests.clear()
    assert models_command("pull", NAME).code == 0
    assert hub.fetched(WEIGHTS) == ["bytes=50000-"]
    assert hub.fetched("open_clip_config.json") == []
    assert (store / DIRECTORY / WEIGHTS).read_bytes() == tiny_files()[WEIGHTS]
    assert left_behind(store) == []


def test_a_partial_download_of_other_weights_is_not_gone_on_with(
    hub: FakeHub, models_command: Any, store: Path
) -> None:
    hub.cut[WEIGHTS], hub.failing_ranges = 50_000, True
    models_command("pull", NAME)
    hub.cut.clear()
    hub.failing_ranges = False
    hub.add(REPOSITORY, tiny_files(seed=1))
    assert models_command("pull", NAME).code == 0
    assert (store / DIRECTORY / WEIGHTS).read_bytes() == tiny_files(seed=1)[WEIGHTS]
    assert left_behind(store) == []


@pytest.mark.case("S28")
@pytest.mark.parametrize("name", [WEIGHTS, "open_clip_config.json", "tokenizer.json"])
def test_tampered_bytes_are_refused_and_do_not_stay(name: str, hub: FakeHub, models_command: Any, store: Path) -> None:
    hub.tampered.add(name)
    outcome = models_command("pull", NAME)
    assert outcome.code == 1
    assert name in outcome.error and "not what the hub states" in outcome.error
    assert not (store / DIRECTORY).exists()
    hub.tampered.clear()
    assert models_command("pull", NAME).code == 0


def test_a_file_shorter_than_stated_is_refused(hub: FakeHub, models_command: Any, store: Path) -> None:
    hub.shorter.add(WEIGHTS)
    size = len(tiny_files()[WEIGHTS])
    assert f"ended after {size - 10:,} of {size:,} bytes" in models_command("pull", NAME).error
    # Asked for the rest, the hub has none: what was fetched cannot be gone on with.
    assert "less of" in models_command("pull", NAME).error
    assert waiting(store) == []
    assert not (store / DIRECTORY).exists()


def test_a_wrong_name_is_told_the_nearest(hub: FakeHub, models_command: Any) -> None:
    assert "near it: ViT-B-32/laion2b_s34b_b79k" in models_command("pull", "ViT-B-32/laion2b_s34b_b97k").error
    assert "near it: base" in models_command("pull", "bas").error
    assert hub.requests == []


def test_a_repository_that_is_not_there_is_one_line(hub: FakeHub, models_command: Any) -> None:
    error = models_command("pull", "hf-hub:someone/else").error
    assert "the hub has no repository 'someone/else'" in error


def test_a_name_that_can_be_none_never_reaches_the_hub(hub: FakeHub, models_command: Any) -> None:
    for name in ("hf-hub:../../etc", "hf-hub:a/b/c", "../x", "hf-hub:", "a/b/c"):
        assert models_command("pull", name).code == 1
    assert hub.requests == []


def test_a_hub_that_is_down_is_said_to_be(hub: FakeHub, models_command: Any) -> None:
    hub.failing[REPOSITORY] = 503
    error = models_command("pull", NAME).error
    assert "cannot be reached" in error and "503" in error


def test_no_connection_is_said(hub: FakeHub, models_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setattr("mmsearch.model_hub._endpoint", lambda library: nobody)
    assert "cannot be reached" in models_command("pull", NAME).error


def test_a_repository_with_terms_names_the_way_in(hub: FakeHub, models_command: Any) -> None:
    hub.gated.add(REPOSITORY)
    assert "accept its terms" in models_command("pull", NAME).error


@pytest.mark.promise("R9")
def test_offline_is_honoured(hub: FakeHub, models_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in models_command("pull", NAME).error
    assert hub.requests == []


def test_without_the_extra_its_name_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(MissingExtra, match=r"mmsearch\[clip\]"):
        plan_pull(NAME)


@pytest.mark.case("S25")
@pytest.mark.promise("R10")
def test_a_repository_with_a_pickle_alone_is_refused(hub: FakeHub, models_command: Any, store: Path) -> None:
    files = tiny_files()
    del files[WEIGHTS]
    hub.add(REPOSITORY, files)
    error = models_command("pull", NAME).error
    assert "pickle" in error and "models import FILE --trust" in error
    assert not any("/resolve/" in path for _, path, _ in hub.requests)


@pytest.mark.parametrize("missing", ["open_clip_config.json", "open_clip_model.safetensors"])
def test_what_is_no_open_clip_model_is_said_to_be_none(missing: str, hub: FakeHub, models_command: Any) -> None:
    files = tiny_files()
    del files[missing], files["open_clip_pytorch_model.bin"]
    hub.add(REPOSITORY, files)
    assert "is no open_clip model" in models_command("pull", NAME).error


def test_a_configuration_that_cannot_be_run_stops_before_the_weights(
    hub: FakeHub, models_command: Any, store: Path
) -> None:
    config = json.dumps(hub_config(hf_model_name="roberta-base")).encode()
    hub.add(REPOSITORY, {**tiny_files(), "open_clip_config.json": config})
    assert "roberta-base" in models_command("pull", NAME).error
    assert hub.fetched(WEIGHTS) == []
    assert not (store / DIRECTORY).exists()


def test_a_configuration_that_makes_no_manifest_installs_nothing(
    hub: FakeHub, models_command: Any, store: Path
) -> None:
    config = hub_config()
    config["model_cfg"]["vision_cfg"]["image_size"] = 5000
    hub.add(REPOSITORY, {**tiny_files(), "open_clip_config.json": json.dumps(config).encode()})
    assert "4096" in models_command("pull", NAME).error
    assert not (store / DIRECTORY).exists()


def test_what_clips_own_tokenizer_needs_is_missed_before_the_weights(hub: FakeHub, models_command: Any) -> None:
    config = json.dumps(hub_config(hf_tokenizer_name="")).encode()
    hub.add(REPOSITORY, {**tiny_files(), "open_clip_config.json": config})
    assert "mmsearch[clip]" in models_command("pull", NAME).error
    assert hub.fetched(WEIGHTS) == []


def test_too_small_a_disk_is_said_before_anything_is_fetched(
    hub: FakeHub, models_command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=5_000_000))
    error = models_command("pull", NAME).error
    assert "5 MB are free" in error and "make room" in error
    assert not any("/resolve/" in path for _, path, _ in hub.requests)


def test_a_disk_that_fills_up_is_one_line(
    hub: FakeHub, models_command: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(counted: Any, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mmsearch.model_hub._Counted.write", full)
    assert "the disk is full" in models_command("pull", NAME).error
    assert not (store / DIRECTORY).exists()


@pytest.mark.case("F6")
def test_an_interrupted_pull_says_that_it_can_go_on(
    hub: FakeHub, models_command: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = tiny_files()

    def http_get(url: str, target: Any, *, resume_size: int, **others: Any) -> None:
        name = url.rpartition("/")[2]
        target.write(files[name][:50_000])
        if name == WEIGHTS:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.file_download.http_get", http_get)
        outcome = models_command("pull", NAME)
    kept = sum(path.stat().st_size for path in (store / ".partial").rglob("*") if path.is_file())
    assert outcome.code == 130
    assert kept > 50_000
    assert f"{kept:,} bytes of {NAME} are kept: mmsearch models pull {NAME} goes on from there" in outcome.err
    assert f"mmsearch models remove {NAME} drops them" in outcome.err
    assert not (store / DIRECTORY).exists()
    assert not list(store.glob(".new-*"))
    assert models_command("pull", NAME).code == 0
    assert hub.fetched(WEIGHTS) == ["bytes=50000-"]


def test_a_pull_that_is_interrupted_at_once_promises_nothing(
    hub: FakeHub, models_command: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mmsearch.model_hub._Counted.write", interrupted)
    outcome = models_command("pull", NAME)
    assert outcome.code == 130
    assert "nothing of" in outcome.err and "kept" not in outcome.err
    assert left_behind(store) == []
