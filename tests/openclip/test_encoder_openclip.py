"""open_clip models keep the same promises as any encoder, and compute what open_clip computes."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from numpy.typing import NDArray
from open_clip.transform import PreprocessCfg, image_transform_v2
from openclip_models import CONFIGS, built
from PIL import Image

from mmsearch.encoder import Encoder
from mmsearch.model import Model, load_model

KINDS = tuple(CONFIGS)
GOLDEN = 1e-5
TEXTS = ["a photo of a dog", "Two &amp; three “cats”, it's 12!", "", "word " * 90, "日本語 😀"]


@pytest.fixture(scope="module")
def models(openclip_dirs: dict[str, Path]) -> dict[str, Model]:
    return {kind: load_model(path, threads=1, device="cpu") for kind, path in openclip_dirs.items()}


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest, models: dict[str, Model]) -> Model:
    return models[request.param]


def pixels(model: Model, count: int) -> NDArray[np.uint8]:
    size = (count, 3, model.preprocess.height, model.preprocess.width)
    return np.random.default_rng(count).integers(0, 256, size, dtype=np.uint8)


def pictures() -> list[Image.Image]:
    random = np.random.default_rng(3)
    sizes = ((90, 60), (64, 64), (31, 107), (300, 224))
    return [Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)) for width, height in sizes]


def assert_embeddings(found: NDArray[np.float32], count: int, dim: int) -> None:
    assert found.dtype == np.float32
    assert found.shape == (count, dim)
    assert found.flags["C_CONTIGUOUS"]
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_embeddings_are_unit_float32_rows(model: Model) -> None:
    encoder: Encoder = model.encoder
    assert_embeddings(encoder.encode_pixels(pixels(model, 3)), 3, model.dim)
    assert_embeddings(encoder.encode_tokens(*model.tokenizer.encode(TEXTS)), len(TEXTS), model.dim)


def test_what_may_not_be_written_to_is_encoded_too(model: Model) -> None:
    frozen = pixels(model, 2)
    frozen.flags.writeable = False
    assert_embeddings(model.encoder.encode_pixels(frozen), 2, model.dim)


def test_an_item_alone_is_the_item_in_a_batch(model: Model) -> None:
    batch = pixels(model, 4)
    together = model.encoder.encode_pixels(batch)
    alone = np.concatenate([model.encoder.encode_pixels(batch[row : row + 1]) for row in range(4)])
    assert (together * alone).sum(axis=1).min() > 0.9999
    sentences = model.encode_texts(TEXTS)
    one_by_one = np.concatenate([model.encode_texts([text]) for text in TEXTS])
    assert (sentences * one_by_one).sum(axis=1).min() > 0.9999


def test_different_items_get_different_embeddings(models: dict[str, Model]) -> None:
    for kind in ("vit", "siglip", "mobile", "coca"):
        first, second = models[kind].encode_texts(["a red dog", "blue beach"])
        assert first @ second < 0.9999, kind
        noise = pixels(models[kind], 1)
        first, second = models[kind].encoder.encode_pixels(np.concatenate([noise, noise // 8 + 200]))
        assert first @ second < 0.9999, kind


def test_nothing_in_gives_nothing_out_and_loads_nothing(openclip_dirs: dict[str, Path]) -> None:
    model = load_model(openclip_dirs["vit"], threads=1)
    (model.manifest.directory / "open_clip_model.safetensors").stat()
    none = np.zeros((0, 0), np.int64)
    assert model.encoder.encode_pixels(pixels(model, 0)).shape == (0, model.dim)
    assert model.encoder.encode_tokens(none, none).shape == (0, model.dim)
    assert model.encode_texts([]).shape == (0, model.dim)


def test_there_are_no_tokens_and_no_states_for_a_matching_head(model: Model) -> None:
    embeddings, tokens = model.encoder.encode_pixels_with_tokens(pixels(model, 1))
    assert_embeddings(embeddings, 1, model.dim)
    assert tokens is None
    embeddings, states = model.encoder.encode_tokens_with_states(*model.tokenizer.encode(["a"]))
    assert_embeddings(embeddings, 1, model.dim)
    assert states is None
    assert model.matcher is None


def test_what_is_no_picture_of_the_models_size_is_a_callers_mistake(models: dict[str, Model]) -> None:
    encoder = models["vit"].encoder
    with pytest.raises(ValueError, match="not uint8"):
        encoder.encode_pixels(pixels(models["vit"], 1).astype(np.float32))
    with pytest.raises(ValueError, match="not uint8"):
        encoder.encode_pixels(pixels(models["vit"], 1)[:, :, 1:])
    with pytest.raises(ValueError, match="are not int64"):
        encoder.encode_tokens(np.zeros((1, 4), np.int64), np.ones((1, 3), np.int64))


def test_several_threads_may_use_one_encoder(openclip_dirs: dict[str, Path]) -> None:
    model = load_model(openclip_dirs["vit"], threads=1, device="cpu")
    batch, found = pixels(model, 2), []
    threads = [threading.Thread(target=lambda: found.append(model.encoder.encode_pixels(batch))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for each in found:
        np.testing.assert_allclose(each, found[0], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_get_the_embeddings_that_open_clip_gives_them(kind: str, models: dict[str, Model]) -> None:
    config = CONFIGS[kind]
    theirs = built(config["model_cfg"])
    settings = {**config["preprocess_cfg"], "size": theirs.visual.image_size}
    transform = image_transform_v2(PreprocessCfg(**settings), is_train=False)
    with torch.inference_mode():
        wanted = theirs.encode_image(torch.stack([transform(each) for each in pictures()]), normalize=True).numpy()
    np.testing.assert_allclose(models[kind].encode_images(pictures()), wanted, rtol=0, atol=GOLDEN)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "siglip"])
def test_sentences_get_the_embeddings_that_open_clip_gives_them(kind: str, models: dict[str, Model]) -> None:
    theirs = built(CONFIGS[kind]["model_cfg"])
    ids = open_clip.SimpleTokenizer(context_length=CONFIGS[kind]["model_cfg"]["text_cfg"]["context_length"])(TEXTS)
    with torch.inference_mode():
        wanted = theirs.encode_text(ids, normalize=True).numpy()
    np.testing.assert_allclose(models[kind].encode_texts(TEXTS), wanted, rtol=0, atol=GOLDEN)


def test_sentences_of_siglip_are_padded_to_its_context(models: dict[str, Model]) -> None:
    theirs, context = built(CONFIGS["siglip"]["model_cfg"]), 16
    tokenizer = models["siglip"].tokenizer
    texts = ["A photo, of: the DOG!", "red"]
    ids, mask = tokenizer.encode(texts)
    assert ids.shape == (2, context)
    assert (ids[mask == 0] == 1).all()  # what its tokenizer_config.json pads with
    np.testing.assert_array_equal(ids, tokenizer.encode(["a photo of the dog", "red"])[0])
    with torch.inference_mode():
        wanted = theirs.encode_text(torch.from_numpy(ids), normalize=True).numpy()
    np.testing.assert_allclose(models["siglip"].encode_texts(texts), wanted, rtol=0, atol=GOLDEN)


def test_a_batch_for_a_causal_tower_is_only_as_long_as_its_longest_sentence(models: dict[str, Model]) -> None:
    assert models["vit"].tokenizer.encode(["a dog"])[0].shape[1] < 8
    assert models["mobile"].tokenizer.encode(["a dog"])[0].shape[1] == 77
