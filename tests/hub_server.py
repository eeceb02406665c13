"""A small model hub on this machine: the endpoints that huggingface_hub uses for models, over HTTP, in a thread.

Repositories live in memory: branches of commits, commits of files. Weights travel by LFS (batch, upload, verify, and a
redirect at download), all else inside the commit, as on the real hub. Every request is logged.
"""

import base64
import hashlib
import json
import re
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import huggingface_hub.constants

TOKENS = {"hf_writer": "juma", "hf_reader": "anna"}  # token -> user; juma owns juma/*
REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"


@dataclass
class Repository:
    """branches: name -> commit; commits: sha -> path -> content."""

    private: bool = False
    gated: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, files: dict[str, bytes], branch: str = "main", message: str = "") -> str:
        """Add files to a branch; gives the commit's sha."""
        tree = {**self.commits.get(self.branches.get(branch, ""), {}), **files}
        sha = hashlib.sha1(repr((len(self.commits), sorted(tree.items()))).encode()).hexdigest()
        self.commits[sha], self.branches[branch] = tree, sha
        self.messages.append(message)
        return sha

    def find(self, revision: str) -> str | None:
        return self.branches.get(revision) or (revision if revision in self.commits else None)


class Refusal(Exception):
    """An answer that is no success: status, the hub's code, its words."""

    def __init__(self, status: int, code: str = "", words: str = ""):
        self.status, self.code, self.words = status, code, words


