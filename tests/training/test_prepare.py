"""How many views of each photo are kept follows from the room there is, and their names from what they depend on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from tiny_dual_encoder import SIZE, tiny_dual_encoder  # noqa: E402

from mmsearch.errors import MMSearchError  # noqa: E402
from mmsearch.training import prepare  # noqa: E402
from mmsearch.training.captions import CaptionedImages  # noqa: E402
from mmsearch.training.eyes import EarlyEyes, PixelEyes  # noqa: E402
from mmsearch.training.plan import default_batch  # noqa: E402
from mmsearch.training.prepare import MOST_VIEWS, Cache, Room, affordable_views  # noqa: E402
from mmsearch.training.train_data import TrainData  # noqa: E402
from mmsearch.types import Preprocess  # noqa: E402

PHOTOS, MEASURED = 30, 5
VIEW = PHOTOS * 4 * 4 * 32 * 2  # bytes: 64 x 64 pixels at stride 16, 32 channels, float16


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def captioned(count: int) -> CaptionedImages:
    return CaptionedImages(tuple(Path(f"{n}.jpg") for n in range(count)), ("x",) * count, np.arange(count))


def room() -> Room:
    data = TrainData("a", "b", captioned(PHOTOS), captioned(MEASURED), (), (), "d")
    return Room.of(data, EarlyEyes(tiny_dual_encoder(), SIZE, 1))


def with_free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(prepare.shutil, "disk_usage", lambda path: Usage(1 << 50, 0, free))


def test_room_is_counted_in_bytes_of_float16_maps() -> None:
    assert room() == Room(view=VIEW, validation=VIEW // PHOTOS * MEASURED)


@pytest.mark.parametrize(("limit", "views"), [(VIEW - 1, 1), (2 * VIEW, 2), (3 * VIEW - 1, 2), (1 << 40, MOST_VIEWS)])
def test_the_limit_of_the_cache_decides_the_number_of_views(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, views: int
) -> None:
    with_free(monkeypatch, 1 << 45)
    assert affordable_views(room(), tmp_path, tiny_dual_encoder(), limit=limit) == views


def test_a_small_disk_means_fewer_views_and_a_full_one_an_error_with_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_dual_encoder()
    weights = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    fixed = (64 << 20) + 9 * weights + room().validation
    with_free(monkeypatch, fixed + 3 * VIEW)
    assert affordable_views(room(), tmp_path, model) == 3
    with_free(monkeypatch, fixed + VIEW - 1)
    with pytest.raises(MMSearchError, match=r"\d+ MB are free on its disk, and training needs \d+ MB; make room"):
        affordable_views(room(), tmp_path, model)


def test_cached_maps_are_known_by_all_they_depend_on(tmp_path: Path) -> None:
    cache = Cache(tmp_path, EarlyEyes(tiny_dual_encoder(), SIZE, 1), seed=0)
    other = tiny_dual_encoder()
    with torch.no_grad():
        other.image_tower.stages[4][0].project.bias[0] += 1
    trained = tiny_dual_encoder()
    with torch.no_grad():
        trained.image_tower.head.bias[0] += 1
    keys = [
        cache.key("photos"),
        cache.key("others"),
        replace(cache, eyes=EarlyEyes(tiny_dual_encoder(), (32, 64), 1)).key("photos"),
        replace(cache, seed=1).key("photos"),
        replace(cache, eyes=EarlyEyes(other, SIZE, 1)).key("photos"),
    ]
    assert len(set(keys)) == len(keys)
    assert replace(cache, eyes=EarlyEyes(trained, SIZE, 1)).key("photos") == keys[0]  # the late half is not in them


def test_cached_pixels_are_known_by_their_preprocessing(tmp_path: Path) -> None:
    squashed = Preprocess(32, 32)
    cache = Cache(tmp_path, PixelEyes(squashed), seed=0)
    others = (replace(squashed, resize="crop"), replace(squashed, interpolation="bilinear"), Preprocess(32, 64))
    keys = [replace(cache, eyes=PixelEyes(each)).key("photos") for each in (squashed, *others)]
    assert len(set(keys)) == 4
    assert PixelEyes(squashed).photo_bytes == 3 * 32 * 32


@pytest.mark.parametrize(
    ("photos", "batch"), [(8, 8), (60, 8), (127, 8), (128, 16), (900, 64), (6000, 256), (10**6, 256)]
)
def test_a_step_sees_an_eighth_of_the_photos_within_reason(photos: int, batch: int) -> None:
    assert default_batch(photos) == batch
