"""A hub of our own on the loopback: repositories in memory, and ways for it to fail."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """What the server has and does. `requests` are (method, path, Range header) in the order they came.

    `cut` ends the connection after so many bytes of a file, each time; `tampered` files come with a byte changed,
    `shorter` ones without their end, while the listing states the true ones. A file in `failing` gets that status, and
    so does a repository of that name; with `failing_ranges` every request to go on fails. A `gated` one has terms.
    """

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    licenses: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    cut: dict[str, int] = field(default_factory=dict)
    tampered: set[str] = field(default_factory=set)
    shorter: set[str] = field(default_factory=set)
    failing: dict[str, int] = field(default_factory=dict)
    failing_ranges: bool = False
    gated: set[str] = field(default_factory=set)

    def add(self, repository: str, files: Mapping[str, bytes], *, license: str = "mit") -> None:
        """Publishes `files`."""
        self.repositories[repository] = dict(files)
        self.licenses[repository] = license

    def fetched(self, name: str) -> list[str | None]:
        """The Range headers of every GET of the file `name`."""
        return [asked for method, path, asked in self.requests if method == "GET" and path.endswith(f"/{name}")]

    def listing(self, repository: str) -> dict[str, Any]:
        """What the hub's API says of a repository."""
        return {
            "id": repository,
            "sha": COMMIT,
            "tags": ["open_clip", f"license:{self.licenses[repository]}"],
            "siblings": [self._sibling(name, data) for name, data in self.repositories[repository].items()],
        }

    def _sibling(self, name: str, data: bytes) -> dict[str, Any]:
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
        entry: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": blob}
        if not name.endswith(".json"):
            entry["lfs"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "pointerSize": 134}
        return entry


class HubServer(ThreadingHTTPServer):
    """Serves a `FakeHub`."""

    daemon_threads = True

    def __init__(self, hub: FakeHub) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing: a client that goes away is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        hub, path = self.server.hub, unquote(urlsplit(self.path).path)
        hub.requests.append((self.command, path, self.headers.get("Range")))
        if path.startswith("/api/models/"):
            # The commit may be named behind it.
            repository = path.removeprefix("/api/models/").partition("/revision/")[0]
            if repository in hub.failing:
                return self._send(hub.failing[repository], {}, b"")
            if repository in hub.gated:
                return self._send(403, {"X-Error-Code": "GatedRepo"}, b"{}")
            if repository not in hub.repositories:
                return self._send(404, {"X-Error-Code": "RepoNotFound"}, b"{}")
            data = json.dumps(hub.listing(repository)).encode()
            return self._send(200, {"Content-Type": "application/json"}, data)
        repository, _, rest = path.removeprefix("/").partition("/resolve/")
        name = rest.partition("/")[2]
        if hub.failing_ranges and self.headers.get("Range"):
            return self._send(500, {}, b"")
        if name in hub.failing:
            return self._send(hub.failing[name], {}, b"")
        data = hub.repositories.get(repository, {}).get(name)
        if data is None:
            return self._send(404, {"X-Error-Code": "EntryNotFound"}, b"")
        return self._send_file(name, data, body=body)

    def _send_file(self, name: str, data: bytes, *, body: bool) -> None:
        hub = self.server.hub
        if name in hub.tampered:
            data = data[:-1] + bytes([data[-1] ^ 1])
        if name in hub.shorter:
            data = data[:-10]
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        if start and start >= len(data):
            return self._send(416, {"Content-Range": f"bytes */{len(data)}"}, b"")
        headers = {"ETag": '"x"', "X-Repo-Commit": COMMIT}
        if asked:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        return self._send(206 if asked else 200, headers, data[start:], cut=hub.cut.get(name), body=body)

    def _send(
        self, status: int, headers: Mapping[str, str], data: bytes, *, cut: int | None = None, body: bool = True
    ) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body and self.command != "HEAD":
            self.wfile.write(data[:cut])
        if cut is not None and cut < len(data):
            self.close_connection = True