class LocalHub(ThreadingHTTPServer):
    """`with LocalHub() as hub:` serves at `hub.url`.

    `refuse(method, path)` may return a Refusal to answer with; `alter(method, path, headers, content)` returns the
    headers and the content to send, which may be chunks, whose length is not stated then.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.cdn = f"http://localhost:{self.server_address[1]}/cdn"  # another host, as the real one's
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.log: list[tuple[str, str]] = []
        self.refuse = lambda method, path: None
        self.alter = lambda method, path, headers, content: (headers, content)
        self.yaml_faults: list[str] = []
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.thread.join()
        self.server_close()

    def put(self, repo: str, files: dict[str, bytes], **options) -> str:
        """A repository with these files, as someone published it; gives the commit."""
        made = self.repositories.setdefault(repo, Repository(**options))
        if not made.commits:
            made.commit({".gitattributes": b""})
        return made.commit(files)

    def fetched(self) -> set[str]:
        """Names of the files that were downloaded."""
        return {path.rpartition("/")[2] for method, path in self.log if method == "GET" and "/resolve/" in path}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LocalHub

    def log_message(self, *_):
        pass

    def _answer(self):
        self.path = unquote(self.path)
        address = urlsplit(self.path)
        self.query = parse_qs(address.query)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.log.append((self.command, address.path))
        try:
            if refusal := self.server.refuse(self.command, address.path):
                raise refusal
            for method, pattern, action in ROUTES:
                if self.command in method.split() and (match := re.fullmatch(pattern, address.path)):
                    own = getattr(self, action.__name__, None)  # of the class that inherits
                    return own(**match.groupdict()) if own else action(self, **match.groupdict())
            raise Refusal(404, "", f"no such endpoint: {self.command} {self.path}")
        except Refusal as no:
            headers = {"X-Error-Code": no.code, "X-Error-Message": no.words}
            self._send(no.status, json.dumps({"error": no.words}).encode(), {k: v for k, v in headers.items() if v})

    do_GET = do_HEAD = do_POST = do_PUT = _answer

    def _send(self, status: int, content: bytes = b"", headers: dict | None = None):
        headers = {"Content-Length": str(len(content)), **(headers or {})}
        headers, content = self.server.alter(self.command, self.path, headers, content)
        whole = isinstance(content, bytes)
        self.send_response(status)
        for key, value in headers.items():
            if whole or key != "Content-Length":
                self.send_header(key, value)
        self.end_headers()
        self.close_connection = self.close_connection or not whole
        if self.command != "HEAD":
            with suppress(OSError):  # who was refused has gone
                for chunk in [content] if whole else content:
                    self.wfile.write(chunk)

    def _json(self, content, status: int = 200):
        self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _user(self) -> str | None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in TOKENS:
            raise Refusal(401, "", "Invalid credentials in Authorization header")
        return TOKENS.get(token)

    def _repo(self, name: str, *, write: bool = False) -> Repository:
        user, found = self._user(), self.server.repositories.get(name)
        mine = user == name.partition("/")[0]
        if found is None or found.private and not mine:
            raise Refusal(404 if user else 401, "RepoNotFound", "Repository not found")
        if found.gated and not mine:
            raise Refusal(403, "GatedRepo", "Access to this model is restricted")
        if write and not mine:
            raise Refusal(403, "", "You don't have the rights to write here")
        return found

    def _commit(self, repo: str, revision: str | None) -> tuple[str, dict[str, bytes]]:
        found = self._repo(repo)
        if (sha := found.find(revision or "main")) is None:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha, found.commits[sha]

    # ---- reading

    def info(self, repo, revision=None):
        sha, files = self._commit(repo, revision)
        siblings = [{"rfilename": name, "blobId": _git_oid(data), "size": len(data)} for name, data in files.items()]
        if "blobs" not in self.query:
            siblings = [{"rfilename": s["rfilename"]} for s in siblings]
        private = self.server.repositories[repo].private
        self._json({"id": repo, "modelId": repo, "sha": sha, "private": private, "tags": [], "siblings": siblings})

    def resolve(self, repo, revision, file):
        sha, files = self._commit(repo, revision)
        if file not in files:
            raise Refusal(404, "EntryNotFound", "Entry not found")
        data, headers = files[file], {"X-Repo-Commit": sha}
        if not _by_lfs(file):
            return self._send(200, data, headers | {"ETag": f'"{_git_oid(data)}"'})
        oid = hashlib.sha256(data).hexdigest()
        self.server.blobs[oid] = data
        linked = {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(data)), "Location": f"{self.server.cdn}/{oid}"}
        self._send(302, b"", headers | linked)

    def cdn(self, oid):
        self._send(200, self.server.blobs[oid], {"ETag": f'"{oid}"'})

    # ---- writing

    def create(self):
        wanted, user = json.loads(self.body), self._user()
        owner = wanted.get("organization") or user
        name = f"{owner}/{wanted['name']}"
        if user is None or owner != user:
            raise Refusal(403, "", f"You don't have the rights to create a model under the namespace {owner!r}")
        if name in self.server.repositories:
            raise Refusal(409, "", "You already created this model repo")
        private = wanted.get("private") or wanted.get("visibility") == "private"
        self.server.put(name, {}, private=bool(private))
        self._json({"url": f"{self.server.url}/{name}", "name": name, "id": name})

    def branch(self, repo, name):
        found = self._repo(repo, write=True)
        if name in found.branches:
            raise Refusal(409, "", "Reference already exists")
        found.branches[name] = found.branches["main"]
        self._json({})

    def validate(self):
        faults = [{"message": text} for text in self.server.yaml_faults]
        self._json({"errors": faults, "warnings": []}, 400 if faults else 200)

    def preupload(self, repo, revision):
        files = self._repo(repo, write=True).commits[self._commit(repo, revision)[0]]
        self._json(
            {
                "files": [
                    {
                        "path": f["path"],
                        "uploadMode": "lfs" if _by_lfs(f["path"]) else "regular",
                        "shouldIgnore": False,
                        "oid": _oid(f["path"], files[f["path"]]) if f["path"] in files else None,
                    }
                    for f in json.loads(self.body)["files"]
                ]
            }
        )

    def batch(self, repo):
        self._repo(repo, write=True)
        actions = {"upload": {"href": f"{self.server.url}/upload"}, "verify": {"href": f"{self.server.url}/verify"}}
        objects = [
            {
                "oid": o["oid"],
                "size": o["size"],
                "actions": {k: {"href": f"{v['href']}/{o['oid']}"} for k, v in actions.items()},
            }
            for o in json.loads(self.body)["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects})

    def upload(self, oid):
        self.server.blobs[oid] = self.body
        self._send(200)

    def verify(self, oid):
        whole = hashlib.sha256(self.server.blobs.get(oid, b"")).hexdigest() == oid
        self._json({}, 200 if whole else 422)

    def commit(self, repo, revision):
        found, files, summary = self._repo(repo, write=True), {}, ""
        self._commit(repo, revision)
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                summary = value["summary"]
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.blobs[value["oid"]]
        sha = found.commit(files, revision, summary)
        # huggingface_hub 0.36 reads no other host's name out of a commit's address than HF_ENDPOINT's
        url = f"{huggingface_hub.constants.ENDPOINT}/{repo}/commit/{sha}"
        self._json({"commitUrl": url, "commitOid": sha, "pullRequestUrl": None})


ROUTES = (
    ("GET", rf"/api/models/{REPO}", _Handler.info),
    ("GET", rf"/api/models/{REPO}/revision/(?P<revision>.+)", _Handler.info),
    ("GET HEAD", rf"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", _Handler.resolve),
    ("GET HEAD", r"/cdn/(?P<oid>\w+)", _Handler.cdn),
    ("POST", r"/api/repos/create", _Handler.create),
    ("POST", rf"/api/models/{REPO}/branch/(?P<name>.+)", _Handler.branch),
    ("POST", r"/api/validate-yaml", _Handler.validate),
    ("POST", rf"/api/models/{REPO}/preupload/(?P<revision>.+)", _Handler.preupload),
    ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT", r"/upload/(?P<oid>\w+)", _Handler.upload),
    ("POST", r"/verify/(?P<oid>\w+)", _Handler.verify),
    ("POST", rf"/api/models/{REPO}/commit/(?P<revision>.+)", _Handler.commit),
)


def _by_lfs(file: str) -> bool:
    return file.endswith((".safetensors", ".bin"))


def _git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _oid(file: str, data: bytes) -> str:
    return hashlib.sha256(data).hexdigest() if _by_lfs(file) else _git_oid(data)
