"""Right pixels: a picture that is stored in an unusual way is, to the bundled model, the plain picture it shows."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from corpus import Placed, all_cases
from corpus_batch import Machine
from numpy.typing import NDArray
from PIL import Image

from mmsearch import manifest as manifests
from mmsearch.images import decode_image
from mmsearch.store import Store
from mmsearch.types import Preprocess

AS_SIMILAR = 0.98
PREPROCESS = Preprocess(64, 96)
WITH_TWIN = [each for each in all_cases() if each.case.twin is not None]
CASES = [pytest.param(each, marks=pytest.mark.case(each.case.id), id=each.case.label) for each in WITH_TWIN]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each case, with its file and with its twin as a plain PNG."""
    folder = tmp_path_factory.mktemp("twins") / "pictures"
    for placed in WITH_TWIN:
        own = folder / placed.case.label
        own.mkdir(parents=True)
        placed.case.make(own / placed.case.name)
        assert placed.case.twin is not None
        placed.case.twin().convert("RGB").save(own / "twin of it.png")
    return folder


@pytest.fixture(scope="module")
def embeddings(pictures: Path) -> dict[str, NDArray[np.float32]]:
    """What the bundled model made of every picture, by the path below `pictures`: one run of the real command."""
    machine = Machine(pictures.parent, "mini")
    ran = machine.run("index", pictures, "--json", "--strict")
    assert (ran.code, ran.json["indexed"]) == (0, 2 * len(WITH_TWIN)), ran.err
    model = manifests.read(machine.collection).model
    assert model is not None
    with Store.open(machine.collection, model, read_only=True) as store:
        items = store.items(store.known_files().ids)
        vectors = store.vectors(np.array([each.id for each in items]))
    return {os.fsdecode(each.path): vector for each, vector in zip(items, vectors, strict=True)}


@pytest.mark.parametrize("placed", CASES)
def test_embedding_is_that_of_the_plain_twin(embeddings: dict[str, NDArray[np.float32]], placed: Placed) -> None:
    folder = placed.case.label
    own, twin = (embeddings[f"{folder}/{name}"] for name in (placed.case.name, "twin of it.png"))
    assert float(own @ twin) >= AS_SIMILAR


@pytest.mark.parametrize("placed", CASES)
def test_pixels_are_those_of_the_plain_twin(pictures: Path, placed: Placed) -> None:
    assert placed.case.twin is not None
    data = (pictures / placed.case.label / placed.case.name).read_bytes()
    found = decode_image(data, PREPROCESS).pixels.astype(np.int16)
    plain = placed.case.twin().convert("RGB").resize((96, 64), Image.Resampling.BICUBIC)
    assert np.abs(found - np.asarray(plain, dtype=np.int16).transpose(2, 0, 1)).mean() <= placed.case.error


@pytest.mark.case("C34")
def test_16_bit_grey_has_the_brightness_of_its_twin(pictures: Path) -> None:
    (placed,) = (each for each in WITH_TWIN if each.case.name == "grey_16_bit.png")
    assert placed.case.twin is not None
    data = (pictures / placed.case.label / placed.case.name).read_bytes()
    brightness = float(decode_image(data, PREPROCESS).pixels.mean())
    assert abs(brightness - float(np.asarray(placed.case.twin()).mean())) < 0.02 * 255


def test_the_measure_tells_a_picture_that_is_turned_the_wrong_way(embeddings: dict[str, NDArray[np.float32]]) -> None:
    upright, sideways = (
        next(vector for path, vector in embeddings.items() if path.endswith(f"{name}/twin of it.png"))
        for name in ("turned_1_jpeg.jpg", "cyclic_exif.jpg")
    )
    assert float(upright @ sideways) < AS_SIMILAR
