"""A model hub of this machine in a process of its own, which outlives the clients that are killed."""

import hashlib
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import Pipe
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

from hub_server import LocalHub

import madx.interop.hub
import madx.interop.hub.hub

#: the client's class, which `use` replaces
Hub = madx.interop.hub.hub.Hub

#: the repository that the campaign pulls from, and the one that it pushes to
THERE, OURS = "juma/there", "juma/swa"


@contextmanager
def serving(ready: Path | None) -> Iterator[str | None]:
    """Serve a hub with the module swa of `ready/modules` as `juma/there`; give its address. None: no hub, None."""
    if ready is None:
        yield None
        return
    here, there = Pipe(duplex=False)
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            hub = LocalHub()
            hub.handle_error = lambda *_: None  # a client that was killed
            hub.put(THERE, {p.name: p.read_bytes() for p in sorted((ready / "modules" / "swa").iterdir())})
            there.send(hub.url)
            hub.serve_forever(poll_interval=0.05)
        os._exit(0)
    try:
        yield here.recv()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def use(address: str | None, *, token: str = "hf_writer") -> None:
    """Let the commands of this process take a hub of this machine for the real one, with a cache in its folder."""
    if address is None:
        return
    import huggingface_hub
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = False
    constants.HF_HUB_CACHE = str(Path("hub-cache").absolute())
    constants.HF_TOKEN_PATH = str(Path("no-token").absolute())
    constants.HF_HUB_DISABLE_XET = constants.HF_HUB_DISABLE_PROGRESS_BARS = True
    os.environ |= {"NO_PROXY": "127.0.0.1,localhost", "HF_TOKEN": token}
    for forget in ("close_session", "reset_sessions"):
        if hasattr(huggingface_hub, forget):
            getattr(huggingface_hub, forget)()
    madx.interop.hub.Hub = madx.interop.hub.hub.Hub = partial(Hub, endpoint=address)


def published(address: str | None) -> dict[str, str]:
    """File -> digest of what the campaign pushed; empty without a hub, or if nothing was pushed."""
    if address is None:
        return {}
    opener = build_opener(ProxyHandler({}))
    found = {}
    for file in ("module.json", "weights.safetensors"):
        with suppress(OSError), opener.open(f"{address}/{OURS}/resolve/main/{file}") as answer:
            data = answer.read()
            if file.endswith(".json"):
                data = json.dumps({k: v for k, v in json.loads(data).items() if k != "checksum"}).encode()
            found[f"hub/{file}"] = hashlib.sha256(data).hexdigest()
    return found
