from __future__ import annotations

import os
from base64 import b64decode
from pathlib import Path
from typing import Any

from fake_hub import COMMIT, FakeHub
from hub_model import DIRECTORY, NAME, REPOSITORY, WEIGHTS, tiny_files

from mmsearch.model_catalog import KNOWN
from mmsearch.model_manifest import load_model_manifest


def rows(outcome: Any) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in outcome.json["models"]}


def test_the_list_has_bundled_recommended_and_known_models(models_command: Any) -> None:
    outcome = models_command("list")
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert [line.split()[0] for line in lines[1:5]] == ["mini", "small", "base", "large"]
    assert all(any(each.name in line for line in lines) for each in KNOWN)
    (base,) = (line for line in lines if line.startswith("base"))
    assert all(part in base for part in ("1.5 GB", "COCO 68.9 / 52.1", "Apache-2.0"))
    assert "bundled" in lines[1]


def test_json_says_what_is_installed(hub: FakeHub, models_command: Any, store: Path) -> None:
    assert rows(models_command("list", "--json"))["ViT-B-32/laion2b_s34b_b79k"]["state"] == "not_installed"
    hub.add("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", tiny_files())
    assert models_command("pull", "small").code == 0
    assert models_command("pull", NAME).code == 0
    found = rows(models_command("list", "--json"))
    small = found["ViT-B-32/laion2b_s34b_b79k"]
    assert (small["state"], small["short_name"], small["runtime"], small["dim"]) == (
        *("installed", "small", "open_clip"),
        16,
    )
    assert found[DIRECTORY]["state"] == "installed"
    assert b64decode(found[DIRECTORY]["directory"]["path_b64"]) == os.fsencode(store / DIRECTORY)
    assert found["mini"]["state"] == "bundled"
    assert found["MobileCLIP2-S0/dfndr2b"]["non_commercial"] is True


def test_info_of_an_installed_model_has_every_fact(hub: FakeHub, models_command: Any, store: Path) -> None:
    models_command("pull", NAME)
    page = {line[:11].strip(): line[12:] for line in models_command("info", NAME).out.splitlines()}
    assert page["Model"] == f"{DIRECTORY} (installed)"
    assert (page["Runtime"], page["Embedding"], page["Sentences"]) == ("open_clip", "16 dimensions", "8 tokens")
    assert page["Photos"] == "32 x 32 pixels, squash"
    assert page["Licence"] == "mit"
    assert page["From"] == f"hf-hub:{REPOSITORY} at {COMMIT}"
    assert page["Fingerprint"] == load_model_manifest(NAME).fingerprint
    assert page["Directory"] == str(store / DIRECTORY)
    facts = models_command("info", NAME, "--json").json["model"]
    assert (facts["revision"], facts["image_size"], facts["max_tokens"]) == (COMMIT, [32, 32], 8)
    assert facts["fingerprint"] == page["Fingerprint"]


def test_info_of_the_bundled_model(models_command: Any) -> None:
    facts = models_command("info", "mini", "--json").json["model"]
    assert (facts["state"], facts["runtime"], facts["dim"], facts["reranks"]) == ("bundled", "onnx", 384, True)


def test_info_of_a_model_that_is_not_here_says_how_to_get_it(models_command: Any) -> None:
    outcome = models_command("info", "large")
    assert outcome.code == 0
    assert "Get it      mmsearch models pull large" in outcome.out.splitlines()
    assert "Flickr30k 94.3 / 83.0" in outcome.out and "COCO 72.4 / 54.2" in outcome.out


def test_info_of_a_directory(models_command: Any, tiny_model_dir: Path) -> None:
    facts = models_command("info", tiny_model_dir, "--json").json["model"]
    assert (facts["name"], facts["dim"]) == ("tiny", 16)


def test_info_of_what_is_no_model_is_an_error(models_command: Any) -> None:
    assert "no model is called 'bse'" in models_command("info", "bse").error


def test_a_damaged_model_is_listed_as_such_and_can_be_removed(hub: FakeHub, models_command: Any, store: Path) -> None:
    models_command("pull", NAME)
    (store / DIRECTORY / "manifest.json").write_bytes(b"{")
    assert rows(models_command("list", "--json"))[DIRECTORY]["state"] == "damaged"
    assert "not JSON" in models_command("info", NAME).out
    assert models_command("remove", NAME).code == 0
    assert not (store / DIRECTORY).exists()


def test_remove_says_what_it_freed(hub: FakeHub, models_command: Any, store: Path) -> None:
    models_command("pull", NAME)
    freed = models_command("remove", NAME, "--json").json
    assert freed["removed"] == NAME
    assert freed["bytes"] > len(tiny_files()[WEIGHTS])
    assert models_command("remove", NAME).code == 1


def test_the_bundled_model_stays(models_command: Any) -> None:
    assert models_command("remove", "mini").code == 2
    assert models_command("info", "mini").code == 0


def test_what_is_onnx_already_is_not_exported(models_command: Any, tmp_path: Path) -> None:
    outcome = models_command("export", "mini", "--out", tmp_path / "out")
    assert (outcome.code, "ONNX already" in outcome.error) == (2, True)
    assert not (tmp_path / "out").exists()


def test_models_alone_shows_its_help(models_command: Any) -> None:
    outcome = models_command()
    assert (outcome.code, outcome.out) == (2, "")
    assert all(name in outcome.err for name in ("list", "info", "pull", "import", "export", "remove"))
