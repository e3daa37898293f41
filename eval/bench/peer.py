"""rclip beside us: its own command and its own code, in its own environment, with stand-in weights.

    python -m venv rclip && rclip/bin/pip install rclip && python -m mmsearch.eval.bench cold-query \
        --peer-python rclip/bin/python

Its index is filled through its own database class with random vectors, or by its own indexing of real files.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
from pathlib import Path

from mmsearch.errors import UsageError
from mmsearch.eval.bench.timing import Sample, Work, command

_MODEL = "ViT-B-32-256-datacomp_s34b_b86k"
_VOCABULARY = "tokenizer/bpe_simple_vocab_16e6.txt.gz"
_TIMEOUT = 900  # seconds, for filling an index with a million rows

_FILL = """
import sys
import numpy as np
from rclip.db import DB
database, folder, count = DB(sys.argv[1]), sys.argv[2], int(sys.argv[3])
random = np.random.default_rng(0)
for number in range(count):
    vector = random.standard_normal(512, dtype=np.float32)
    vector /= np.linalg.norm(vector)
    path = f"{folder}/folder-{number // 100}/photo-{number}.jpg"
    database.upsert_image(
        dict(filepath=path, modified_at=1.0, size=1, vector=vector.tobytes(), hash=str(number)), commit=False
    )
database.commit()
database.close()
"""


def stand_in_note(photos: int) -> str:
    """Return the sentence that a table with the peer in it carries."""
    return (
        f"rclip runs its real code over {photos} photos with random weights of its architecture (ViT-B-32-256,"
        " float32): good for its time, meaningless for its answers; its first use and its downloads are not timed"
    )


class Peer:
    """rclip of the environment that `python` belongs to, with its data below `directory`.

    Raises:
        UsageError: that environment has no rclip.
    """

    def __init__(self, python: Path, directory: Path) -> None:
        self._python = os.path.abspath(python)  # resolving its links would leave the environment
        self._directory = directory.absolute()
        self._data = self._directory / "data"
        self._environment = {**os.environ, "RCLIP_DATADIR": str(self._data), "HF_HUB_OFFLINE": "1"}
        self._environment.pop("PYTHONDONTWRITEBYTECODE", None)
        self._call("-c", "import rclip.main", failure="has no rclip: pip install rclip there")
        self._lay_out_model()

    def query(self, sentence: str, *, photos: int) -> Work:
        """Return the cold text query over an index of `photos` rows as a contestant."""
        folder = self._directory / f"photos-{photos}"
        database = self._data / "db.sqlite3"
        if not folder.is_dir():
            database.unlink(missing_ok=True)
            self._call("-c", _FILL, str(database), str(folder), str(photos), failure="could not fill its index")
            folder.mkdir()
        return self._command(folder, "--no-indexing", sentence)

    def index(self, folder: Path) -> Work:
        """Return indexing `folder` anew, and one query after it, as a contestant: rclip has no command for less."""
        start = self._command(folder.absolute(), "a dog")
        database = self._data / "db.sqlite3"

        def anew() -> Sample:
            database.unlink(missing_ok=True)
            return start()

        return anew

    def _command(self, folder: Path, *arguments: str) -> Work:
        # rclip searches the directory it stands in; changing into it costs `env` a millisecond.
        start = ["env", f"--chdir={folder}", self._python, "-m", "rclip", *arguments]
        return command(start, self._environment)

    def _lay_out_model(self) -> None:
        model, vocabulary = self._data / _MODEL, self._data / _VOCABULARY
        if not (model / "textual.onnx").is_file():
            from mmsearch.eval.bench.peer_model import write_peer_model

            write_peer_model(model)
        if not vocabulary.is_file():
            vocabulary.parent.mkdir(parents=True, exist_ok=True)
            vocabulary.write_bytes(_vocabulary_file().read_bytes())

    def _call(self, *arguments: str, failure: str) -> None:
        try:
            done = subprocess.run(
                [self._python, *arguments], env=self._environment, capture_output=True, text=True, timeout=_TIMEOUT
            )
        except OSError as error:
            raise UsageError(f"--peer-python {self._python} cannot be run: {error.strerror}") from error
        if done.returncode:
            raise UsageError(f"--peer-python {self._python} {failure}: {done.stderr.strip()[-300:]}")


def _vocabulary_file() -> Path:
    """CLIP's word pieces, which rclip downloads, as open_clip carries them; the package is found, not imported."""
    found = importlib.util.find_spec("open_clip")
    path = Path(next(iter(found.submodule_search_locations or ())), Path(_VOCABULARY).name) if found else None
    if path is None or not path.is_file():
        raise UsageError(
            "rclip's vocabulary is not here; open_clip has the same: pip install --no-deps open_clip_torch"
        )
    return path
