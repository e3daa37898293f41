"""The small frozen values that pass between rooms. Standard library and numpy types only; no behaviour worth a test."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal

Kind = Literal["image", "text"]
IndexKind = Literal["exact", "sqfp16", "ivfpq"]
Status = Literal["ok", "partial", "error"]
RankedBy = Literal["similarity", "itm"]
RootTrouble = Literal["gone", "empty", "another device"]


class Reason(enum.StrEnum):
    """Why a file could not be read. The values are part of the JSON contract."""

    EMPTY = "empty"
    UNIDENTIFIED = "unidentified"
    TRUNCATED = "truncated"
    TOO_LARGE = "too_large"
    TIMEOUT = "timeout"
    CRASHED = "crashed"
    PERMISSION = "permission"
    CHANGED = "changed"
    UNSUPPORTED_INSIDE = "unsupported_inside"


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How an upright RGB picture becomes the pixels of one model: uint8 (3, height, width).

    `squash` ignores the aspect ratio; `crop` scales the shorter side and cuts the centre; `longest` scales the longer
    side and leaves `fill`, from 0 to 255, in all channels beside the picture.
    """

    height: int
    width: int
    resize: Literal["squash", "crop", "longest"] = "squash"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    fill: int = 0


@dataclass(frozen=True, slots=True)
class Skipped:
    """One file that could not be read. `path` is surrogateescaped, as `os.fsdecode` gives it."""

    path: str
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class Hit:
    """One answer to a query, best first by `score`.

    `rank` starts at 1. `similarity` is always the raw cosine in [-1, 1]; `score` is what the order follows: the cosine,
    or where the search was reranked, the cosine corrected for hubs and, if `ranked_by` is "itm", with what the matching
    head said, whose `match_prob` in [0, 1] is how likely query and item belong together. `path` is a str with
    surrogateescape, so `open(hit.path)` works for every name. `part` numbers the passage or row inside a text file;
    `locator` names it for a person ("line 12"). `missing` is true when the file was not to be seen at the last look at
    its root.
    """

    rank: int
    id: int
    kind: Kind
    path: str
    part: int
    locator: str | None
    score: float
    ranked_by: RankedBy
    similarity: float
    match_prob: float | None
    text: str | None
    missing: bool


@dataclass(frozen=True, slots=True)
class Tag:
    """One label of a photo. `probability` is its share among all labels that were asked for, which together have 1;
    `similarity` is the raw cosine behind it, in [-1, 1].
    """

    label: str
    probability: float
    similarity: float


@dataclass(frozen=True, slots=True)
class PhotoTags:
    """The likeliest labels of one photo, best first; none where no label is likely enough.

    `path` is absolute, a str with surrogateescape. `id` is the item's in the collection, None for a file read from the
    disk. `missing` is as in `Hit`. A file that could not be read has no tags, and says why in `skipped`.
    """

    path: str
    tags: tuple[Tag, ...]
    id: int | None = None
    missing: bool = False
    skipped: Skipped | None = None


@dataclass(frozen=True, slots=True)
class SwitchInfo:
    """A change of a collection's model: `embedded` of the `items` that a query should find have their embedding by the
    new `model`. Until it is `done`, the old model answers.
    """

    model: str
    fingerprint: str
    dim: int
    embedded: int
    items: int
    done: bool = False


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What one run of indexing did. Counts are files; `items` is what the collection holds afterwards (rows that can
    be found).

    `failed_before` are files that failed in an earlier run, have not changed since, and were not tried again.
    `warnings` are sentences for a person (a root that is gone, files that are other than their names say). `switch` is
    there for a run that was to change the model.
    """

    indexed: int
    unchanged: int
    moved: int
    missing: int
    removed: int
    ignored: int
    failed_before: int
    items: int
    skipped: tuple[Skipped, ...]
    seconds: float
    interrupted: bool = False
    warnings: tuple[str, ...] = ()
    switch: SwitchInfo | None = None


@dataclass(frozen=True, slots=True)
class RootInfo:
    """One registered root: its `path` (str with surrogateescape) and what is wrong with it now, None if healthy."""

    path: str
    trouble: RootTrouble | None


@dataclass(frozen=True, slots=True)
class IndexUse:
    """One part of a collection that is searched by itself: `rows` of one kind, with a vector index of the kind `index`
    ("exact", ...) stored for them.
    """

    kind: Kind
    rows: int
    index: str


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """What a collection holds and how it is answered from.

    `model`, `fingerprint` and `dim` are None, and `snapshot` is 0, before the first run of indexing. `images`,
    `texts` are rows that can be found, `partial` and `missing` are among them; `failed` counts the files that could
    not be read, by reason, most first. `index_kinds` names the kinds of vector index in use ("exact", ...),
    `indexes` says what each part of the collection has.
    `disk_bytes` is everything under `path`. `matchable` counts the images, missing ones included, that a search can
    look at again with a matching head. `switch` is a change to another model that is under way, and `ways_out` how to
    go on with it or give it up, in words; `kept_models` are the names of those whose embeddings are kept, so that
    going back to one is quick.
    """

    path: str
    format: int
    snapshot: int
    model: str | None
    fingerprint: str | None
    dim: int | None
    roots: tuple[RootInfo, ...]
    images: int
    texts: int
    partial: int
    missing: int
    failed: tuple[tuple[Reason, int], ...]
    index_kinds: tuple[str, ...]
    segments: int
    disk_bytes: int
    matchable: int = 0
    switch: SwitchInfo | None = None
    kept_models: tuple[str, ...] = ()
    indexes: tuple[IndexUse, ...] = ()
    ways_out: str | None = None


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What a repair found: a sentence for each thing that was mended, none when everything was in order.

    `items` can be found now; of those that had lost their embedding `embedded` got a new one, and `without_embedding`
    wait for their originals: some of them may be found as they were before, the others come back with the next `index`
    of their folders. `interrupted`: it was asked to stop, and what is mended is not published yet.
    """

    mended: tuple[str, ...]
    items: int
    without_embedding: int
    embedded: int = 0
    interrupted: bool = False


@dataclass(frozen=True, slots=True)
class Damage:
    """One stored file that is not what it was: its `path` (str with surrogateescape), what is wrong with it, and what
    mends it.
    """

    path: str
    what: str
    remedy: str


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What a look at everything that is stored found. `ok` is whether nothing is damaged.

    `files` were looked at, without `read_data` most of them for their size alone; `bytes` were read. `unrecorded` files
    have no checksum yet, the next `index` records them; `without_embedding` items are found only after it.
    `quarantine` names what was moved there, `notes` are sentences for a person.
    """

    ok: bool
    read_data: bool
    files: int
    bytes: int
    damaged: tuple[Damage, ...]
    unrecorded: int
    without_embedding: int
    quarantine: tuple[str, ...]
    notes: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class OptimizeReport:
    """What optimizing a collection did: bytes on the disk, files with rows of the tables, and segments, each before and
    after. Old versions go a day later: until then the size may grow. `warnings` are sentences for a person.
    """

    bytes_before: int
    bytes_after: int
    fragments_before: int
    fragments_after: int
    segments_before: int
    segments_after: int
    items: int
    warnings: tuple[str, ...]
    seconds: float
