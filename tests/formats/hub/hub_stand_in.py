"""A Hugging Face hub of this machine's own, for tests: the two requests that a download makes, and what can go wrong.

The answers' form is the real hub's: https://huggingface.co/docs/hub/api, and huggingface_hub's reading of it.
"""

import hashlib
import json
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = 100_000  # bytes from which a file is Git LFS's


@dataclass
class Hub:
    """The repo `org/name` with `files`, and a log of the requests: (method, path, headers).

    cut: file → numbers of bytes after which each of its next transfers ends.  hold: file → bytes after which its
    transfer waits for `release`.  token: what gated files ask for.
    refuse: status and X-Error-Code of every answer.  redirect: large files come from another path, as from a CDN.
    """

    files: dict[str, bytes]
    cut: dict[str, list[int]] = field(default_factory=dict)
    hold: dict[str, int] = field(default_factory=dict)
    release: threading.Event = field(default_factory=threading.Event)
    refuse: tuple[int, str] | None = None
    gated_files: bool = False
    ranges: bool = True
    redirect: bool = False
    token: str | None = None
    etag: str | None = None
    info: dict[str, Any] | None = None
    revisions: tuple[str, ...] = ("main", "v1", "refs/pr/1", COMMIT)
    log: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    handler: ClassVar[type["_Handler"]]

    def __enter__(self) -> "Hub":
        hub = self

        class Handler(hub.handler):
            pass

        Handler.hub = hub
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def paths(self) -> list[str]:
        """What was asked for, without the files' common prefix."""
        return [path.removeprefix(f"/org/name/resolve/{COMMIT}/") for _, path, _ in self.log]

    def ranges_of(self, file: str) -> list[str | None]:
        """The Range header of each request for a file."""
        return [headers.get("range") for _, path, headers in self.log if path.endswith(f"/{file}")]

    def listing(self) -> dict[str, Any]:
        siblings = []
        for name, content in self.files.items():
            git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            entry: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": git}
            if len(content) >= LARGE:
                digest = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 130}
            siblings.append(entry)
        return {"id": "org/name", "sha": COMMIT, "siblings": siblings, "tags": [], "downloads": 0}


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *_: object) -> None:
        """The log is kept in `hub.log`, not printed."""

    def do_GET(self) -> None:  # noqa: N802
        path = unquote(urlsplit(self.path).path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.log.append((self.command, path, headers))
        if self.hub.refuse is not None:
            return self.answer(self.hub.refuse[0], {"X-Error-Code": self.hub.refuse[1]})
        if path.startswith("/api/models/"):
            return self.model_info(path.removeprefix("/api/models/"))
        prefix = f"/org/name/resolve/{COMMIT}/"
        if path.startswith("/cdn/"):
            return self.send(path.removeprefix("/cdn/"), headers)
        if not path.startswith(prefix) or path.removeprefix(prefix) not in self.hub.files:
            return self.answer(404, {"X-Error-Code": "EntryNotFound"})
        name = path.removeprefix(prefix)
        if self.hub.gated_files and headers.get("authorization") != f"Bearer {self.hub.token}":
            return self.answer(401 if "authorization" not in headers else 403, {"X-Error-Code": "GatedRepo"})
        if self.hub.redirect and len(self.hub.files[name]) >= LARGE:
            return self.answer(302, {"Location": f"{self.hub.address.replace('127.0.0.1', 'localhost')}/cdn/{name}"})
        return self.send(name, headers)

    do_HEAD = do_GET

    def model_info(self, rest: str) -> None:
        repo, _, revision = rest.partition("/revision/")
        if repo != "org/name":
            return self.answer(401, {"X-Error-Code": "RepoNotFound"})
        if revision not in self.hub.revisions:
            return self.answer(404, {"X-Error-Code": "RevisionNotFound"})
        self.answer(200, {"Content-Type": "application/json"}, json.dumps(self.hub.info or self.hub.listing()).encode())

    def send(self, name: str, headers: dict[str, str]) -> None:
        content, start = self.hub.files[name], 0
        if self.hub.ranges and "range" in headers:
            start = int(headers["range"].removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        digest = hashlib.sha256(content).hexdigest()
        self.send_header("ETag", f'"{self.hub.etag}{digest[:8]}"' if self.hub.etag else f'"{digest}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        cuts = self.hub.cut.get(name)
        end = start + cuts.pop(0) if cuts else len(content)
        if name in self.hub.hold and not self.hub.release.is_set():
            self.wfile.write(content[start : self.hub.hold[name]])
            self.wfile.flush()
            self.hub.release.wait(30)
            start = self.hub.hold[name]
        with suppress(ConnectionError):  # the other side was killed
            self.wfile.write(content[start:end])
        if end < len(content):
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()

    def answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


Hub.handler = _Handler
