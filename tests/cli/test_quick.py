"""The short way means what the long way means, or steps aside."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running import CHECKOUT, in_process, python
from small_collection import SmallCollection

from mmsearch.cli import query as query_module
from mmsearch.cli.main import run
from mmsearch.cli.query_answer import QueryArguments
from mmsearch.cli.quick import parse_query

WORDS = st.sampled_from(
    [
        *("red", "a dog", "-", "--", "", "a.jpg", "é", "images", "texts", "text"),
        *("3", "0", "-1", "-5", "+5", "007", "1e2", "0.5", ".5", "-0.5", "1.5", "nan", "1_0", "\u0663"),
        *("--help", "-h", "--debug", "-0", "--json", "--paths", "--print0", "--rerank", "--no-rerank"),
        *("-k", "--text", "--image", "--to", "--under", "--min-similarity", "--text-weight", "--collection", "--model"),
        *("--text=red", "-k3", "-0k3", "--tex", "--to=texts", "--unknown"),
    ]
)


def the_long_way(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> QueryArguments | None:
    """What the full parser makes of `arguments`, None when it refuses them or shows help."""
    asked: list[QueryArguments] = []
    with monkeypatch.context() as patch:
        patch.setattr(query_module, "answer", asked.append)
        run(arguments)
    return asked[0] if asked else None


@settings(max_examples=300, deadline=None)
@given(words=st.lists(WORDS, max_size=6))
def test_what_the_short_way_understands_it_understands_like_the_long_way(words: list[str]) -> None:
    asked = parse_query(["query", *words])
    if asked is not None:
        with pytest.MonkeyPatch.context() as monkeypatch:
            assert asked == the_long_way(["query", *words], monkeypatch)


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ([], QueryArguments()),
        (["red", "-k", "3", "--paths"], QueryArguments("red", k=3, paths=True)),
        (["-0", "--to", "texts", "--image", "a b.jpg"], QueryArguments(image="a b.jpg", to="texts", print0=True)),
        (["--text", "x", "--min-similarity", "-0.25"], QueryArguments(text="x", min_similarity=-0.25)),
        (["-", "--json", "--no-rerank"], QueryArguments("-", as_json=True, rerank=False)),
        (["x", "--collection", "c", "--model", "m"], QueryArguments("x", collection="c", model="m")),
        (["x", "--under", "/p", "--text-weight", "1"], QueryArguments("x", under="/p", text_weight=1.0)),
    ],
)
def test_plain_queries_go_the_short_way(words: list[str], asked: QueryArguments) -> None:
    assert parse_query(["query", *words]) == asked


@pytest.mark.parametrize(
    "words",
    [
        *(["--help"], ["red", "green"], ["-k", "0"], ["-k"], ["--to", "videos"], ["--debug", "x"]),
        *(["-k", "1", "-k", "2"], ["--min-similarity", "2"], ["--text", "-k"], ["--", "x"], ["--text=x"]),
    ],
)
def test_whatever_is_not_plain_goes_the_long_way(words: list[str]) -> None:
    assert parse_query(["query", *words]) is None


def test_other_commands_go_the_long_way() -> None:
    assert [parse_query(words) for words in ([], ["info"], ["--debug", "query", "x"])] == [None] * 3


def test_a_plain_query_never_loads_the_parser(at_small: SmallCollection) -> None:
    script = "import sys, mmsearch.cli.quick as q; q.run_quickly(['query', 'red', '--paths']); print(*sys.modules)"
    outcome = python("-c", script)
    assert outcome.lines[0] == at_small.photo("red")
    assert not {"typer", "click", "rich", "pydantic"} & {name.split(".")[0] for name in outcome.lines[-1].split()}


@pytest.mark.parametrize("words", [["red", "--json"], ["red", "-k", "2"], ["nothing.jpg"], ["red", "--under", "/none"]])
def test_both_ways_print_the_same(at_small: SmallCollection, words: list[str]) -> None:
    short = in_process("query", *words)
    long = python("-c", f"import sys; sys.argv[1:] = {['query', *words]!r}; from mmsearch.cli.main import main; main()")
    assert (short.code, short.err) == (long.code, long.err)
    assert short.out.partition(b'"timing_ms"')[0] == long.out.partition(b'"timing_ms"')[0]


def test_all_output_arrives_before_the_process_ends_at_once(at_small: SmallCollection, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    with (tmp_path / "out").open("wb") as out:
        command = [sys.executable, "-m", "mmsearch", "query", "red", "-k", "8", "-0"]
        assert subprocess.run(command, stdout=out, env=environment, timeout=60, check=False).returncode == 0
    assert (tmp_path / "out").read_bytes().count(b"\0") == 8


def test_ending_at_once_loses_nothing_that_was_written() -> None:
    script = "import sys; sys.stdout.write('x'); from mmsearch.cli.outcome import end_at_once; end_at_once(3)"
    outcome = python("-c", script)
    assert (outcome.code, outcome.out) == (3, b"x")
