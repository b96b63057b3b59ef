"""A small stand-in for the Hub on loopback: repositories, LFS objects, commits, downloads, cuts on cue."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.loopback import Loopback, QuietHandler

TOKEN = "hf_standInToken123"
READ_ONLY = "hf_readOnlyToken123"
_REPO = r"(?P<kind>datasets|models)/(?P<id>[\w.-]+/[\w.-]+)"


class HubStandIn(Loopback):
    """`with HubStandIn() as hub:` serves at `hub.url`. `hub.cut_after(n)` breaks every connection after n
    more requests, until `hub.cut_after(None)`."""

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], dict[str, Any]] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.left: int | None = None
        self.lock = threading.RLock()

    @property
    def url(self) -> str:
        return self.origin

    def cut_after(self, requests: int | None) -> None:
        self.left = requests

    def files(self, repo: str, kind: str = "datasets") -> dict[str, bytes]:
        return self.repos[kind, repo]["commits"][-1]["files"]

    def commits(self, repo: str, kind: str = "datasets") -> list[str]:
        return [commit["oid"] for commit in self.repos[kind, repo]["commits"]]

    def handler(self) -> type[_Handler]:
        return type("Handler", (_Handler,), {"hub": self})


@contextmanager
def serving(monkeypatch: Any) -> Iterator[HubStandIn]:
    """A stand-in that this process's Hub client talks to, logged in, without waiting between attempts."""
    import huggingface_hub.constants as constants
    from huggingface_hub.utils import _http

    with HubStandIn() as hub:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        waits = SimpleNamespace(sleep=lambda seconds: None, time=_http.time.time)
        monkeypatch.setattr(_http, "time", waits)
        yield hub


