from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_model import COLOURS, DIM, MAX_TEXT_TOKENS, STATE_DIM, write_manifest

import mmsearch
from mmsearch.errors import ModelError, UnreadableFile, UsageError
from mmsearch.hubness import read_bank
from mmsearch.model import Model, load_model
from mmsearch.model_facts import DIRECTIONS
from mmsearch.types import Reason


@pytest.fixture(scope="module")
def tiny(tiny_model_dir: Path) -> Model:
    return load_model(tiny_model_dir, threads=1)


@pytest.fixture(scope="module")
def mini() -> Model:
    return load_model("mini", threads=1)


def solid(colour: str) -> Image.Image:
    return Image.new("RGB", (20, 14), COLOURS[colour])


def test_the_tiny_model_knows_its_colours(tiny: Model) -> None:
    names = list(COLOURS)
    similarities = tiny.encode_texts(names) @ tiny.encode_images([solid(name) for name in names]).T
    assert similarities.argmax(axis=1).tolist() == list(range(len(names)))
    np.testing.assert_allclose(np.diag(similarities), 1, atol=1e-5)


def test_path_picture_and_array_of_the_same_pixels_are_one(tiny: Model, tmp_path: Path) -> None:
    array = np.random.default_rng(1).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    picture = Image.fromarray(array)
    picture.save(tmp_path / "a.png")
    embeddings = tiny.encode_images([tmp_path / "a.png", str(tmp_path / "a.png"), picture, array])
    np.testing.assert_allclose(embeddings, np.broadcast_to(embeddings[0], (4, DIM)), atol=1e-6)


def test_empty_lists_give_no_rows(tiny: Model) -> None:
    for nothing in (tiny.encode_images([]), tiny.encode_texts([])):
        assert nothing.shape == (0, DIM)
        assert nothing.dtype == np.float32


def test_batches_join_in_order(tiny: Model) -> None:
    pictures = [solid(name) for name in COLOURS]
    np.testing.assert_allclose(tiny.encode_images(pictures, batch_size=3), tiny.encode_images(pictures), atol=1e-6)
    texts = [*COLOURS, "a much longer sentence", ""]
    np.testing.assert_allclose(tiny.encode_texts(texts, batch_size=3), tiny.encode_texts(texts), atol=1e-6)


def test_a_file_that_is_no_picture_is_named_by_number_path_and_reason(tiny: Model, tmp_path: Path) -> None:
    (tmp_path / "bad\n.jpg").write_bytes(b"<html>")
    with pytest.raises(UnreadableFile) as caught:
        tiny.encode_images([solid("red"), tmp_path / "bad\n.jpg"])
    assert caught.value.reason is Reason.UNIDENTIFIED
    assert "image 1 (" in str(caught.value)
    assert str(caught.value).isprintable()


def test_the_only_picture_needs_no_number(tiny: Model, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"<html>")
    with pytest.raises(UnreadableFile) as caught:
        tiny.encode_images([tmp_path / "bad.jpg"])
    assert caught.value.detail.startswith(f"{tmp_path}/bad.jpg: ")
    with pytest.raises(UsageError, match=r"^the image: int is not a picture"):
        tiny.encode_images([7])  # type: ignore[list-item]


def test_things_that_cannot_be_pictures_are_usage_errors_with_their_number(tiny: Model, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.jpg")
    for bad, complaint in [
        (tmp_path / "none.jpg", "there is no such file"),
        (tmp_path, "it is not a file"),
        (tmp_path / "fifo.jpg", "it is not a file"),
        (np.zeros((4, 4), np.uint8), "expected uint8"),
        (np.zeros((4, 4, 3), np.float32), "expected uint8"),
        (7, "int is not a picture"),
        ("a\0b", "null"),
    ]:
        with pytest.raises(UsageError, match=rf"image 1.*: .*{complaint}"):
            tiny.encode_images([solid("red"), bad])  # type: ignore[list-item]


def test_a_single_path_or_sentence_instead_of_a_list_is_refused(tiny: Model, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="images is str: expected a list"):
        tiny.encode_images("a.jpg")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="texts is str: expected a list"):
        tiny.encode_texts("a dog")
    with pytest.raises(UsageError, match="text 1 is NoneType: expected str"):
        tiny.encode_texts(["a dog", None])  # type: ignore[list-item]
    with pytest.raises(UsageError, match="batch_size is 0"):
        tiny.encode_texts(["a dog"], batch_size=0)


def test_an_array_of_pictures_is_a_list_of_pictures(tiny: Model) -> None:
    pictures = np.stack([np.asarray(solid("red")), np.asarray(solid("blue"))])
    np.testing.assert_array_equal(tiny.encode_images(pictures), tiny.encode_images(list(pictures)))  # type: ignore[arg-type]


def test_the_public_door_opens_models_by_name_and_by_directory(tiny_model_dir: Path) -> None:
    assert mmsearch.load_model(tiny_model_dir).name == "tiny"
    mini = mmsearch.load_model()
    assert (mini.name, mini.encoder.fingerprint) == ("mini", mini.fingerprint)
    with pytest.raises(ModelError):
        mmsearch.load_model("maxi")
    with pytest.raises(UsageError, match="threads is 0"):
        mmsearch.load_model("mini", threads=0)


