"""`smidgen push` as a person runs it, against the stand-in for the hub."""

import json
from pathlib import Path

from smidgen.owned import claim, settle
from tests.cli.conftest import SmidgenCommand
from tests.formats.hub.taking_stand_in import WRITES, TakingHub
from tests.tiny_models import write_gemma3

CARD = "---\nlicense: apache-2.0\n---\n# A model\n"


def made(folder: Path) -> Path:
    """The least that can be pushed."""
    folder.mkdir()
    write_gemma3(folder / "model.gguf")
    (folder / "README.md").write_text(CARD)
    claim(folder, ["model.gguf", "README.md"])
    settle(folder)
    return folder


def test_push_says_what_it_sent_and_where(tmp_path: Path, run_smidgen: SmidgenCommand) -> None:
    folder = made(tmp_path / "gemma-small")
    (folder / "notes.txt").write_text("mine")
    with TakingHub({}, there=False) as hub:
        variables = {"HF_ENDPOINT": hub.address, "HF_TOKEN": WRITES, "HF_HUB_OFFLINE": "0"}
        tried = run_smidgen("push", "gemma-small", "org/name", "--dry-run", **variables)
        assert tried.returncode == 0 and "Nothing was sent" in tried.stdout and not hub.log, tried.stderr
        done = run_smidgen("push", "gemma-small", "org/name", "-m", "first", **variables)
        assert done.returncode == 0, done.stderr
        assert "notes.txt" in done.stdout and done.stdout.endswith(f"{hub.address}/org/name\n")
        assert hub.commits[0]["summary"] == "first" and hub.files["README.md"] == CARD.encode()
        again = run_smidgen("push", "gemma-small", "org/name", "--json", "--quiet", **variables)
        assert json.loads(again.stdout)["address"] == f"{hub.address}/org/name"
        assert all(text not in done.stdout + done.stderr + again.stderr for text in (WRITES, "Traceback"))


def test_what_cannot_be_pushed_is_one_line(tmp_path: Path, run_smidgen: SmidgenCommand) -> None:
    folder = made(tmp_path / "gemma-small")
    for words, said in (
        (("gemma-small", "org/name"), "HF_HUB_OFFLINE=1 allows no request"),
        (("gemma-small", "gemma"), "cannot be a repository"),
        ((".", "org/name"), "has no model that smidgen wrote"),
    ):
        done = run_smidgen("push", *words, HF_HUB_OFFLINE="1", HF_TOKEN=WRITES)
        assert done.returncode == 2 and done.stdout == "" and said in done.stderr.splitlines()[-1], done.stderr
    (folder / "README.md").write_text("# A model without a licence\n")
    done = run_smidgen("push", "gemma-small", "org/name", "--dry-run")
    assert done.returncode == 2 and "states no licence" in done.stderr
