"""What a model's name leads to on the hub: which files, how many bytes, which licence. None of it is fetched here."""

from __future__ import annotations

from dataclasses import dataclass

from mmsearch.errors import ModelError
from mmsearch.model_catalog import HUB_PREFIX, KnownModel, known_model
from mmsearch.model_hub import RepositoryNotThere, look_up
from mmsearch.model_hub_listing import HubFile, Repository
from mmsearch.model_store import directory_name
from mmsearch.openclip import require_clip_extra
from mmsearch.openclip_config import CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE
from mmsearch.openclip_names import nearest, published
from mmsearch.safe_text import safe_text

# As open_clip 3 looks for them. Anything else in a repository is a pickle, or weights of another library.
_WEIGHTS_THERE = (WEIGHTS_FILE, "open_clip_pytorch_model.safetensors")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_FREE_TO_USE = frozenset(
    ("mit", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "isc", "unlicense", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0")
)


@dataclass(frozen=True, slots=True)
class PullPlan:
    """What pulling `name` would fetch, and into which directory of the store.

    `bytes` is everything, `ask` whether somebody has to agree to the licence first: it forbids some uses, or what it
    allows is not known.
    """

    name: str
    directory: str
    repository: Repository
    weights: HubFile
    config: HubFile
    license: str
    ask: bool
    known: KnownModel | None

    @property
    def bytes(self) -> int:
        """Bytes to fetch, but for a tokenizer that is elsewhere."""
        tokenizer = self.repository.files.get(TOKENIZER_FILE)
        return self.weights.bytes + self.config.bytes + (tokenizer.bytes if tokenizer else 0)


def plan_pull(name: str) -> PullPlan:
    """What the hub has of the model called `name`: a short name, `ARCHITECTURE/PRETRAINED`, `hf-hub:ORG/NAME`, or what
    the directory of such a model is called in the store.

    Raises:
        ModelError: there is no such model (the nearest names are offered), it is there as a pickle only, or the hub
            cannot be reached.
        MissingExtra: the packages of the extra `clip` are not installed.
    """
    directory = directory_name(name)
    place = _place(name)
    if directory is None or place is None:
        raise ModelError(f"no model is called '{safe_text(name)}'; near it: {nearest(name)}")
    # Better missed now than behind gigabytes.
    require_clip_extra()
    repository_id, file = place
    try:
        repository = look_up(repository_id)
    except RepositoryNotThere as error:
        raise RepositoryNotThere(f"{error}; near it: {nearest(name)}") from error
    known = known_model(name)
    license_text, ask = _licence(known, repository.license)
    return PullPlan(
        name=name,
        directory=directory,
        repository=repository,
        weights=_weights(repository, file),
        config=_config(repository),
        license=license_text,
        ask=ask,
        known=known,
    )


def _place(name: str) -> tuple[str, str] | None:
    """`ORG/NAME` on the hub, and the file with the weights where it has a name of its own; None: no such model."""
    known = known_model(name)
    if known is not None:
        return known.repository, ""
    if name.startswith(HUB_PREFIX):
        repository = name.removeprefix(HUB_PREFIX)
        return (repository, "") if repository.count("/") == 1 else None
    places = published()
    names = (each for each in places if name in (each, directory_name(each)))
    organisation, _, rest = places.get(next(names, ""), "").partition("/")
    repository, _, file = rest.partition("/")
    if repository:
        return f"{organisation}/{repository}", file
    # The directory of a model of the hub has two hyphens where its name has a slash.
    return (name.replace("--", "/"), "") if "/" not in name and name.count("--") == 1 else None


def _weights(repository: Repository, file: str) -> HubFile:
    wanted = (f"{file.rpartition('.')[0]}.safetensors", *_WEIGHTS_THERE) if file else _WEIGHTS_THERE
    for name in wanted:
        if name in repository.files:
            return repository.files[name]
    pickles = sorted(name for name in repository.files if name.endswith(_PICKLES) and "/" not in name)
    if pickles:
        raise ModelError(
            f"'{safe_text(repository.id)}' has its weights only as a pickle ({safe_text(pickles[0])}), which can run"
            " anything when it is opened, so it is not pulled; if you trust its makers, fetch the file yourself and:"
            " mmsearch models import FILE --trust --architecture NAME"
        )
    raise ModelError(f"'{safe_text(repository.id)}' is no open_clip model: it has no {' and no '.join(_WEIGHTS_THERE)}")


def _config(repository: Repository) -> HubFile:
    if CONFIG_FILE not in repository.files:
        raise ModelError(f"'{safe_text(repository.id)}' is no open_clip model: it has no {CONFIG_FILE}")
    return repository.files[CONFIG_FILE]


def _licence(known: KnownModel | None, stated: str) -> tuple[str, bool]:
    """The licence in words, and whether somebody has to agree to it; `stated` is the hub's identifier or ""."""
    free = stated in _FREE_TO_USE
    if known is None:
        return safe_text(stated) or "not stated", not free
    if free or not stated or known.non_commercial:
        return known.license, known.non_commercial
    return f"{known.license}; its page says {safe_text(stated)}", True
