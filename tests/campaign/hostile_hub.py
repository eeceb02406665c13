"""A model hub that lies: wrong marks, sizes and paths, bodies without an end, redirects in circles, damaged files."""

import json
import random
import zlib
from collections.abc import Callable
from typing import Any

import hub_server
from hub_server import LocalHub, Refusal

from campaign.damage import HOSTILE, VALUES, damaged

#: marks, paths and hashes that a server may send
MARKS = (
    "../../../up",
    "../up",
    "../../../../../up",
    "/tmp/up",
    "..",
    "",
    "a" * 3000,
    "\x1b[2JQ",
    '"',
    "0" * 40,
    "é",
    "a/../../up",
    'W/"x"',
    "main",
)
SIZES = (-1, 0, 1, 10**12, 2**63, "x", "", None)
STATUS = (204, 206, 301, 302, 304, 400, 401, 404, 416, 418, 429, 500, 503)
ENDLESS = 200 << 20  # bytes at which the server gives up
FILES = ("module.json", "weights.safetensors", "README.md")


class HostileHub(LocalHub):
    """A hub with one or two traits that no honest hub has. how: the traits in words. sent: bytes of endless bodies."""

    def __init__(self, draw: random.Random):
        super().__init__()
        self.RequestHandlerClass = _Hostile
        self.draw, self.sent = draw, 0
        names = draw.sample(sorted(TRAITS), draw.choice((1, 1, 2)))
        self.file = draw.choice(FILES)
        self.traits: dict[str, Any] = {name: TRAITS[name](draw) for name in names}
        self.how = "; ".join(f"{name} {str(value)[:60]!r}" for name, value in self.traits.items()) + f" of {self.file}"

    def handle_error(self, *_: Any) -> None:
        """A client that goes away is no error here."""


#: name -> what it is drawn as
TRAITS: dict[str, Callable[[random.Random], Any]] = {
    "ETag": lambda draw: draw.choice(MARKS),
    "X-Linked-Etag": lambda draw: draw.choice(MARKS),
    "X-Linked-Size": lambda draw: draw.choice(SIZES),
    "X-Repo-Commit": lambda draw: draw.choice(MARKS),
    "Location": lambda draw: draw.choice(
        ("/x/y/resolve/main/module.json", "file:///etc/passwd", "//", "http://[", "../../up", "", "ftp://localhost/x")
    ),
    "size": lambda draw: draw.choice(SIZES),
    "rfilename": lambda draw: draw.choice((*MARKS, None, 5, [], "../../up/module.json")),
    "sha": lambda draw: draw.choice((*MARKS, None, 5, {})),
    "info": lambda draw: draw.choice(VALUES),
    "info damaged": lambda draw: draw.random(),
    "content damaged": lambda draw: draw.random(),
    "length": lambda draw: draw.choice((0, 1, 10**12, -1, "x", None)),
    "endless": lambda draw: True,
    "status": lambda draw: draw.choice(STATUS),
    "gzip": lambda draw: draw.choice(("bomb", "damaged")),
    "circle": lambda draw: True,
    "words": lambda draw: draw.choice(HOSTILE[3:-1]),
}


class _Hostile(hub_server._Handler):
    server: HostileHub

    def info(self, repo: str, revision: str | None = None) -> None:
        self.send = "info"
        super().info(repo, revision)

    def resolve(self, repo: str, revision: str, file: str) -> None:
        traits, mine = self.server.traits, file == self.server.file
        if mine and "words" in traits:
            raise Refusal(400, "", traits["words"].encode("latin-1", "replace").decode("latin-1"))
        if mine and "status" in traits:
            return self._send(traits["status"], b"{}")
        if mine and "circle" in traits:
            return self._send(302, b"", {"Location": self.path})
        self.send = "file" if mine else ""
        super().resolve(repo, revision, file)

    def cdn(self, oid: str) -> None:
        self.send = "file" if self.server.file.endswith(".safetensors") else ""
        super().cdn(oid)

    def _json(self, content: Any, status: int = 200) -> None:
        traits, what, self.send = self.server.traits, getattr(self, "send", ""), ""
        if what == "info":
            for sibling in content["siblings"]:
                if sibling["rfilename"] == self.server.file:
                    sibling.update({key: traits[key] for key in ("size", "rfilename") if key in traits})
            content.update({"sha": traits["sha"]} if "sha" in traits else {})
            content = traits.get("info", content)
            data = json.dumps(content).encode()
            if "info damaged" in traits:
                data = damaged(data, random.Random(traits["info damaged"]), "json")[0]
            return self._send(status, data, {"Content-Type": "application/json"})
        super()._json(content, status)

    def _send(self, status: int, content: bytes = b"", headers: dict | None = None) -> None:
        traits, what, self.send = self.server.traits, getattr(self, "send", ""), ""
        headers = dict(headers or {})
        if what == "file":
            for name in ("ETag", "X-Linked-Etag", "X-Linked-Size", "X-Repo-Commit", "Location"):
                if name in traits:
                    headers[name] = _header(traits[name])
            if "length" in traits:
                headers["Content-Length"] = _header(traits["length"])
            if content and "content damaged" in traits:
                content = damaged(content, random.Random(traits["content damaged"]), "bytes")[0]
                headers.setdefault("Content-Length", str(len(content)))
            if content and "gzip" in traits:
                return self._compressed(status, headers, bomb=traits["gzip"] == "bomb")
            if content and "endless" in traits:
                return self._without_end(status, headers)
        super()._send(status, content, headers)

    def _without_end(self, status: int, headers: dict) -> None:
        self.send_response(status)
        headers.pop("Content-Length", None)
        for key, value in {**headers, "Connection": "close"}.items():
            self.send_header(key, value)
        self.end_headers()
        self.close_connection = True
        while self.command != "HEAD" and self.server.sent < ENDLESS:
            self.wfile.write(b" " * (1 << 20))
            self.server.sent += 1 << 20

    def _compressed(self, status: int, headers: dict, *, bomb: bool) -> None:
        packer = zlib.compressobj(9, wbits=31)
        data = packer.compress(bytes(ENDLESS)) + packer.flush() if bomb else b"\x1f\x8b" + bytes(50)
        headers |= {"Content-Encoding": "gzip", "Content-Length": str(len(data))}
        super()._send(status, data, headers)


def _header(value: Any) -> str:
    """A header's text as a server can send it."""
    return str(value).encode("latin-1", "replace").decode("latin-1").replace("\n", " ").replace("\r", " ")
