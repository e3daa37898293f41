"""A collection's model is found where it was, by its name, or where the settings say; never a different one."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from tiny_model import write_tiny_model

from mmsearch.errors import ModelError
from mmsearch.manifest import ModelRef
from mmsearch.model import load_model
from mmsearch.model_lookup import find_model, reference

LOAD = partial(load_model, threads=1)


def test_a_directory_is_remembered_absolute_and_a_bundled_model_by_name(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_model_dir.parent)
    model = load_model("./tiny", threads=1)
    assert reference(model) == ModelRef("tiny", model.fingerprint, 16, str(tiny_model_dir))
    mini = reference(load_model("mini", threads=1))
    assert (mini.name, mini.location) == ("mini", None)
    assert find_model(mini, load=LOAD).fingerprint == mini.fingerprint


def test_it_is_looked_for_where_it_was_then_by_name_then_in_the_settings(tiny_model_dir: Path, tmp_path: Path) -> None:
    wanted = reference(load_model(tiny_model_dir, threads=1))
    assert find_model(wanted, load=LOAD).manifest.directory == tiny_model_dir
    moved = replace(wanted, location=str(tmp_path / "gone"))
    assert find_model(moved, fallback=tiny_model_dir, load=LOAD).fingerprint == wanted.fingerprint
    mini = load_model("mini", threads=1)
    stale = replace(reference(mini), location=str(tiny_model_dir))
    assert find_model(stale, load=LOAD).fingerprint == mini.fingerprint


def test_what_stands_there_instead_is_not_taken_for_it(tiny_model_dir: Path, tmp_path: Path) -> None:
    wanted = reference(load_model(tiny_model_dir, threads=1))
    other = write_tiny_model(tmp_path / "other", name="tiny", seed=1)
    with pytest.raises(ModelError, match=rf"'tiny'.*{wanted.fingerprint}.*{other} has the fingerprint.*index --model"):
        find_model(replace(wanted, location=str(other)), fallback="mini", load=LOAD)
