"""`madx modules push` and `pull` against a local hub, as a user types them."""

import pytest
import tiny
from cli_tools import failed, run
from hub_tools import local_hub

from madx.module import new_module
from madx.store import Store

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def here(local_hub, tmp_path, monkeypatch):
    """A folder with a store that holds `swa`, a hub, and the token of one who may write."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    Store("modules").save(tiny.wake(new_module("swa", tiny.base(), language="swa", components="pfeiffer")))
    return local_hub


def test_out_and_back(here):
    pushed = run("modules", "push", "swa", "juma/xlmr-swa", "--licence", "CC-BY-4.0", "-m", "first", "--private")
    assert pushed.exit_code == 0, pushed.output
    repository = here.repositories["juma/xlmr-swa"]
    commit = repository.branches["main"]
    assert repository.private and repository.messages[-1] == "first"
    assert f"commit {commit}" in pushed.stdout and f"hf://juma/xlmr-swa@{commit}" in pushed.stdout
    line = next(line for line in pushed.stdout.splitlines() if "modules pull" in line)
    pulled = run(*line.split()[1:], "--store", "others")
    assert pulled.exit_code == 0, pulled.output
    assert (
        f"commit {commit}" in pulled.stdout and "language swa" in pulled.stdout and "licence CC-BY-4.0" in pulled.stdout
    )
    shown = run("modules", "show", "swa", "--store", "others").stdout
    assert "pulled:" in shown and f"revision: {commit}" in shown and "repository: juma/xlmr-swa" in shown
    assert run("modules", "verify", "--store", "others").exit_code == 0


def test_names_revisions_and_overwriting(here):
    assert run("modules", "push", "swa", "juma/swa").exit_code == 0
    assert run("modules", "push", "swa", "juma/swa", "--revision", "v2", "--licence", "MIT").exit_code == 0
    assert run("modules", "pull", "juma/swa", "--name", "swa2", "--revision", "v2").exit_code == 0
    assert Store("modules").show("swa2").info.licence == "MIT"
    assert "already holds a module" in failed(run("modules", "pull", "juma/swa"))
    assert run("modules", "pull", "juma/swa", "--overwrite").exit_code == 0


def test_mistakes_are_answered_in_words(here, monkeypatch):
    assert "did you mean 'swa'" in failed(run("modules", "push", "swaa", "juma/swa"))
    assert "OWNER/NAME" in failed(run("modules", "push", "swa", "swa"))
    assert "no such model" in failed(run("modules", "pull", "juma/none"))
    assert "madx modules pull" in failed(run("predict", "--stack", "hf://juma/swa + ner", "Juma"))
    monkeypatch.delenv("HF_TOKEN")
    assert "hf auth login" in failed(run("modules", "push", "swa", "juma/swa"))
    assert not here.repositories