def test_load_reads_only_the_half_that_is_asked_for(tiny_model_dir: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(tiny_model_dir, tmp_path / "model")
    (directory / "image.onnx").unlink()
    model = load_model(directory, threads=1)
    model.load(texts=True)
    with pytest.raises(ModelError):
        model.load(images=True)


def test_the_bundled_model_embeds_an_item_alike_alone_and_in_any_batch(mini: Model) -> None:
    random = np.random.default_rng(3)
    noise = [random.integers(0, 256, (40, 60, 3), dtype=np.uint8) for _ in range(4)]
    plain = [np.full((30, 30, 3), value, np.uint8) for value in (0, 120, 255)]
    pictures = [*noise, *plain]
    together = mini.encode_images(pictures)
    alone = np.concatenate([mini.encode_images([each]) for each in pictures])
    assert (together * alone).sum(axis=1).min() >= 0.9999
    texts = ["", "a dog", "two children play football in a muddy field while it rains " * 4, "犬", "x" * 1000]
    together = mini.encode_texts(texts)
    alone = np.concatenate([mini.encode_texts([each]) for each in texts])
    assert (together * alone).sum(axis=1).min() >= 0.9999


def test_the_bundled_model_gives_what_its_manifest_promises(mini: Model) -> None:
    embeddings = mini.encode_texts(["a dog on a beach"])
    assert embeddings.shape == (1, mini.dim)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)


@pytest.fixture(scope="module")
def with_head(tiny_itm_model_dir: Path) -> Model:
    return load_model(tiny_itm_model_dir, threads=1)


def test_tokens_join_in_order_beside_the_embeddings(with_head: Model, tiny: Model) -> None:
    pictures = [solid(name) for name in COLOURS]
    embeddings, tokens = with_head.encode_images_with_tokens(pictures, batch_size=3)
    assert tokens is not None
    np.testing.assert_array_equal(embeddings, tiny.encode_images(pictures, batch_size=3))
    for number, colour in enumerate(COLOURS.values()):
        np.testing.assert_allclose(tokens[number, :, :3], np.full((4, 3), np.array(colour) - 127.5), atol=1)
    assert tiny.encode_images_with_tokens(pictures)[1] is None
    nothing, no_tokens = with_head.encode_images_with_tokens([])
    assert no_tokens is not None and (len(nothing), len(no_tokens)) == (0, 0)


def test_states_are_padded_and_cut_and_embeddings_are_those_of_whole_sentences(with_head: Model, tiny: Model) -> None:
    texts = ["red", "green blue", "", "black white red green blue yellow cyan magenta black white", "red"]
    found = with_head.encode_texts_with_states(texts, batch_size=2)
    np.testing.assert_allclose(found.embeddings, tiny.encode_texts(texts), atol=1e-6)
    assert found.states.shape == (5, MAX_TEXT_TOKENS, STATE_DIM)
    assert found.mask.dtype == np.int64
    assert found.mask.sum(axis=1).tolist() == [3, 4, 2, MAX_TEXT_TOKENS, 3]
    np.testing.assert_array_equal(found.states[0, :3], found.states[4, :3])
    np.testing.assert_array_equal(found.states[1, 1:3, 1:4], [[-0.5, 0.5, -0.5], [-0.5, -0.5, 0.5]])
    short = with_head.encode_texts_with_states(["red"])
    assert short.states.shape == (1, 3, STATE_DIM)
    nothing = with_head.encode_texts_with_states([])
    assert (nothing.embeddings.shape, nothing.states.shape) == ((0, DIM), (0, 0, STATE_DIM))


def test_states_of_a_model_without_a_head_cannot_be_had(tiny: Model) -> None:
    with pytest.raises(ModelError, match="'tiny' has no image-text matching head"):
        tiny.encode_texts_with_states(["red"])


def test_a_model_has_a_matcher_and_banks_or_none(with_head: Model, tiny: Model) -> None:
    assert [tiny.matcher, tiny.hubness("text_to_image"), tiny.hubness("image_to_text")] == [None, None, None]
    assert with_head.matcher is with_head.matcher is not None
    for direction in DIRECTIONS:
        assert with_head.hubness(direction) is with_head.hubness(direction) is not None
        bank = read_bank(with_head.manifest, direction)
        assert bank.shape == (36, DIM)
        assert bank.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(bank, axis=1), 1, atol=1e-6)
    first = read_bank(with_head.manifest, "text_to_image")[0]
    np.testing.assert_allclose(first, tiny.encode_texts(["red"])[0], atol=1e-3)


@pytest.mark.parametrize(
    ("bank", "complaint"),
    [
        (np.ones((36, DIM), np.float16), "not all finite and of length 1"),
        (np.full((36, DIM), np.nan, np.float16), "not all finite and of length 1"),
        (np.eye(3, DIM, dtype=np.float16), "3 rows, fewer than the 4 neighbours"),
        (np.eye(5, DIM, dtype=np.float32), "not an array of rows of 16 numbers"),
        (np.eye(5, DIM + 1, dtype=np.float16), "not an array of rows of 16 numbers"),
        (np.asfortranarray(np.eye(5, DIM, dtype=np.float16)), "not an array of rows of 16 numbers"),
        (np.array([{}], object), "not an array of rows of 16 numbers"),
    ],
)
def test_a_file_that_is_no_bank_is_refused(
    tiny_itm_model_dir: Path, tmp_path: Path, bank: np.ndarray, complaint: str
) -> None:
    directory = shutil.copytree(tiny_itm_model_dir, tmp_path / "model")
    np.save(directory / "bank-texts.npy", bank)
    write_manifest(directory)
    with pytest.raises(ModelError, match=rf"bank-texts\.npy is no bank: .*{complaint}"):
        load_model(directory).hubness("text_to_image")
