"""A hub that answers with something else than it documents is one sentence, and fills no disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fake_hub import FakeHub
from hub_model import DIRECTORY, NAME, REPOSITORY, WEIGHTS, hub_config, left_behind, tiny_files

ODD_SIBLINGS: list[Any] = [
    "a string",
    {"rfilename": "x"},
    ["open_clip_config.json"],
    [None],
    [{"size": 1, "blobId": "0" * 40}],
    [{"rfilename": ["x"], "size": 1, "blobId": "0" * 40}],
    [{"rfilename": "x", "size": "1", "blobId": "0" * 40}],
    [{"rfilename": "x", "size": -1, "blobId": "0" * 40}],
    [{"rfilename": "x", "size": True, "blobId": "0" * 40}],
    [{"rfilename": "x", "size": 1, "blobId": ["0"]}],
    [{"rfilename": "x", "size": 1, "lfs": ["sha256"]}],
    [{"rfilename": "x", "size": 1, "lfs": {"size": 1}}],
    [{"rfilename": "x", "size": 1, "lfs": {"size": 1, "sha256": 5, "pointerSize": 1}}],
    [{"rfilename": "x", "size": 1, "lfs": {"size": None, "sha256": "0" * 64, "pointerSize": 1}}],
]


@pytest.mark.parametrize(
    "changed",
    [
        *({"siblings": each} for each in ODD_SIBLINGS),
        *({"id": each} for each in (5, None, ["x"])),
        *({"sha": each} for each in (5, ["main"])),
        {"tags": "license:mit"},
        {"tags": 7},
        {"cardData": ["x"], "safetensors": ["x"]},
    ],
    ids=lambda changed: json.dumps(changed)[:60],
)
def test_a_listing_that_is_none_is_one_sentence(
    changed: dict[str, Any], hub: FakeHub, models_command: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = hub.listing(REPOSITORY)
    monkeypatch.setattr(hub, "listing", lambda repository: {**listing, **changed})
    error = models_command("pull", NAME).error
    assert "unexpected" not in error
    assert "cannot be read" in error and "huggingface_hub" in error
    assert not store.exists()


@pytest.mark.parametrize("answer", [[], ["x"], "x", 5, None])
def test_an_answer_that_is_no_table_is_one_sentence(
    answer: Any, hub: FakeHub, models_command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "listing", lambda repository: answer)
    assert "unexpected" not in models_command("pull", NAME).error


def test_more_bytes_than_stated_are_not_written(
    hub: FakeHub, models_command: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, most = tiny_files(), 0

    def http_get(url: str, target: Any, *, resume_size: int, **others: Any) -> None:
        nonlocal most
        name = url.rpartition("/")[2]
        for _ in range(1000 if name == WEIGHTS else 1):
            target.write(files[name])
            most = max(most, target.tell())

    monkeypatch.setattr("huggingface_hub.file_download.http_get", http_get)
    error = models_command("pull", NAME).error
    assert f"sends more of {WEIGHTS}" in error and f"{len(files[WEIGHTS]):,} bytes" in error
    assert most == len(files[WEIGHTS])
    assert not (store / DIRECTORY).exists()
    # What was whole before it waits; what was not is gone.
    assert all((store / each).stat().st_size < 10_000 for each in left_behind(store))


@pytest.mark.parametrize("part", ["model_cfg", "preprocess_cfg", "vision_cfg", "text_cfg"])
@pytest.mark.parametrize("value", [["x"], "x", 5])
def test_a_configuration_of_other_kinds_is_one_sentence_or_harmless(
    part: str, value: Any, hub: FakeHub, models_command: Any, store: Path
) -> None:
    config = hub_config()
    (config["model_cfg"] if part in config["model_cfg"] else config)[part] = value
    hub.add(REPOSITORY, {**tiny_files(), "open_clip_config.json": json.dumps(config).encode()})
    outcome = models_command("pull", NAME)
    if outcome.code:
        assert "unexpected" not in outcome.error
        assert not (store / DIRECTORY).exists()


@pytest.mark.parametrize(
    ("part", "key"),
    [("preprocess_cfg", key) for key in ("mean", "std", "interpolation", "resize_mode", "fill_color")]
    + [("vision_cfg", key) for key in ("image_size", "timm_model_name")]
    + [
        ("text_cfg", key)
        for key in ("context_length", "hf_tokenizer_name", "hf_model_name", "tokenizer_kwargs", "pool_type")
    ],
)
@pytest.mark.parametrize("value", [["x"], {"x": 1}, "x", 1e300])
def test_a_setting_of_another_kind_is_one_sentence_or_harmless(
    part: str, key: str, value: Any, hub: FakeHub, models_command: Any, store: Path
) -> None:
    config = hub_config()
    (config["model_cfg"][part] if part in config["model_cfg"] else config[part])[key] = value
    hub.add(REPOSITORY, {**tiny_files(), "open_clip_config.json": json.dumps(config).encode()})
    outcome = models_command("pull", NAME)
    if outcome.code:
        assert "unexpected" not in outcome.error
        assert not (store / DIRECTORY).exists()


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "open_clip_config.json"])
@pytest.mark.parametrize("content", [b"[]", b"5", b'"x"', b"{", b"{}", b"[" * 100_000, b"\xff\xfe"])
def test_a_file_that_is_other_json_is_one_sentence_or_harmless(
    name: str, content: bytes, hub: FakeHub, models_command: Any, store: Path
) -> None:
    hub.add(REPOSITORY, {**tiny_files(), name: content})
    outcome = models_command("pull", NAME)
    if outcome.code:
        assert "unexpected" not in outcome.error
        assert not (store / DIRECTORY).exists()
