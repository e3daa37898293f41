from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import platformdirs
import pytest

from mmsearch.errors import UsageError
from mmsearch.settings import Settings, config_file, load_settings, resolve_collection


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_without_file_and_environment_the_defaults_hold() -> None:
    assert load_settings() == Settings(collection="default", model="mini", threads=0, workers=0, decode_timeout=20.0)


def test_zero_threads_and_workers_mean_the_cpus_of_this_process() -> None:
    cpus = len(os.sched_getaffinity(0))
    assert (Settings().thread_count, Settings().worker_count) == (cpus, cpus)
    assert (Settings(threads=3).thread_count, Settings(workers=5).worker_count) == (3, 5)


def test_the_platform_file_is_read_and_the_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    written(config_file(), 'collection = "photos"\nthreads = 4\nworkers = 3\ndecode_timeout = 5\n')
    monkeypatch.setenv("MMSEARCH_THREADS", "2")
    monkeypatch.setenv("MMSEARCH_DECODE_TIMEOUT", "2.5")
    monkeypatch.setenv("MMSEARCH_WORKERS", "")
    assert load_settings() == Settings(collection="photos", threads=2, workers=3, decode_timeout=2.5)


def test_every_setting_has_its_variable() -> None:
    environ = {
        "MMSEARCH_COLLECTION": "c",
        "MMSEARCH_MODEL": "./m",
        "MMSEARCH_THREADS": "1",
        "MMSEARCH_WORKERS": "2",
        "MMSEARCH_DECODE_TIMEOUT": "3",
        "MMSEARCH_DEVICE": "cpu",
        "MMSEARCH_PRECISION": "bf16",
        "MMSEARCH_INDEX": "ivfpq",
    }
    assert set(environ) == {f"MMSEARCH_{each.name.upper()}" for each in dataclasses.fields(Settings)}
    assert load_settings(environ) == Settings("c", "./m", 1, 2, 3.0, "cpu", "bf16", "ivfpq")


def test_kind_of_index_is_none_unless_one_is_asked_for() -> None:
    assert [Settings(index=each).index_kind for each in ("auto", "exact")] == [None, "exact"]


@pytest.mark.case("F27")
@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("thread = 4", "unknown key 'thread'; did you mean 'threads'"),
        ("threads = true", "threads is True: expected a whole number"),
        ("threads = 1.5", "threads is 1.5: expected a whole number"),
        ("threads = -1", "threads is -1: expected 0"),
        ("collection = 4", "collection is 4: expected text"),
        ("decode_timeout = 'soon'", "decode_timeout is 'soon': expected a number of seconds"),
        ("index = 'hnsw'", "index is 'hnsw': expected one of auto, exact, sqfp16, ivfpq"),
        ("device = 'tpu'", "device is 'tpu': expected one of auto, cpu, cuda, mps"),
        ("decode_timeout = inf", "decode_timeout is inf: expected seconds"),
        ("decode_timeout = nan", "decode_timeout is nan: expected seconds"),
        ("threads = ", "is not TOML"),
        ("[threads]", "threads is {}: expected a whole number"),
    ],
)
def test_a_bad_settings_file_is_refused_by_key(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_settings({}, config=written(tmp_path / "config.toml", text))
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_settings_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b'collection = "\xff"')
    with pytest.raises(UsageError, match="is not TOML"):
        load_settings({}, config=path)


def test_a_variable_that_is_no_number_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="MMSEARCH_THREADS is 'two': expected a whole number"):
        load_settings({"MMSEARCH_THREADS": "two"})


def test_a_name_lives_in_the_user_data_directory() -> None:
    expected = Path(platformdirs.user_data_path("mmsearch"), "collections", "my-photos_2")
    assert resolve_collection("my-photos_2") == expected
    assert str(expected).startswith(os.environ["XDG_DATA_HOME"])


@pytest.mark.parametrize("text", [".", "..", "./x", "x/y", "/x", "x/", "photos.idx"])
def test_a_separator_or_a_dot_makes_it_a_directory(text: str) -> None:
    assert resolve_collection(text) == Path(os.path.abspath(text))


def test_a_path_object_is_a_directory_whatever_it_is_called() -> None:
    assert resolve_collection(Path("photos")) == Path.cwd() / "photos"


def test_a_home_directory_in_a_setting_is_expanded() -> None:
    assert resolve_collection("~/index") == Path(os.environ["HOME"], "index")


def test_a_home_directory_of_nobody_is_a_name_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_collection("~nobody-of-that-name/photos") == tmp_path / "~nobody-of-that-name" / "photos"


def test_without_a_value_the_settings_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_collection().name == "default"
    monkeypatch.setenv("MMSEARCH_COLLECTION", "./here")
    assert resolve_collection() == Path.cwd() / "here"


@pytest.mark.parametrize("text", ["", "my photos", "photos;", "bücher", "a\0b", "./a\0b", "-\x1b[2J"])
def test_neither_name_nor_directory_is_refused_and_shown_escaped(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve_collection(text)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["./a\nb", "./a\x1b", "./caf\udce9", "./a\x7f"])
def test_a_collection_in_a_directory_that_the_tables_cannot_live_in_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for given in (name, Path(name), Path(name) / "inside"):
        with pytest.raises(UsageError, match="control characters or bytes that are not UTF-8"):
            resolve_collection(given)
    (tmp_path / name).mkdir()
    monkeypatch.chdir(name)
    with pytest.raises(UsageError, match="control characters"):
        resolve_collection("./plain")


def test_a_collection_may_have_any_other_name(tmp_path: Path) -> None:
    assert resolve_collection(tmp_path / "Fotos für später 犬 100%") == tmp_path / "Fotos für später 犬 100%"
