"""docs/RELIABILITY.md, from the cases, the promises, the protections and the tests that are marked with them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cases import CASES, PROMISES, Case
from cases_untested import FULL_ALONE, UNTESTED

_HEAD = """# Reliability

What you may rely on, what was tried to break it, and the tests that keep it so. This page is written from the tests
themselves, and one of them fails when it says anything else:

```sh
python -m pytest tests --collect-only -q --reliability-page=docs/RELIABILITY.md   # writes it anew
```

## Running it

```sh
python -m pytest tests/reliability                       # the quick tier: minutes; a part of `python -m pytest`
python -m pytest tests -m "case or promise" --full       # the full tier: within 90 minutes on two cores
python tests/reliability/protections.py                  # takes each protection away and shows which test misses it
```

Each run ends with a table: by category how many cases were tried, passed, failed and were skipped. The full tier needs
Linux, root, and the programs `strace`, `mount` and `unshare`; there a test that misses its tool is a failure, elsewhere
a skip with its reason.
"""
UNEXPLAINED = "no reason is given"
_NOT_TESTED = """## What is not tested

- Real power cuts. They are simulated: what was not synced is emptied or cut before the collection is opened again.
- Windows and macOS: this version runs on Linux.
- Network file systems (NFS, SMB), FAT and exFAT. A collection on a file system without hard links is refused; photos
  may lie anywhere.
- Disks that give back other bytes than were written, beyond what checksums find.
- Decoders: libjpeg-turbo, libtiff, libwebp, libheif and the like are fuzzed by their makers, not here. They run in
  processes of their own, with limits.
"""


@dataclass(frozen=True)
class MarkedTest:
    """A test function (node id without parameters), what its marks name, and whether it is of the full tier alone."""

    function: str
    names: frozenset[str]
    full: bool


def render(tests: Iterable[MarkedTest]) -> str:
    """The page."""
    proofs = proofs_of(tests)
    waiting = {name: case for name, case in CASES.items() if case.needs_server}
    parts = [_HEAD, *_promises(proofs), *_table(proofs), *_cases(proofs), *_protections()]
    parts += ["## What comes with the server\n", *(f"- {name} {case.title}" for name, case in waiting.items()), ""]
    parts += _section("Cases of the full tier alone", _full_alone(proofs))
    parts += _section("Cases without a test of their own", _without_tests(proofs))
    parts += _section("Where the product does otherwise than it was designed to", _notes())
    return "\n".join([*parts, _NOT_TESTED])


def proofs_of(tests: Iterable[MarkedTest]) -> dict[str, dict[str, bool]]:
    """By case and promise, each test function that proves it, in order, and whether it is of the full tier alone."""
    proofs: dict[str, dict[str, bool]] = {}
    for test in sorted(tests, key=lambda test: test.function):
        for name in test.names:
            proofs.setdefault(name, {})[test.function] = proofs.get(name, {}).get(test.function, True) and test.full
    return proofs


def _without_tests(proofs: dict[str, dict[str, bool]]) -> dict[str, str]:
    names = [name for name, case in CASES.items() if name not in proofs and not case.needs_server]
    return {name: UNTESTED.get(name, UNEXPLAINED) for name in names}


def _full_alone(proofs: dict[str, dict[str, bool]]) -> dict[str, str]:
    names = [name for name in CASES if name in proofs and all(proofs[name].values())]
    return {name: FULL_ALONE.get(name, UNEXPLAINED) for name in names}


def _notes() -> dict[str, str]:
    # As with the protections: the corpus is made with more than every run of pytest needs.
    from corpus import notes

    return {name: "; ".join(told) for name, told in notes().items()}


def _section(title: str, told: dict[str, str]) -> Iterator[str]:
    if told:
        yield f"## {title}\n"
        yield from (f"- {name} {CASES[name].title}: {why}" for name, why in told.items())
        yield ""


def _promises(proofs: dict[str, dict[str, bool]]) -> Iterator[str]:
    yield "## Promises\n"
    for name, promise in PROMISES.items():
        yield f"**{name}** {promise.text}"
        yield from _tests(proofs.get(name, {}))
        if promise.needs_server:
            yield "\nComes with the server."
        yield ""


def _tests(functions: dict[str, bool]) -> Iterator[str]:
    if functions:
        yield ""
    for function, full in functions.items():
        yield f"- `{function.removeprefix('tests/')}`{' (full tier)' if full else ''}"


def _table(proofs: dict[str, dict[str, bool]]) -> Iterator[str]:
    yield "## Cases by category\n"
    yield "| category | cases | tested in the quick tier | in the full tier alone | with the server |"
    yield "|---|---:|---:|---:|---:|"
    categories = dict.fromkeys(case.category for case in CASES.values())
    for category in categories:
        cases = {name: case for name, case in CASES.items() if case.category == category}
        yield f"| {category} | {_counts(cases, proofs)} |"
    yield f"| all | {_counts(CASES, proofs)} |\n"


def _counts(cases: dict[str, Case], proofs: dict[str, dict[str, bool]]) -> str:
    tested = [proofs[name] for name in cases if name in proofs]
    quick = sum(not all(functions.values()) for functions in tested)
    waiting = sum(case.needs_server for case in cases.values())
    return " | ".join(map(str, (len(cases), quick, len(tested) - quick, waiting)))


def _cases(proofs: dict[str, dict[str, bool]]) -> Iterator[str]:
    yield "## Every case\n"
    yield "Beside each stands one of its tests; *full* stands for the full tier alone.\n"
    category = ""
    for name, case in CASES.items():
        if case.needs_server:
            continue
        if case.category != category:
            category = case.category
            yield f"\n### {category[0].upper()}{category[1:]}\n"
            yield "| | what happens | tests |"
            yield "|---|---|---|"
        yield f"| {name} | {case.title.replace('|', chr(92) + '|')} | {_short(name, proofs)} |"
    yield ""


def _short(name: str, proofs: dict[str, dict[str, bool]]) -> str:
    """The first test, of the quick tier where there is one, and how many more there are; or why there is none."""
    functions = proofs.get(name)
    if functions is None:
        return f"none: {UNTESTED.get(name, UNEXPLAINED)}"
    function = min(functions, key=lambda name: (functions[name], not name.startswith("tests/reliability"), name))
    told = f"`{function.rpartition('/')[2]}`{' *full*' if functions[function] else ''}"
    return told if len(functions) == 1 else f"{told} and {len(functions) - 1} more"


def _protections() -> Iterator[str]:
    # Only when it is written: every run of pytest loads this module, and a slip in one list must not end them all.
    from protections import PROTECTIONS

    yield "## Protections\n"
    yield "Each was taken away, and the test beside it failed. The full tier does that again.\n"
    yield "| protection | where | test that misses it |"
    yield "|---|---|---|"
    for each in PROTECTIONS:
        file, _, function = each.test.partition("::")
        test = "::".join(filter(None, (file.rpartition("/")[2], function.split("[")[0])))
        yield f"| {each.name} | `{each.file}` | `{test}` |"
    yield ""