class _Handler(QuietHandler):
    hub: HubStandIn

    def handle_any(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        with self.hub.lock:
            if self.hub.left is not None:
                self.hub.left -= 1
                if self.hub.left < 0:  # the network is gone: half a body is read, nothing is answered
                    self.rfile.read(length // 2)
                    self.close_connection = True
                    self.connection.close()
                    return
        self.body = self.rfile.read(length)
        path = unquote(urlsplit(self.path).path)
        with self.hub.lock:
            self.hub.requests.append(f"{self.command} {path}")
            for method, pattern, answer in _ROUTES:
                if method == self.command and (match := re.fullmatch(pattern, path)):
                    return answer(self, **match.groupdict())
        self.json({"error": f"no such address: {path}"}, 404)

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def json(self, body: Any, status: int = 200) -> None:
        headers = {"X-Error-Message": body["error"]} if status >= 400 and "error" in body else {}
        self.send(json.dumps(body).encode(), status, {"Content-Type": "application/json", **headers})

    def send(self, data: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def refused(self, write: bool = True) -> bool:
        given = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if given not in (TOKEN, READ_ONLY):
            self.json({"error": "Invalid username or password."}, 401)
        elif write and given == READ_ONLY:
            self.json({"error": "You need write access."}, 403)
        else:
            return False
        return True

    def repo(self, kind: str, id: str) -> dict[str, Any] | None:
        found = self.hub.repos.get((kind, id))
        if found is None:
            self.send(b"{}", 404, {"X-Error-Code": "RepoNotFound"})
        return found

    def files(self, found: dict[str, Any], revision: str) -> dict[str, bytes]:
        commits = {commit["oid"]: commit for commit in found["commits"]}
        return commits.get(revision, found["commits"][-1])["files"]

    def whoami(self) -> None:
        self.refused(False) or self.json({"name": "me", "type": "user", "orgs": [], "auth": {}})

    def create(self) -> None:
        if self.refused():
            return
        asked = json.loads(self.body)
        owner = asked.get("organization") or "me"
        key = (f"{asked.get('type', 'model')}s", f"{owner}/{asked['name']}")
        if owner != "me":
            return self.json({"error": f"You don't have the rights to create under {owner}"}, 403)
        if key in self.hub.repos:
            return self.json(
                {"error": "You already created this repo", "url": f"{self.hub.url}/{key[1]}"}, 409
            )
        private = asked.get("visibility") == "private" or asked.get("private", False)
        first = {"oid": hashlib.sha1(str(key).encode()).hexdigest(), "files": {".gitattributes": b""}}
        self.hub.repos[key] = {"private": private, "commits": [first]}
        self.json({"url": f"{self.hub.url}/{key[0]}/{key[1]}", "id": key[1]})

    def info(self, kind: str, id: str, revision: str = "main") -> None:
        if self.refused(False) or (found := self.repo(kind, id)) is None:
            return
        files, sha = self.files(found, revision), found["commits"][-1]["oid"]
        siblings = [{"rfilename": path} for path in sorted(files)]
        facts = {"private": found["private"], "tags": [], "downloads": 0, "likes": 0, "siblings": siblings}
        self.json(
            {"id": id, "_id": "0" * 24, "sha": sha, "lastModified": "2026-01-01T00:00:00.000Z", **facts}
        )

    def preupload(self, kind: str, id: str, revision: str) -> None:
        if self.refused() or (found := self.repo(kind, id)) is None:
            return
        files, answer = self.files(found, revision), []
        for file in json.loads(self.body)["files"]:
            path = file["path"]
            mode = "lfs" if path.endswith((".parquet", ".safetensors", ".webp", ".png")) else "regular"
            oid = _oid(files[path], mode) if path in files else None
            answer.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.json({"files": answer})

    def batch(self, id: str, kind: str | None = None) -> None:
        if self.refused():
            return
        objects = []
        for entry in json.loads(self.body)["objects"]:
            if entry["oid"] not in self.hub.objects:
                actions = {"href": f"{self.hub.url}/lfs/{entry['oid']}"}
                check = {"href": f"{self.hub.url}/lfs-verify"}
                entry = {**entry, "actions": {"upload": actions, "verify": check}}
            objects.append(entry)
        self.json({"transfer": "basic", "objects": objects})

    def put(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self.json({"error": "checksum"}, 400)
        self.hub.objects[oid] = self.body
        self.send(b"")

    def verify(self) -> None:
        asked = json.loads(self.body)
        stored = self.hub.objects.get(asked["oid"])
        self.json({}, 200 if stored is not None and len(stored) == asked["size"] else 404)

    def commit(self, kind: str, id: str, revision: str) -> None:
        if self.refused() or (found := self.repo(kind, id)) is None:
            return
        files = dict(found["commits"][-1]["files"])
        for entry in map(json.loads, self.body.splitlines()):
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif entry["key"] == "deletedFile":
                files.pop(value["path"])
        oid = hashlib.sha1(found["commits"][-1]["oid"].encode() + self.body).hexdigest()
        found["commits"].append({"oid": oid, "files": files})
        self.json(
            {"commitUrl": f"{self.hub.url}/{kind}/{id}/commit/{oid}", "commitOid": oid, "success": True}
        )

    def tree(self, kind: str, id: str, revision: str, folder: str | None = None) -> None:
        if self.refused(False) or (found := self.repo(kind, id)) is None:
            return
        entries = self.files(found, revision)
        inside = {p: data for p, data in entries.items() if not folder or p.startswith(f"{folder}/")}
        folders = sorted({p.rpartition("/")[0] for p in inside} - {"", folder})
        answer = [{"type": "directory", "path": p, "oid": "0" * 40, "size": 0} for p in folders]
        answer += [
            {"type": "file", "path": p, "oid": _oid(d), "size": len(d)} for p, d in sorted(inside.items())
        ]
        self.json(answer) if inside else self.json({"error": "no such folder"}, 404)

    def paths_info(self, kind: str, id: str, revision: str) -> None:
        if self.refused(False) or (found := self.repo(kind, id)) is None:
            return
        files = self.files(found, revision)
        asked = json.loads(self.body)["paths"]
        known = [p for p in asked if p in files]
        self.json([{"type": "file", "path": p, "oid": _oid(files[p]), "size": len(files[p])} for p in known])

    def resolve(self, id: str, revision: str, path: str, kind: str = "models") -> None:
        if self.refused(False) or (found := self.repo(kind or "models", id)) is None:
            return
        files = self.files(found, revision)
        if path not in files:
            return self.send(b"", 404, {"X-Error-Code": "EntryNotFound"})
        data, status = files[path], 200
        headers = {
            "ETag": f'"{_oid(data)}"',
            "X-Repo-Commit": found["commits"][-1]["oid"],
            "Accept-Ranges": "bytes",
        }
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            start, end = int(wanted[1]), min(int(wanted[2] or len(data) - 1), len(data) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
            data, status = data[start : end + 1], 206
        self.send(data, status, headers)


def _oid(data: bytes, mode: str = "regular") -> str:
    if mode == "lfs":
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


_ROUTES: list[tuple[str, str, Any]] = [
    ("GET", r"/api/whoami-v2", _Handler.whoami),
    ("POST", r"/api/repos/create", _Handler.create),
    ("POST", r"/api/validate-yaml", lambda self: self.json({"warnings": [], "errors": []})),
    ("GET", rf"/api/{_REPO}", _Handler.info),
    ("GET", rf"/api/{_REPO}/revision/(?P<revision>\w+)", _Handler.info),
    ("POST", rf"/api/{_REPO}/preupload/(?P<revision>\w+)", _Handler.preupload),
    ("POST", rf"/api/{_REPO}/commit/(?P<revision>\w+)", _Handler.commit),
    ("POST", rf"/api/{_REPO}/paths-info/(?P<revision>\w+)", _Handler.paths_info),
    ("GET", rf"/api/{_REPO}/tree/(?P<revision>\w+)(?:/(?P<folder>.+))?", _Handler.tree),
    ("POST", r"/(?:datasets/)?(?P<id>[\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT", r"/lfs/(?P<oid>\w+)", _Handler.put),
    ("POST", r"/lfs-verify", _Handler.verify),
    *(
        (
            method,
            r"/(?:(?P<kind>datasets)/)?(?P<id>[\w.-]+/[\w.-]+)/resolve/(?P<revision>\w+)/(?P<path>.+)",
            _Handler.resolve,
        )
        for method in ("GET", "HEAD")
    ),
]
