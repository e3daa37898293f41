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
from mmsearch.model_lookup import find_model, load_named, reference

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


def test_a_name_means_what_is_installed_or_bundled_first_and_then_the_collections_own(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    tiny = reference(load_model(tiny_model_dir, threads=1))
    masked = replace(tiny, name="mini")
    assert load_named("tiny", [tiny], load=LOAD).fingerprint == tiny.fingerprint
    assert load_named("mini", [masked], load=LOAD).name == "mini"
    assert load_named(tiny_model_dir, [tiny], load=LOAD).fingerprint == tiny.fingerprint
    with pytest.raises(ModelError, match="no model is called 'tiny'"):
        load_named("tiny", [masked], load=LOAD)


def test_a_name_of_two_models_of_a_collection_is_refused_with_both_places(tiny_model_dir: Path, tmp_path: Path) -> None:
    first = reference(load_model(tiny_model_dir, threads=1))
    second = reference(load_model(write_tiny_model(tmp_path / "second", name="tiny", seed=1), threads=1))
    with pytest.raises(ModelError, match=rf"2 models of the collection: say which: .*{tiny_model_dir}") as caught:
        load_named("tiny", [first, second], load=LOAD)
    assert str(tmp_path / "second") in str(caught.value)
