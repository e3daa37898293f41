from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_model import write_manifest, write_tiny_model

from mmsearch.errors import ModelError
from mmsearch.model_facts import HubnessFacts, ItmFacts
from mmsearch.model_manifest import bundled_models, load_model_manifest, verify

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture
def model(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return shutil.copytree(tiny_model_dir, tmp_path / "model")


def edit(model: Path, change: Edit) -> None:
    path = model / "manifest.json"
    table = json.loads(path.read_text("utf-8"))
    change(table)
    path.write_text(json.dumps(table), "utf-8")


def test_the_manifest_says_how_to_feed_the_model(tiny_model_dir: Path) -> None:
    manifest = load_model_manifest(tiny_model_dir)
    assert (manifest.name, manifest.version, manifest.dim, manifest.max_tokens) == ("tiny", "1", 16, 12)
    assert (manifest.preprocess.height, manifest.preprocess.width, manifest.preprocess.resize) == (8, 8, "squash")
    assert manifest.lowercase is False
    verify(manifest)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda t: t.pop("dim"), "dim is missing"),
        (lambda t: t["text"].pop("max_tokens"), "text.max_tokens is missing"),
        (lambda t: t.update(dims=4), "dims is unknown; did you mean dim?"),
        (lambda t: t["image"].update(mean=[0, 0, 0]), "image.mean is unknown"),
        (lambda t: t["files"]["image.onnx"].update(url="x"), "files.image.onnx.url is unknown"),
        (lambda t: t.update(dim="16"), "dim is '16': expected a whole number"),
        (lambda t: t.update(dim=True), "dim is True: expected a whole number"),
        (lambda t: t.update(dim=0), "dim is 0: expected a whole number from 1"),
        (lambda t: t.update(format=2), "format is 2: this mmsearch reads 1"),
        (lambda t: t.update(name="../tiny"), "name is '../tiny': expected text like"),
        (lambda t: t["image"].update(size=[8]), "image.size is [8]: expected 2 whole numbers"),
        (lambda t: t["image"].update(size=[8, 100_000]), "image.size is [8, 100000]"),
        (lambda t: t["image"].update(resize="stretch"), "image.resize is 'stretch': expected squash or crop"),
        (lambda t: t["image"].update(resize=[]), "image.resize is []: expected squash or crop"),
        (lambda t: t["text"].update(lowercase="no"), "text.lowercase is 'no': expected true or false"),
        (lambda t: t["files"].update({"x": {"sha256": "0", "bytes": 1}}), "files.x.sha256 is '0'"),
        (lambda t: t["files"].pop("text.onnx"), "files does not pin 'text.onnx'"),
        (lambda t: t.update(image=None), "image. is not a table"),
    ],
)
def test_a_manifest_that_is_not_exactly_right_names_file_and_field(model: Path, change: Edit, complaint: str) -> None:
    edit(model, change)
    with pytest.raises(ModelError) as caught:
        load_model_manifest(model)
    assert complaint in str(caught.value)
    assert str(model / "manifest.json") in str(caught.value)


def test_a_head_and_banks_are_described_where_a_model_has_them(tiny_model_dir: Path, tiny_itm_model_dir: Path) -> None:
    plain = load_model_manifest(tiny_model_dir)
    assert plain.itm is None
    assert plain.hubness == {}
    manifest = load_model_manifest(tiny_itm_model_dir)
    assert manifest.itm == ItmFacts("itm.onnx", 4, 8, 8, 8, 20, 0.1)
    assert manifest.hubness == {
        "text_to_image": HubnessFacts("bank-texts.npy", 4, 0.5),
        "image_to_text": HubnessFacts("bank-images.npy", 4, 0.5),
    }
    verify(manifest)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda t: t.update(itm=None), "itm. is not a table"),
        (lambda t: t["itm"].pop("tokens"), "itm.tokens is missing"),
        (lambda t: t["itm"].update(tokens=0), "itm.tokens is 0: expected a whole number from 1"),
        (lambda t: t["itm"].update(token_dim=1.5), "itm.token_dim is 1.5: expected a whole number"),
        (lambda t: t["itm"].update(candidates=0), "itm.candidates is 0"),
        (lambda t: t["itm"].update(weight="0.1"), "itm.weight is '0.1': expected a number from 0"),
        (lambda t: t["itm"].update(weight=True), "itm.weight is True: expected a number"),
        (lambda t: t["itm"].update(weight=float("nan")), "itm.weight is nan: expected a number"),
        (lambda t: t["itm"].update(weight=-1), "itm.weight is -1: expected a number from 0"),
        (lambda t: t["itm"].update(wieght=1), "itm.wieght is unknown; did you mean weight?"),
        (lambda t: t["itm"].update(file="other.onnx"), "does not pin 'other.onnx'"),
        (lambda t: t.update(imt=t.pop("itm")), "imt is unknown; did you mean itm?"),
        (lambda t: t.update(hubness=[]), "hubness. is not a table"),
        (lambda t: t["hubness"].update(image_to_image={}), "hubness.image_to_image is unknown"),
        (lambda t: t["hubness"]["text_to_image"].pop("strength"), "hubness.text_to_image.strength is missing"),
        (lambda t: t["hubness"]["text_to_image"].update(neighbours=0), "hubness.text_to_image.neighbours is 0"),
        (lambda t: t["hubness"]["text_to_image"].update(bank="x.bin"), "hubness.text_to_image.bank is 'x.bin'"),
        (lambda t: t["hubness"]["image_to_text"].update(bank="x.npy"), "does not pin 'x.npy'"),
    ],
)
def test_a_head_or_bank_that_is_not_exactly_right_names_file_and_field(
    tiny_itm_model_dir: Path, tmp_path: Path, change: Edit, complaint: str
) -> None:
    model = shutil.copytree(tiny_itm_model_dir, tmp_path / "model")
    edit(model, change)
    with pytest.raises(ModelError) as caught:
        load_model_manifest(model)
    assert complaint in str(caught.value)


