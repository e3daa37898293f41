"""What reliability means here, numbered: bad inputs (C), faults (F), security (S), figures (L), protections (P), and
promises (R).

Tests say with `@pytest.mark.case("C4", "F10")` and `@pytest.mark.promise("R4")` what they prove. The number of a case
is never used for another one.
"""

from __future__ import annotations

from dataclasses import dataclass

from cases_faults import FAULTS
from cases_inputs import BAD_INPUTS
from cases_security import FIGURES, SECURITY


@dataclass(frozen=True)
class Case:
    """One way things go wrong. With `needs_server` it is about `mmsearch serve`, and comes with it."""

    title: str
    category: str
    needs_server: bool = False


@dataclass(frozen=True)
class Promise:
    """What a user may rely on, in one sentence."""

    text: str
    needs_server: bool = False


def _numbered(letter: str, groups: dict[str, dict[int, str]]) -> dict[str, Case]:
    return {
        f"{letter}{number}": Case(title, category.removesuffix(_SERVER), category.endswith(_SERVER))
        for category, titles in groups.items()
        for number, title in titles.items()
    }


_SERVER = " (server)"

CASES: dict[str, Case] = {
    **_numbered("C", BAD_INPUTS),
    **_numbered("F", FAULTS),
    **_numbered("S", SECURITY),
    **_numbered("L", FIGURES),
    "P1": Case("each protection, taken away: its test fails", "protections"),
}

PROMISES: dict[str, Promise] = {
    "R1": Promise("Your photos and texts are never written, moved, renamed or deleted."),
    "R2": Promise(
        "Any command may be killed at any instant. The next one works with nothing to mend by hand, and repeats at "
        "most the batch that was under way."
    ),
    "R3": Promise(
        "After a power cut a collection opens as it was last published, or one publication before, and says which."
    ),
    "R4": Promise(
        "A file that cannot be read costs that file alone. It is recorded with a reason, listed by `mmsearch info "
        "--errors`, and tried again when it changes or with `mmsearch index --retry-failed`."
    ),
    "R5": Promise("A drive that is missing, or mounted empty, never removes results."),
    "R6": Promise("Exit codes are part of the interface: 0, 1, 2, 3, 4, 5 and 130 mean what the documentation says."),
    "R7": Promise(
        "`mmsearch check --read-data` finds any single flipped bit in what a collection stores, and `mmsearch repair` "
        "makes it answer again."
    ),
    "R8": Promise(
        "The server never serves a byte from outside indexed roots, listens to this computer alone unless told "
        "otherwise, and turns foreign hosts and origins away.",
        needs_server=True,
    ),
    "R9": Promise("Nothing goes to a network but `mmsearch models pull`."),
    "R10": Promise(
        "No pickle is ever loaded, but a checkpoint that you said you trust, with torch's weights-only reader."
    ),
}
