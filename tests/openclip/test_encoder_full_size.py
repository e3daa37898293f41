"""The real ViT-B-32, at its full size: the same embeddings as open_clip's own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from mmsearch.model import load_model
from mmsearch.openclip_weights import unfilled


@pytest.mark.slow
def test_vit_b_32_gives_what_open_clip_gives(tmp_path: Path) -> None:
    settings = open_clip.get_model_config("ViT-B-32")
    with unfilled():
        theirs = open_clip.CLIP(**settings).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif parameter.ndim > 1 or "embedding" in name:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
    config = {"model_cfg": settings, "preprocess_cfg": {}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(theirs.state_dict(), tmp_path / "open_clip_model.safetensors")
    model = load_model(tmp_path, device="cpu", precision="fp32")
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    picture, texts = Image.fromarray(pixels), ["a photo of a dog", "two cats"]
    transform = open_clip.image_transform(224, is_train=False)
    with torch.inference_mode():
        image = theirs.encode_image(transform(picture)[None], normalize=True).numpy()
        sentences = theirs.encode_text(open_clip.tokenize(texts), normalize=True).numpy()
    np.testing.assert_allclose(model.encode_images([picture]), image, rtol=0, atol=1e-5)
    np.testing.assert_allclose(model.encode_texts(texts), sentences, rtol=0, atol=1e-5)
