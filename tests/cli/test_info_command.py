from __future__ import annotations

import base64
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image
from running import Cli
from tiny_model import COLOURS

from mmsearch.cli.installed import faiss_build, installed_versions, onnx_build
from mmsearch.durable import WriterLock
from mmsearch.model import load_model


@pytest.fixture
def indexed(tmp_path: Path, tiny_model_dir: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two pictures, one caption file and one broken picture, indexed by the command itself; returns the folder."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for colour in ("red", "green"):
        Image.new("RGB", (16, 12), COLOURS[colour]).save(folder / f"{colour}.png")
    (folder / "notes.txt").write_text("red", encoding="utf-8")
    Path(os.fsdecode(os.fsencode(folder) + b"/bad\xff\n.jpg")).write_bytes(b"<html>")
    monkeypatch.setenv("MMSEARCH_COLLECTION", str(tmp_path / "collection"))
    monkeypatch.setenv("MMSEARCH_MODEL", str(tiny_model_dir))
    monkeypatch.setenv("MMSEARCH_WORKERS", "1")
    assert cli("index", folder).code == 0
    return folder


def test_the_page_shows_collection_roots_model_counts_index_and_versions(
    indexed: Path, cli: Cli, tiny_model_dir: Path
) -> None:
    outcome = cli("info")
    assert (outcome.code, outcome.err) == (0, "")
    page = {line[:11].strip(): line[12:] for line in outcome.lines}
    assert str(indexed.parent / "collection") in page["Collection"]
    assert page["Model"].startswith("tiny (16 dimensions")
    assert load_model(tiny_model_dir).fingerprint in page["Model"]
    assert page["Roots"] == str(indexed)
    assert (page["Images"], page["Texts"]) == ("2", "1")
    assert page["Unreadable"].startswith("1 unidentified")
    assert page["Rerank"].endswith("indexed by a model without one")
    assert page["Index"].startswith("exact")
    assert page["Search"] == "2 images: exact, by numpy on the CPU"
    assert "1 texts: exact, by numpy on the CPU" in outcome.out.decode()
    assert page["Devices"].endswith("(device = auto)")
    assert page["FAISS"].startswith("faiss-")
    assert page["ONNX"].startswith("onnxruntime")
    assert "numpy " in page["Versions"]


def test_json_has_the_same_facts(indexed: Path, cli: Cli) -> None:
    facts = cli("info", "--json").json
    assert facts["schema_version"] == 1
    assert base64.b64decode(facts["collection"]["path_b64"]) == os.fsencode(indexed.parent / "collection")
    assert (facts["images"], facts["texts"], facts["partial"], facts["missing"]) == (2, 1, 0, 0)
    assert facts["failed"] == {"unidentified": 1}
    assert (facts["model"]["name"], facts["model"]["dim"]) == ("tiny", 16)
    assert [root["path"] for root in facts["roots"]] == [str(indexed)]
    assert facts["index"]["kinds"] == ["exact"]
    assert {"kind": "image", "rows": 2, "index": "exact", "place": "numpy on the CPU"} in facts["index"]["parts"]
    assert isinstance(facts["devices"], list)
    assert facts["disk_bytes"] > 0
    assert "errors" not in facts


def test_images_with_tokens_are_counted(
    indexed: Path, cli: Cli, tiny_itm_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("info", "--json").json["matchable"] == 0
    monkeypatch.setenv("MMSEARCH_COLLECTION", str(indexed.parent / "with-tokens"))
    monkeypatch.setenv("MMSEARCH_MODEL", str(tiny_itm_model_dir))
    assert cli("index", indexed).code == 0
    assert cli("info", "--json").json["matchable"] == 2
    assert any(line.startswith("Rerank      2 images can be looked at again") for line in cli("info").lines)


@pytest.mark.case("S14")
@pytest.mark.promise("R4")
def test_errors_are_listed_with_reason_and_an_escaped_name(indexed: Path, cli: Cli) -> None:
    (line,) = cli("info", "--errors").lines
    reason, path, detail = line.split("\t")
    assert (reason, path) == ("unidentified", f"{indexed}/bad\\xff\\n.jpg")
    assert detail
    (error,) = cli("info", "--errors", "--json").json["errors"]
    assert list(error) == ["path", "path_b64", "reason", "detail"]
    assert base64.b64decode(error["path_b64"]) == os.fsencode(indexed) + b"/bad\xff\n.jpg"


def test_listing_errors_takes_no_lock(indexed: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WriterLock, "__enter__", lambda lock: pytest.fail("took the lock"))
    assert cli("info", "--errors").code == 0


def test_a_root_that_is_gone_is_said_to_be(indexed: Path, cli: Cli) -> None:
    shutil.rmtree(indexed)
    assert f"{indexed} (gone)" in cli("info").out.decode()
    assert cli("info", "--json").json["roots"][0]["trouble"] == "gone"


def test_info_does_not_make_a_collection(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("info", "--collection", tmp_path / "none")
    assert (outcome.code, outcome.out) == (1, b"")
    assert "mmsearch index" in outcome.err
    assert not (tmp_path / "none").exists()


def test_versions_come_without_importing_anything() -> None:
    versions = installed_versions()
    assert {"mmsearch", "python", "numpy", "onnxruntime", "lancedb"} <= set(versions)
    assert faiss_build(versions).startswith("faiss-")


def test_two_builds_of_faiss_are_pointed_out() -> None:
    assert faiss_build({"faiss-cpu": "1.15.1"}) == "faiss-cpu 1.15.1"
    assert faiss_build({}) == "none installed"
    both = faiss_build({"faiss-cpu": "1.15.1", "faiss-gpu": "1.14.2"})
    assert both.startswith("unclear: faiss-cpu 1.15.1 and faiss-gpu 1.14.2")
    assert "pip uninstall faiss-cpu faiss-gpu" in both
    assert onnx_build({"onnxruntime-gpu": "1.24.0"}) == "onnxruntime-gpu 1.24.0"
