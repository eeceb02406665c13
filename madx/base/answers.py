"""Checks of what a model hub answers, before huggingface_hub uses it.

huggingface_hub names files of its cache after what the server says: `blobs/ETAG`, `snapshots/COMMIT/FILE`,
`.no_exist/COMMIT/FILE`. It checks neither, so an ETag `../../../.bashrc` is a path out of the cache, and a forced
download overwrites what lies there. It also writes a file of any length when no length was stated. Here every answer is
checked as it arrives, in a hook of the HTTP client that huggingface_hub lets others make.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

from madx.errors import HubError

COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
#: the hash of a file (git, md5, sha256), quoted or not; a proxy that compresses adds a mark behind a dash
ETAG = re.compile(r'(?:W/)?"?[0-9A-Fa-f]{32,64}(?:-[0-9A-Za-z]{1,8})?"?')
#: headers of files that Xet serves: its own client would fetch them past the hook, so a limited file is fetched by HTTP
XET = ("X-Xet-Hash", "X-Xet-Refresh-Route")


@dataclass
class _Limit:
    """The largest body of an answer, in bytes, and the bytes of all bodies so far."""

    most: int
    seen: int = 0


_limit: ContextVar[_Limit | None] = ContextVar("_limit", default=None)


@contextmanager
def checked_answers(*, most: int | None = None) -> Iterator[None]:
    """Check the answers that huggingface_hub gets inside; names and addresses in them are checked ever after.

    Args:
        most: the largest body in bytes, also of one whose length is not stated or is stated wrongly; None: any.
    Raises HubError, inside, for a refused answer.
    """
    _install()
    token = _limit.set(None if most is None else _Limit(most))
    try:
        yield
    finally:
        _limit.reset(token)


@dataclass(frozen=True)
class _Checking:
    """A factory of HTTP clients (httpx) or sessions (requests) whose answers are checked; `make` is the one before."""

    make: Callable[[], Any]

    def __call__(self) -> Any:
        client = self.make()
        if hasattr(client, "event_hooks"):
            hooks = client.event_hooks
            client.event_hooks = {**hooks, "response": [_check, *hooks.get("response", [])]}
        else:
            client.hooks["response"].insert(0, _check)
        return client


def _install() -> None:
    """Let huggingface_hub make checking clients, on top of what a user has configured, such as proxies."""
    import huggingface_hub
    from huggingface_hub.utils import _http

    current = getattr(_http, "_GLOBAL_CLIENT_FACTORY", None) or getattr(_http, "_GLOBAL_BACKEND_FACTORY", None)
    install: Any = getattr(huggingface_hub, "set_client_factory", None)  # from 1.0 on
    install = install or getattr(huggingface_hub, "configure_http_backend", None)
    if current is None or install is None:
        raise HubError(
            f"The answers of the hub cannot be checked under huggingface_hub {huggingface_hub.__version__}. Install a "
            "version that madx knows: pip install 'huggingface_hub<3'."
        )
    if not isinstance(current, _Checking):
        install(_Checking(current))


def _check(response: Any, *_: Any, **__: Any) -> None:
    """Refuse an answer by its headers, before its body is read; count its body where there is a limit."""
    try:
        _check_headers(response)
    except HubError:
        response.close()  # requests leaves that to its caller
        raise


def _check_headers(response: Any) -> None:
    headers, asked = response.headers, str(response.request.url)
    if (commit := headers.get("X-Repo-Commit")) is not None:
        _require(COMMIT, commit, f"commit for {asked}", "a commit is 40 digits and letters from a to f")
        for name in ("ETag", "X-Linked-Etag"):
            if (tag := headers.get(name)) is not None:
                _require(ETAG, tag, f"{name} for {asked}", "the hash of a file is expected")
    if 300 <= response.status_code < 400 and (target := headers.get("Location")) is not None:
        _check_redirect(asked, urljoin(asked, target))
    if (limit := _limit.get()) is not None:
        _check_length(response, limit, asked)


def _require(pattern: re.Pattern[str], value: str, what: str, expected: str) -> None:
    if not pattern.fullmatch(value):
        raise HubError(f"The hub answered with the {what} {value[:200]!r}: {expected}. Nothing of it was used.")


def _check_redirect(asked: str, target: str) -> None:
    """Refuse an address that is no web address, less protected than the one before, or inside the user's network."""
    before, after = urlsplit(asked), urlsplit(target)
    if after.scheme not in ("http", "https"):
        why = "only http and https are followed"
    elif (before.scheme, after.scheme) == ("https", "http"):
        why = "it is not encrypted, the address before was"
    elif _is_inside(after.hostname) and not _is_inside(before.hostname):
        why = "it lies in this machine's own network"
    else:
        return
    raise HubError(f"The hub at {before.hostname} sends the request on to {target[:200]!r}: {why}.")


def _is_inside(host: str | None) -> bool:
    """True for this machine and for addresses of private networks; names are not looked up."""
    try:
        return not ipaddress.ip_address(host or "").is_global
    except ValueError:
        return host is None or host == "localhost" or host.endswith((".localhost", ".local", ".internal"))


def _check_length(response: Any, limit: _Limit, asked: str) -> None:
    for name in ("Content-Length", "X-Linked-Size"):
        stated = response.headers.get(name)
        if stated is not None and (not stated.isdecimal() or int(stated) > limit.most):
            raise _too_long(asked, f"states {name} {stated[:40]!r}", limit)
    for name in XET:
        if name in response.headers:
            del response.headers[name]
    # both libraries read every body through this method, after it was decompressed
    method = "iter_bytes" if hasattr(response, "iter_bytes") else "iter_content"
    chunks = getattr(response, method)

    def counted(*args: Any, **options: Any) -> Iterator[bytes]:
        length = 0
        for chunk in chunks(*args, **options):
            length, limit.seen = length + len(chunk), limit.seen + len(chunk)
            # a download that was cut off is taken up again, at most from its start
            if length > limit.most or limit.seen > 2 * limit.most:
                response.close()
                raise _too_long(asked, "sends more", limit)
            yield chunk

    setattr(response, method, counted)


def _too_long(asked: str, what: str, limit: _Limit) -> HubError:
    return HubError(f"The answer to {asked} {what}: more than {limit.most:,} bytes are not fetched.")
