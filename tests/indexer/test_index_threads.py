"""The setting `threads` holds for building an index too, whatever has it built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmsearch import segment_writer
from mmsearch.collection import Collection
from mmsearch.settings import Settings
from mmsearch.vector_index import build_index


def test_adding_optimizing_and_repairing_build_with_the_threads_of_the_settings(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int | None] = []

    def recorded(vectors: Any, *, kind: Any, threads: int | None) -> Any:
        asked.append(threads)
        return build_index(vectors, kind=kind, threads=threads)

    monkeypatch.setattr(segment_writer, "build_index", recorded)
    for number in range(4):
        folder = tmp_path / ("many" if number else "one")
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (16, 12), (60 * number, 0, 90)).save(folder / f"{number}.png")
    settings = Settings(threads=3, workers=1)
    with Collection.open(tmp_path / "c", model=tiny_model_dir, settings=settings) as collection:
        collection.add([tmp_path / "many"])
        collection.add([tmp_path / "one"])
        assert asked == [3, 3]
        asked.clear()
        collection.optimize()
        assert asked == [3]
        asked.clear()
        for path in (tmp_path / "c").glob("segments/*/vectors.npy"):
            path.write_bytes(b"")
        collection.repair()
        assert asked == [3]
