from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from fake_hub import COMMIT, FakeHub
from hub_model import DIRECTORY, NAME, REPOSITORY, WEIGHTS, hub_config, left_behind, tiny_files

from mmsearch.model_manifest import load_model_manifest
from mmsearch.model_plan import plan_pull
from mmsearch.model_pull import pull
from mmsearch.model_store import find
from mmsearch.progress import Progress


def test_a_pulled_model_is_the_hubs_files_and_a_manifest(hub: FakeHub, models_command: Any, store: Path) -> None:
    outcome = models_command("pull", NAME)
    assert outcome.code == 0, outcome.err
    directory, files = store / DIRECTORY, tiny_files()
    assert (directory / WEIGHTS).read_bytes() == files[WEIGHTS]
    manifest = json.loads((directory / "manifest.json").read_text())
    assert manifest["files"][WEIGHTS]["sha256"] == hashlib.sha256(files[WEIGHTS]).hexdigest()
    marker = json.loads((directory / "mmsearch-model.json").read_text())
    assert (marker["source"], marker["revision"], marker["license"]) == (NAME, COMMIT, "mit")
    assert left_behind(store) == []
    assert str(directory) in outcome.out
    assert "mit" in outcome.err


def test_a_pulled_model_is_opened_by_every_name_it_has(hub: FakeHub, models_command: Any, store: Path) -> None:
    models_command("pull", NAME)
    by_name, by_directory = load_model_manifest(NAME), load_model_manifest(DIRECTORY)
    assert by_name.directory == by_directory.directory == store / DIRECTORY
    assert (by_name.runtime, by_name.dim, by_name.max_tokens) == ("open_clip", 16, 8)


@pytest.mark.case("S25")
@pytest.mark.promise("R10")
def test_only_what_is_needed_is_fetched_and_never_a_pickle(hub: FakeHub, models_command: Any) -> None:
    models_command("pull", NAME)
    fetched = {path.rpartition("/")[2] for _, path, _ in hub.requests if "/resolve/" in path}
    assert fetched == {"open_clip_config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json"}


def test_everything_comes_from_the_one_commit_that_was_looked_up(hub: FakeHub, models_command: Any) -> None:
    models_command("pull", NAME)
    assert all(f"/resolve/{COMMIT}/" in path for _, path, _ in hub.requests if "/resolve/" in path)


def test_a_model_that_is_here_is_not_asked_for_again(hub: FakeHub, models_command: Any) -> None:
    models_command("pull", NAME)
    hub.requests.clear()
    outcome = models_command("pull", NAME)
    assert (outcome.code, hub.requests) == (0, [])
    assert "installed already" in outcome.err


def test_the_older_name_of_the_weights_is_known(hub: FakeHub, models_command: Any, store: Path) -> None:
    files = tiny_files()
    files["open_clip_pytorch_model.safetensors"] = files.pop(WEIGHTS)
    hub.add(REPOSITORY, files)
    assert models_command("pull", NAME).code == 0
    assert (store / DIRECTORY / WEIGHTS).is_file()


def test_a_tokenizer_in_another_repository_is_fetched_too(hub: FakeHub, models_command: Any, store: Path) -> None:
    files = tiny_files()
    config = json.dumps(hub_config(hf_tokenizer_name="someone/words")).encode()
    hub.add("someone/words", {name: files.pop(name) for name in ("tokenizer.json", "tokenizer_config.json")})
    hub.add(REPOSITORY, {**files, "open_clip_config.json": config})
    assert models_command("pull", NAME).code == 0
    assert (store / DIRECTORY / "tokenizer.json").is_file()


def test_progress_counts_up_to_the_whole(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmsearch.model_pull.MEGABYTE", 1000)
    seen: list[Progress] = []
    plan = plan_pull(NAME)
    pull(plan, progress=seen.append)
    done = [event.done for event in seen]
    assert done == sorted(done) and {event.phase for event in seen} == {"download"}
    assert seen[-1].done == plan.bytes // 1000 <= (seen[-1].total or 0)


@pytest.mark.parametrize("license", ["apple-amlr", "cc-by-nc-4.0", "other"])
def test_a_licence_that_may_forbid_some_use_has_to_be_agreed_to(
    license: str, hub: FakeHub, models_command: Any, store: Path
) -> None:
    hub.add(REPOSITORY, tiny_files(), license=license)
    outcome = models_command("pull", NAME)
    assert outcome.code == 2
    assert license in outcome.error and "--yes" in outcome.error
    assert not any("/resolve/" in path for _, path, _ in hub.requests)
    assert models_command("pull", NAME, "--yes").code == 0
    assert json.loads((store / DIRECTORY / "mmsearch-model.json").read_text())["license"] == license


def test_a_known_non_commercial_model_is_not_pulled_unasked(hub: FakeHub, models_command: Any) -> None:
    hub.add("timm/MobileCLIP2-S0-OpenCLIP", tiny_files(), license="apple-amlr")
    outcome = models_command("pull", "MobileCLIP2-S0/dfndr2b")
    assert outcome.code == 2
    assert "non-commercial" in outcome.error


def test_a_licence_that_has_changed_since_is_asked_about(hub: FakeHub) -> None:
    hub.add("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", tiny_files(), license="cc-by-nc-4.0")
    plan = plan_pull("small")
    assert plan.ask
    assert "cc-by-nc-4.0" in plan.license


def test_short_name_tag_and_repository_are_one_model(hub: FakeHub, models_command: Any) -> None:
    hub.add("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", tiny_files())
    assert models_command("pull", "small").code == 0
    names = ("small", "ViT-B-32/laion2b_s34b_b79k", "hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K")
    assert len({find(name) for name in names}) == 1
    manifest = load_model_manifest("small")
    assert manifest.quality["coco"]["text_to_image"]["recall@1"] == pytest.approx(0.393)
    assert manifest.license == "MIT"