def test_one_direction_may_have_a_bank_alone(tiny_itm_model_dir: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_itm_model_dir, tmp_path / "model")
    edit(model, lambda t: t["hubness"].pop("image_to_text"))
    edit(model, lambda t: t.pop("itm"))
    manifest = load_model_manifest(model)
    assert (manifest.itm, list(manifest.hubness)) == (None, ["text_to_image"])


def test_another_head_or_bank_leaves_stored_embeddings_in_use(tiny_itm_model_dir: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_itm_model_dir, tmp_path / "model")
    before = load_model_manifest(model).fingerprint
    for change in (
        lambda t: t["itm"].update(weight=3, candidates=5),
        lambda t: t["files"]["itm.onnx"].update(sha256="0" * 64),
        lambda t: t["files"]["bank-texts.npy"].update(sha256="0" * 64),
        lambda t: t.pop("hubness"),
        lambda t: t.pop("itm"),
    ):
        edit(model, change)
        assert load_model_manifest(model).fingerprint == before


@pytest.mark.case("S26", "S43")
@pytest.mark.parametrize("name", ["../image.onnx", "/etc/passwd", "a/b", "..", ".", "a\\b", "a\0b", ""])
def test_only_bare_names_inside_the_directory_can_be_pinned(model: Path, name: str) -> None:
    edit(model, lambda t: t["files"].update({name: t["files"]["image.onnx"]}))
    with pytest.raises(ModelError, match="is not the bare name of a file"):
        load_model_manifest(model)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, "\ud800".encode("utf-8", "surrogatepass")])
def test_rubbish_for_a_manifest_is_refused(model: Path, text: str | bytes) -> None:
    (model / "manifest.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ModelError, match=r"manifest\.json"):
        load_model_manifest(model)


@pytest.mark.case("S28")
def test_one_flipped_bit_is_found(model: Path) -> None:
    manifest = load_model_manifest(model)
    data = bytearray((model / "text.onnx").read_bytes())
    data[1000] ^= 1
    (model / "text.onnx").write_bytes(data)
    assert manifest.read("image.onnx")
    with pytest.raises(ModelError, match=r"text\.onnx is not the one its manifest pins: its SHA-256"):
        manifest.read("text.onnx")
    with pytest.raises(ModelError, match=r"text\.onnx"):
        verify(manifest)


@pytest.mark.parametrize("size", [0, 100, 1 << 20])
def test_another_size_is_found_without_reading_on(model: Path, size: int) -> None:
    os.truncate(model / "text.onnx", size)
    with pytest.raises(ModelError, match="is not the one its manifest pins: it has"):
        load_model_manifest(model).read("text.onnx")


@pytest.mark.case("S28")
def test_a_link_is_refused_even_to_the_right_bytes(model: Path, tmp_path: Path) -> None:
    (model / "text.onnx").rename(tmp_path / "elsewhere")
    (model / "text.onnx").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match=r"text\.onnx is a link"):
        load_model_manifest(model).read("text.onnx")


def test_a_fifo_is_refused_without_waiting(model: Path) -> None:
    (model / "text.onnx").unlink()
    os.mkfifo(model / "text.onnx")
    with pytest.raises(ModelError, match="it is not a regular file"):
        load_model_manifest(model).read("text.onnx")


def test_a_missing_file_is_named(model: Path) -> None:
    (model / "text.onnx").unlink()
    with pytest.raises(ModelError, match=r"text\.onnx does not exist"):
        load_model_manifest(model).read("text.onnx")


def test_the_fingerprint_follows_what_changes_embeddings_and_nothing_else(model: Path, tmp_path: Path) -> None:
    before = load_model_manifest(model).fingerprint
    edit(model, lambda t: t.update(name="other", version="9", license="MIT", quality={"recall": 1}))
    assert load_model_manifest(model).fingerprint == before
    others = {before}
    changes: list[Edit] = [
        lambda t: t["text"].update(max_tokens=13),
        lambda t: t["text"].update(lowercase=True),
        lambda t: t["image"].update(size=[8, 9]),
        lambda t: t["image"].update(resize="crop"),
        lambda t: t["image"].update(interpolation="bicubic"),
        lambda t: t["files"]["text.onnx"].update(sha256="0" * 64),
        lambda t: t["files"]["image.onnx"].update(sha256="0" * 64),
        lambda t: t["files"]["tokenizer.json"].update(sha256="0" * 64),
    ]
    for change in changes:
        write_manifest(model)
        edit(model, change)
        others.add(load_model_manifest(model).fingerprint)
    others.add(load_model_manifest(write_tiny_model(tmp_path / "seed", seed=1)).fingerprint)
    assert len(others) == len(changes) + 2
    assert all(len(each) == 32 and int(each, 16) >= 0 for each in others)


def test_the_bundled_model_is_found_by_name_and_is_whole() -> None:
    assert "mini" in bundled_models()
    manifest = load_model_manifest("mini")
    assert manifest.name == "mini"
    verify(manifest)


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(ModelError, match="no model is called 'mimi'; near it: mini"):
        load_model_manifest("mimi")


def test_a_directory_given_like_a_name_is_pointed_out(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"the directory needs a separator: \./model"):
        load_model_manifest("model")
    assert load_model_manifest("./model").name == load_model_manifest(Path("model")).name == "tiny"


def test_a_directory_without_a_manifest_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"manifest\.json does not exist"):
        load_model_manifest(tmp_path)
