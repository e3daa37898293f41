"""Embedding a dataset: as the product embeds, once per content, kept between runs, loud about what cannot be read."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import platformdirs
import pytest
from colour_pictures import write_colour_pairs
from PIL import Image

from mmsearch.errors import DatasetError
from mmsearch.eval.datasets import load_dataset
from mmsearch.eval.embedding_cache import SHARD_SUFFIX
from mmsearch.eval.embeddings import IMAGE_BATCH, Embedded, embed_dataset
from mmsearch.model import Model, load_model
from mmsearch.progress import Progress


@pytest.fixture
def model(tiny_model_dir: Path) -> Model:
    return load_model(tiny_model_dir, threads=1)


def shards() -> list[Path]:
    return sorted(Path(platformdirs.user_cache_path("mmsearch")).rglob(f"*{SHARD_SUFFIX}"))


def embedded_in(root: Path, model: Model, *, use_cache: bool = True, allow_missing: bool = False) -> Embedded:
    dataset = load_dataset(root / "pairs.csv")
    return embed_dataset(dataset, model, use_cache=use_cache, allow_missing=allow_missing)


def test_embeddings_are_those_of_the_model(tmp_path: Path, model: Model) -> None:
    write_colour_pairs(tmp_path)
    found = embedded_in(tmp_path, model)
    paths = [str(found.dataset.image_path(row)) for row in range(len(found.dataset.image_ids))]
    assert np.allclose(found.images, model.encode_images(paths), atol=1e-6)
    assert np.allclose(found.captions, model.encode_texts(list(found.dataset.captions)), atol=1e-6)
    assert found.images.dtype == found.captions.dtype == np.float32


def test_second_run_takes_everything_from_the_cache(tmp_path: Path, model: Model) -> None:
    write_colour_pairs(tmp_path)
    first, second = embedded_in(tmp_path, model), embedded_in(tmp_path, model)
    assert (first.image_timing.encoded, first.image_timing.cached) == (16, 0)
    assert (second.image_timing.encoded, second.image_timing.cached) == (0, 16)
    assert second.caption_timing.encoded == 0
    assert second.image_timing.per_second is None
    assert np.array_equal(first.images, second.images)
    assert np.array_equal(first.captions, second.captions)


def test_cached_pictures_are_not_decoded(tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    write_colour_pairs(tmp_path)
    first = embedded_in(tmp_path, model)

    def decode_image(*_: object, **__: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr("mmsearch.eval.embeddings.decode_image", decode_image)
    assert np.array_equal(embedded_in(tmp_path, model).images, first.images)


def test_only_changed_content_is_embedded_again(tmp_path: Path, model: Model) -> None:
    write_colour_pairs(tmp_path)
    embedded_in(tmp_path, model)
    shutil.copy(tmp_path / "red.png", tmp_path / "blue.png")
    Image.new("RGB", (9, 9), (1, 2, 3)).save(tmp_path / "green.png")
    again = embedded_in(tmp_path, model)
    assert (again.image_timing.encoded, again.image_timing.cached) == (1, 15)
    assert again.duplicate_images() == (("blue.png", "red.png"),)


def test_another_model_has_another_cache(tmp_path: Path, model: Model) -> None:
    from tiny_model import write_tiny_model

    write_colour_pairs(tmp_path)
    embedded_in(tmp_path, model)
    other = load_model(write_tiny_model(tmp_path / "other", seed=1), threads=1)
    assert embedded_in(tmp_path, other).image_timing.encoded == 16


@pytest.mark.parametrize("damage", ["flipped bit", "cut", "empty"])
def test_a_damaged_shard_is_made_again(
    tmp_path: Path, model: Model, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    write_colour_pairs(tmp_path)
    whole = embedded_in(tmp_path, model)
    for shard in shards():
        data = bytearray(shard.read_bytes())
        if damage == "flipped bit":
            data[len(data) // 2] ^= 1
        shard.write_bytes({"flipped bit": data, "cut": data[:100], "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        again = embedded_in(tmp_path, model)
    assert again.image_timing.encoded == 16
    assert np.array_equal(again.images, whole.images)
    assert "is removed and made again" in caplog.text
    assert embedded_in(tmp_path, model).image_timing.cached == 16


def test_a_cache_that_others_can_write_to_is_not_believed(
    tmp_path: Path, model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    write_colour_pairs(tmp_path)
    embedded_in(tmp_path, model)
    for shard in shards():
        shard.parent.chmod(0o777)
    with caplog.at_level(logging.WARNING):
        assert embedded_in(tmp_path, model).image_timing.cached == 0
    assert "others can write there" in caplog.text


def test_without_cache_nothing_is_read_or_kept(tmp_path: Path, model: Model) -> None:
    write_colour_pairs(tmp_path)
    embedded_in(tmp_path, model, use_cache=False)
    assert shards() == []
    embedded_in(tmp_path, model)
    assert embedded_in(tmp_path, model, use_cache=False).image_timing.encoded == 16


def test_a_cache_that_cannot_be_written_does_not_stop_the_run(
    tmp_path: Path, model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    write_colour_pairs(tmp_path)
    cache = Path(platformdirs.user_cache_path("mmsearch"))
    cache.parent.mkdir(parents=True, exist_ok=True)
    cache.write_bytes(b"a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        assert embedded_in(tmp_path, model).image_timing.encoded == 16
    assert "embeddings are not kept" in caplog.text


def test_interrupted_run_keeps_what_it_encoded(tmp_path: Path, model: Model) -> None:
    write_colour_pairs(tmp_path, mixed=28)
    dataset = load_dataset(tmp_path / "pairs.csv")

    def interrupt(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_dataset(dataset, model, progress=interrupt)
    assert embed_dataset(dataset, model).image_timing.cached == IMAGE_BATCH


def test_progress_ends_at_the_number_of_items(tmp_path: Path, model: Model) -> None:
    write_colour_pairs(tmp_path)
    seen: list[Progress] = []
    for _ in range(2):
        embed_dataset(load_dataset(tmp_path / "pairs.csv"), model, progress=seen.append)
        assert seen[-1] == Progress("embed", 48, 48)


def test_unreadable_pictures_are_refused_by_name_and_reason(tmp_path: Path, model: Model) -> None:
    write_colour_pairs(tmp_path)
    (tmp_path / "red.png").write_bytes(b"")
    (tmp_path / "blue.png").write_bytes(b"<html>not found</html>")
    with pytest.raises(DatasetError, match=r"2 unreadable images \(blue.png: unidentified: .*red.png: empty: "):
        embedded_in(tmp_path, model)


def test_unreadable_pictures_are_left_out_and_counted_on_request(tmp_path: Path, model: Model) -> None:
    write_colour_pairs(tmp_path)
    (tmp_path / "red.png").write_bytes(b"")
    found = embedded_in(tmp_path, model, allow_missing=True)
    assert found.dataset.dropped == {"unreadable images": 1}
    assert len(found.images) == len(found.dataset.image_ids) == 15
    assert len(found.captions) == len(found.dataset.captions) == 30
    assert "red.png" not in found.dataset.image_ids


def test_nothing_readable_is_refused(tmp_path: Path, model: Model) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "pairs.csv").write_text("image,caption\na.png,x\n")
    with pytest.raises(DatasetError, match="no image with a caption can be read"):
        embedded_in(tmp_path, model, allow_missing=True)


def test_partly_read_pictures_are_counted_in_every_run(tmp_path: Path, model: Model) -> None:
    write_colour_pairs(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.jpg", quality=95)
    whole = (tmp_path / "noise.jpg").read_bytes()
    (tmp_path / "noise.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    with (tmp_path / "pairs.csv").open("a") as table:
        table.write("noise.jpg,noise\n")
    assert embedded_in(tmp_path, model).partial == 1
    assert embedded_in(tmp_path, model).partial == 1


def test_every_copy_of_a_damaged_picture_counts_as_damaged(tmp_path: Path, model: Model) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    names = [f"{number}.jpg" for number in range(80)]
    for name in names:
        (tmp_path / name).write_bytes(whole[: len(whole) * 4 // 5])
    (tmp_path / "pairs.csv").write_text("image,caption\n" + "".join(f"{name},of {name}\n" for name in names))
    assert embedded_in(tmp_path, model).partial == 80
