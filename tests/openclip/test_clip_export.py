"""Exported models, as their users run them: loaded by the product's own door and compared with open_clip itself."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from openclip_models import CONFIGS, built
from PIL import Image

from mmsearch.errors import MissingExtra, ModelError, UsageError
from mmsearch.model import load_model
from mmsearch.model_manifest import load_model_manifest, verify
from mmsearch.progress import Progress
from mmsearch.training import clip_export, clip_graphs
from mmsearch.training.clip_export import export_model

SENTENCES = ["a red dog", "the photo of the beach, with a cat and many more words than that", "", "dog"]
KINDS = ("vit", "siglip", "mobile")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    """Two test runs on two cores, each with two threads, take many times as long as with one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def told() -> list[Progress]:
    """What an export said while it ran."""
    return []


@pytest.fixture(scope="module")
def exported(
    openclip_dirs: dict[str, Path], told: list[Progress], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Each kind of model as ONNX, one of them into a directory that was there, and one as int8."""
    root = tmp_path_factory.mktemp("exported")
    (root / "siglip").mkdir()
    for kind in KINDS:
        progress = told.append if kind == "siglip" else None
        export_model(load_model_manifest(openclip_dirs[kind]), root / kind, progress=progress)
    export_model(load_model_manifest(openclip_dirs["vit"]), root / "vit-int8", int8=True)
    return {path.name: path for path in root.iterdir()}


def pixels_of(directory: Path, count: int) -> NDArray[np.uint8]:
    size = load_model_manifest(directory).preprocess
    return np.random.default_rng(count).integers(0, 256, (count, 3, size.height, size.width), dtype=np.uint8)


def normalised(pixels: NDArray[np.uint8], config: dict[str, Any]) -> torch.Tensor:
    given = config["preprocess_cfg"]
    mean, std = (torch.tensor(given[key], dtype=torch.float32).reshape(1, 3, 1, 1) for key in ("mean", "std"))
    return (torch.from_numpy(pixels).float() / 255 - mean) / std


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_pictures_are_embedded_as_open_clip_does_it(exported: dict[str, Path], kind: str) -> None:
    clip, encoder = built(CONFIGS[kind]["model_cfg"]), load_model(exported[kind]).encoder
    for count in range(1, 5):
        pixels = pixels_of(exported[kind], count)
        own = clip.encode_image(normalised(pixels, CONFIGS[kind]), normalize=True).numpy()
        assert np.abs(encoder.encode_pixels(pixels) - own).max() <= 1e-5


@torch.inference_mode()
def test_sentences_of_any_length_and_number_are_embedded_as_open_clip_does_it(exported: dict[str, Path]) -> None:
    clip, encoder = built(CONFIGS["vit"]["model_cfg"]), load_model(exported["vit"]).encoder
    random = np.random.default_rng(0)
    for count, length in itertools.product(range(1, 5), (2, 3, 4, 8, 33, 76, 77)):
        ids = random.integers(1, 49000, (count, length))
        ids[:, 0], ids[:, -1] = 49406, 49407
        padded = np.zeros((count, 77), np.int64)
        padded[:, :length] = ids
        own = clip.encode_text(torch.from_numpy(padded), normalize=True).numpy()
        assert np.abs(encoder.encode_tokens(ids, np.ones_like(ids)) - own).max() <= 1e-5, (count, length)


@pytest.mark.parametrize("kind", ["siglip", "mobile"])
@torch.inference_mode()
def test_a_tower_that_reads_its_padding_gets_all_of_it(exported: dict[str, Path], kind: str) -> None:
    clip, model = built(CONFIGS[kind]["model_cfg"]), load_model(exported[kind])
    ids, mask = model.tokenizer.encode(SENTENCES)
    assert ids.shape == (len(SENTENCES), clip.context_length)
    own = clip.encode_text(torch.from_numpy(ids), normalize=True).numpy()
    assert np.abs(model.encoder.encode_tokens(ids, mask) - own).max() <= 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_the_product_gives_the_same_embeddings_with_torch_and_without(
    openclip_dirs: dict[str, Path], exported: dict[str, Path], kind: str
) -> None:
    original, model = load_model(openclip_dirs[kind]), load_model(exported[kind])
    pictures = [Image.fromarray(each.transpose(1, 2, 0)) for each in pixels_of(exported[kind], 3)]
    for ours, theirs in (
        (model.encode_texts(SENTENCES), original.encode_texts(SENTENCES)),
        (model.encode_images(pictures), original.encode_images(pictures)),
    ):
        assert np.abs(ours - theirs).max() <= 1e-5


def test_the_manifest_says_what_the_original_said(openclip_dirs: dict[str, Path], exported: dict[str, Path]) -> None:
    for kind in KINDS:
        source, written = load_model_manifest(openclip_dirs[kind]), load_model_manifest(exported[kind])
        verify(written)
        assert {path.name for path in exported[kind].iterdir()} == {*written.files, "manifest.json"}
        assert (written.runtime, written.mean, written.std) == ("onnx", (), ())
        assert written.fingerprint == source.fingerprint
        for field in ("name", "version", "dim", "preprocess", "max_tokens", "clean", "pad", "license"):
            assert getattr(written, field) == getattr(source, field), field
        assert written.logit_scale == pytest.approx(1 / 0.07)
        card = (exported[kind] / "MODEL_CARD.md").read_text()
        assert source.fingerprint in card and "1.000000 (texts)" in card


def test_branches_that_only_training_needs_are_merged(exported: dict[str, Path]) -> None:
    from timm.models import reparameterize_model

    clip = built(CONFIGS["mobile"]["model_cfg"])
    training = sum(isinstance(each, torch.nn.Conv2d) for each in clip.visual.modules())
    final = sum(isinstance(each, torch.nn.Conv2d) for each in reparameterize_model(clip.visual).modules())
    operations = Counter(node.op_type for node in onnx.load(exported["mobile"] / "image.onnx").graph.node)
    assert operations["Conv"] == final < training
    assert operations["BatchNormalization"] == 0


def test_int8_is_small_and_near_and_a_model_of_its_own(exported: dict[str, Path]) -> None:
    exact, small = load_model(exported["vit"]), load_model(exported["vit-int8"])
    assert small.name == f"{exact.name}-int8" and small.fingerprint != exact.fingerprint
    assert small.manifest.embeds_as is None
    bytes_of = [sum(path.stat().st_size for path in exported[name].glob("*.onnx")) for name in ("vit", "vit-int8")]
    assert bytes_of[1] < 0.3 * bytes_of[0]
    pixels = pixels_of(exported["vit"], 4)
    images = small.encoder.encode_pixels(pixels)
    texts = small.encode_texts(SENTENCES)
    assert (images * exact.encoder.encode_pixels(pixels)).sum(1).min() > 0.99
    assert (texts * exact.encode_texts(SENTENCES)).sum(1).min() > 0.99
    alone = np.concatenate([small.encoder.encode_pixels(pixels[row : row + 1]) for row in range(4)])
    alone_texts = np.concatenate([small.encode_texts([each]) for each in SENTENCES])
    assert (images * alone).sum(1).min() > 0.9999 and (texts * alone_texts).sum(1).min() > 0.9999


def test_photos_are_indexed_and_found_where_torch_cannot_be_imported(exported: dict[str, Path], tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, each in enumerate(pixels_of(exported["vit"], 4)):
        Image.fromarray(each.transpose(1, 2, 0)).save(photos / f"{number}.png")
    program = """
import json, sys
for blocked in ("torch", "torchvision", "open_clip", "timm", "transformers"):
    sys.modules[blocked] = None
import mmsearch
if __name__ == "__main__":
    collection = mmsearch.open(sys.argv[1], model=sys.argv[2])
    report = collection.add([sys.argv[3]])
    by_image = collection.search(image=f"{sys.argv[3]}/2.png", k=2)
    by_text = collection.search("a red dog", k=4)
    print(json.dumps([report.items, by_image[0].path, by_image[0].similarity, len(by_text)]))
"""
    arguments = [sys.executable, "-c", program, str(tmp_path / "collection"), str(exported["vit"]), str(photos)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    items, first, similarity, texts = json.loads(done.stdout)
    assert (items, first, texts) == (4, str(photos / "2.png"), 4)
    assert similarity > 0.999


def test_steps_are_told_from_the_first_to_the_last(exported: dict[str, Path], told: list[Progress]) -> None:
    assert exported
    assert [(each.phase, each.done, each.total) for each in told] == [("export", done, 4) for done in range(5)]


def test_a_model_that_does_not_agree_is_refused_and_nothing_stays(
    openclip_dirs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = clip_graphs.ClipGraphs.embeddings
    monkeypatch.setattr(clip_graphs.ClipGraphs, "embeddings", lambda *a: tuple(each[::-1] for each in true(*a)))
    with pytest.raises(ModelError, match=r"is not exported: in ONNX .* expected at least 0\.9999; use it as it is"):
        export_model(load_model_manifest(openclip_dirs["siglip"]), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_tower_that_cannot_be_traced_is_a_model_error(
    openclip_dirs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no such operator\nand forty lines more")

    monkeypatch.setattr(clip_graphs, "traced", refuse)
    with pytest.raises(ModelError, match=r"cannot write its image tower as ONNX \(no such operator\)"):
        export_model(load_model_manifest(openclip_dirs["siglip"]), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_refused_before_any_work(
    openclip_dirs: dict[str, Path], tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = load_model_manifest(openclip_dirs["siglip"])
    with pytest.raises(UsageError, match="is ONNX already"):
        export_model(load_model_manifest(tiny_model_dir), tmp_path / "out")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "photo.jpg").touch()
    with pytest.raises(UsageError, match="is there already"):
        export_model(manifest, tmp_path / "kept")
    monkeypatch.setattr(clip_export, "NEEDS", ("onnx", "no_such_package"))
    with pytest.raises(MissingExtra, match=r"needs no_such_package; install with: pip install 'mmsearch\[clip\]'"):
        export_model(manifest, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("what", "message"), [("disk", r"takes \d+ MB as ONNX, and 1 MB are free"), ("memory", "GB of memory more")]
)
def test_too_little_room_is_said_at_once(
    openclip_dirs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, message: str
) -> None:
    if what == "disk":
        monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 30, 1 << 30, 1 << 20))
    else:
        answers = iter([1 << 40])
        monkeypatch.setattr("mmsearch.openclip_weights.free_memory", lambda: next(answers, 1000))
    with pytest.raises(ModelError, match=message):
        export_model(load_model_manifest(openclip_dirs["siglip"]), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
