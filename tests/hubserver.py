"""A stand-in for the Hugging Face hub on loopback: what the real client asks of it, and its refusals."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

TOKEN = "hf_stand_in"


@dataclass
class Repository:
    """A published model or data set: its files, and who may have them."""

    files: dict[str, bytes]
    gated: bool = False
    private: bool = False
    forbidden: bool = False
    """To a token that may not read what it belongs to."""
    tags: set[str] = field(default_factory=lambda: {"main"})

    @property
    def sha(self) -> str:
        """The one commit there is."""
        return hashlib.sha1(b"".join(sorted(n.encode() + f for n, f in self.files.items()))).hexdigest()


class Hub:
    """Answers for the repositories it is given; `cut` names files whose next downloads end in the middle."""

    def __init__(self) -> None:
        self.models: dict[str, Repository] = {}
        self.cut: Counter[str] = Counter()
        self.down = False
        self.asked: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self)

            def do_HEAD(self) -> None:
                hub.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.storage = f"http://localhost:{self.server.server_port}"
        """Another host, as it is for large files of the real hub: the client follows no redirect within one."""

    def publish(self, name: str, directory: Path, **access: object) -> Repository:
        """Put a directory on the hub."""
        files = {p.name: p.read_bytes() for p in directory.iterdir() if p.is_file()}
        self.models[name] = Repository(files, **access)
        return self.models[name]

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Route one request."""
        path = unquote(urlsplit(request.path).path)
        self.asked.append(f"{request.command} {path}")
        if self.down:
            return _send(request, 503, b"busy")
        if path == "/api/models":
            return _send(request, 200, b"[]")
        if path == "/api/whoami-v2":
            known = _token(request) == TOKEN
            return _send(request, 200 if known else 401, json.dumps({"name": "me", "type": "user"}).encode())
        if found := re.fullmatch(r"/blob/(\w+)", path):
            name, data = next(
                (n, d) for r in self.models.values() for n, d in r.files.items() if _sha256(d) == found[1]
            )
            return self._send_file(request, name, data, {"ETag": f'"{found[1]}"'})
        if found := re.fullmatch(r"/api/(?:model|dataset)s/([^/]+/[^/]+)/auth-check", path):
            return self._check(request, found[1])
        if found := re.fullmatch(
            r"/api/(?:model|dataset)s/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+))?/?", path
        ):
            return self._describe(request, found[1], found[2] or "revision", found[3] or "main")
        if found := re.fullmatch(r"/(?:datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._resolve(request, *found.groups())
        return _send(request, 404, b"", {"X-Error-Code": "EntryNotFound"})

    def _allowed(self, request: BaseHTTPRequestHandler, name: str, revision: str) -> Repository | None:
        """The repository, or None after the refusal was sent."""
        repository = self.models.get(name)
        if repository is None or (repository.private and _token(request) != TOKEN):
            if _token(request):
                _send(request, 404, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
            else:  # who is not logged in learns no more
                _send(request, 401, b"", {"X-Error-Message": "Invalid username or password."})
            return None
        if revision not in {repository.sha, *repository.tags}:
            _send(request, 404, b"", {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
            return None
        return repository

    def _describe(self, request: BaseHTTPRequestHandler, name: str, what: str, revision: str) -> None:
        repository = self._allowed(request, name, revision)
        if repository is None:
            return
        listed = [
            {"type": "file", "path": n, "size": len(d), "oid": hashlib.sha1(d).hexdigest()}
            | ({"lfs": {"oid": _sha256(d), "size": len(d), "pointerSize": 100}} if _is_large(n) else {})
            for n, d in repository.files.items()
        ]
        info = {
            "id": name,
            "modelId": name,
            "sha": repository.sha,
            "private": repository.private,
            "gated": "manual" if repository.gated else False,
            "siblings": [{"rfilename": n} for n in repository.files],
        }
        _send(request, 200, json.dumps(info if what == "revision" else listed).encode())

    def _check(self, request: BaseHTTPRequestHandler, name: str) -> None:
        """Whether who asks may have the files."""
        if (repository := self._allowed(request, name, "main")) and not self._refused(request, repository):
            _send(request, 200, b"{}")

    def _refused(self, request: BaseHTTPRequestHandler, repository: Repository) -> bool:
        """Whether the files of a repository are not for who asks, after that was sent."""
        if repository.gated:
            status = 403 if _token(request) else 401
            _send(request, status, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
        elif repository.forbidden:
            _send(request, 403, b"", {"X-Error-Message": "Please enable access to public gated repositories"})
        return repository.gated or repository.forbidden

    def _resolve(self, request: BaseHTTPRequestHandler, name: str, revision: str, file: str) -> None:
        repository = self._allowed(request, name, revision)
        if repository is None or self._refused(request, repository):
            return
        commit = {"X-Repo-Commit": repository.sha}
        if file not in repository.files:
            _send(request, 404, b"", {**commit, "X-Error-Code": "EntryNotFound"})
        elif _is_large(file):
            data = repository.files[file]
            linked = {"X-Linked-Etag": f'"{_sha256(data)}"', "X-Linked-Size": str(len(data))}
            _send(request, 302, b"", {**commit, **linked, "Location": f"{self.storage}/blob/{_sha256(data)}"})
        else:
            data = repository.files[file]
            etag = hashlib.sha1(data).hexdigest()
            self._send_file(request, file, data, {**commit, "ETag": f'"{etag}"'})

    def _send_file(self, request: BaseHTTPRequestHandler, name: str, data: bytes, headers: dict[str, str]) -> None:
        """A file, from where the client's Range says; half of what it asks for, if its download is to be cut."""
        start = int(found[1]) if (found := re.match(r"bytes=(\d+)-", request.headers.get("Range", ""))) else 0
        part = data[start:]
        if start:
            headers = {**headers, "Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        cut = request.command == "GET" and self.cut[name] > 0
        self.cut[name] -= cut
        _send(request, 206 if start else 200, part, headers, cut=cut)


def _send(
    request: BaseHTTPRequestHandler,
    status: int,
    body: bytes,
    headers: dict[str, str] | None = None,
    *,
    cut: bool = False,
) -> None:
    request.send_response(status)
    for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
        request.send_header(name, value)
    request.end_headers()
    if request.command == "GET":
        request.wfile.write(body[: len(body) // 2] if cut else body)
    if cut:
        request.close_connection = True


def _is_large(name: str) -> bool:
    return name.endswith((".safetensors", ".bin"))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _token(request: BaseHTTPRequestHandler) -> str:
    return request.headers.get("Authorization", "").removeprefix("Bearer ")


@contextmanager
def serving():
    """A hub for the time of the context."""
    hub = Hub()
    thread = threading.Thread(target=hub.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.server.shutdown()
        hub.server.server_close()
        thread.join()
