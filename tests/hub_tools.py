"""What the tests of the hub share: a hub on this machine in place of the real one, and fresh caches and tokens."""

from functools import partial

import huggingface_hub
import pytest
from hub_server import LocalHub
from huggingface_hub import constants

from madx.interop.hub import Hub


def fresh_sessions() -> None:
    """Let go of huggingface_hub's connections, which remember whether they may go out."""
    getattr(huggingface_hub, "close_session", None) and huggingface_hub.close_session()
    if reset := getattr(huggingface_hub.utils, "reset_sessions", None):  # 0.36
        reset()


def set_offline(monkeypatch, offline: bool) -> None:
    """What HF_HUB_OFFLINE says at import."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    fresh_sessions()


@pytest.fixture
def local_hub(monkeypatch, tmp_path):
    """A LocalHub that `madx.load` and the commands take for the real one; the user's cache and tokens are not seen."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # Xet is a protocol of its own; LFS is spoken by both
    with LocalHub() as hub:
        for home in ("madx.interop.hub.Hub", "madx.interop.hub.hub.Hub"):
            monkeypatch.setattr(home, partial(Hub, endpoint=hub.url))
        set_offline(monkeypatch, False)
        yield hub
    fresh_sessions()
