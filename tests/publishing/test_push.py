"""A real cut goes to a stand-in for the hub and comes back by our own download; and each way in which that can fail."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from smidgen.cutting.cut import cut
from smidgen.errors import SmidgenError
from smidgen.formats.hub import transfer
from smidgen.formats.hub.hub import HubModel, download
from smidgen.owned import MANIFEST, claim
from smidgen.publishing.companions import remove_outdated
from smidgen.publishing.push import pack, push
from tests.formats.hub.hub_stand_in import COMMIT, LARGE
from tests.formats.hub.taking_stand_in import READS, WRITES, TakingHub
from tests.tiny_models import write_gemma3

MADE = {"README.md", "card.json", "card.html", "recipe.toml", "Modelfile", "NOTICE", "model.gguf", MANIFEST}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a real cut leaves."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 120)
    write_gemma3(folder / "tiny.gguf")
    cut(folder / "tiny.gguf", folder / "out", fit=160_000, texts=[str(folder / "text.txt")], tokens=1024, threads=1)
    return folder / "out"


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "gemma-small"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TakingHub]:
    """A hub where org/name is not there yet, a token that may write, a cache of the test's own, no waiting."""
    with TakingHub({}, there=False) as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.address)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(transfer, "PAUSES", (0.0, 0.0))
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
        monkeypatch.setenv("HF_TOKEN", WRITES)
        yield running


def refused(folder: Path, *fragments: str, repository: str = "org/name", **wishes: bool) -> str:
    with pytest.raises(SmidgenError) as caught:
        push(folder, repository, **wishes)  # pyright: ignore[reportArgumentType]
    message = str(caught.value)
    assert message.isprintable() and WRITES not in message
    for fragment in fragments:
        assert fragment in message, message
    return message


def test_a_cut_goes_there_and_comes_back_the_same(
    folder: Path, hub: TakingHub, capsys: pytest.CaptureFixture[str]
) -> None:
    done = push(folder, "org/name")
    assert done.commit == COMMIT and done.address == f"{hub.address}/org/name"
    assert set(hub.files) == MADE | {".gitattributes"} and not hub.private
    assert all(hub.files[name] == (folder / name).read_bytes() for name in MADE)
    size = (folder / "model.gguf").stat().st_size
    (large,) = [headers for method, _, headers in hub.log if method == "PUT"]  # by Git LFS, as on the real hub
    assert size >= LARGE and large["content-length"] == str(size)  # whose store takes no other bodies
    assert f"Sending: {size / 1e6:.1f} MB/" in capsys.readouterr().err
    assert [commit["summary"].partition(" 0")[0] for commit in hub.commits] == ["Made with smidgen"]
    fetched = download(HubModel("org/name"))
    assert fetched.read_bytes() == (folder / "model.gguf").read_bytes()
    for name in ("README.md", "NOTICE"):
        assert (fetched.parent / name).read_bytes() == (folder / name).read_bytes()


def test_only_what_smidgen_wrote_and_licences_go_along(folder: Path, hub: TakingHub) -> None:
    (folder / "notes.txt").write_text("private")
    (folder / "work").mkdir()
    (folder / "work" / "survey.json").write_text("{}")
    (folder / "LICENSE").write_text("the terms")
    with (folder / "README.md").open("a") as readme:
        readme.write("\nMade for my watch.\n")
    done = push(folder, "org/name")
    assert set(hub.files) == MADE | {".gitattributes", "LICENSE"}
    assert b"for my watch" in hub.files["README.md"]
    said = done.describe()
    assert "Not sent, since smidgen did not write it: notes.txt, work/." in said
    assert "README.md was changed since smidgen wrote it, and goes along" in said and "LICENSE goes along" in said
    assert json.loads(done.to_json())["left_out"] == ["notes.txt", "work/"]


def test_a_dry_run_asks_nobody(folder: Path, hub: TakingHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("HF_TOKEN")
    done = push(folder, "org/name", dry_run=True)
    assert done.commit is None and set(done.parcel.files) == MADE and not hub.log
    assert done.parcel.size == sum((folder / name).stat().st_size for name in MADE)
    assert "Nothing was sent" in done.describe()


def test_another_model_replaces_the_first_with_all_that_was_said_of_it(folder: Path, hub: TakingHub) -> None:
    push(folder, "org/name")
    (folder / "card.json").unlink()
    (folder / "card.html").unlink()
    push(folder, "org/name", message="without a card")
    assert hub.commits[1]["deleted"] == ["card.html", "card.json"] and hub.commits[1]["parentCommit"] == COMMIT
    assert "card.json" not in hub.files and hub.commits[1]["summary"] == "without a card"
    assert len(hub.sent()) == len(set(hub.sent()))  # the model was there already


def test_files_of_others_are_not_replaced(folder: Path, hub: TakingHub) -> None:
    hub.there, hub.files = True, {"README.md": b"theirs", "theirs.bin": b"x"}
    refused(folder, "has a README.md that smidgen did not send", "--replace")
    assert not hub.commits
    done = push(folder, "org/name", pull_request=True)
    assert done.address.endswith("/org/name/discussions/1") and hub.files["README.md"] == b"theirs"
    push(folder, "org/name", replace=True)
    assert hub.files["theirs.bin"] == b"x" and hub.files["README.md"] != b"theirs"


def test_private_is_private(folder: Path, hub: TakingHub) -> None:
    push(folder, "org/name", private=True)
    assert hub.private
    hub.private = False
    refused(folder, "is there and public", private=True)
    assert len(hub.commits) == 1


def test_a_branch(folder: Path, hub: TakingHub) -> None:
    refused(folder, "a new one has no branch v1", repository="org/name@v1")
    push(folder, "org/name")
    push(folder, "org/name@v1")
    assert hub.commits[1]["branch"] == "v1"
    refused(folder, "has no branch v7", repository="org/name@v7")


def test_a_connection_that_breaks_changes_nothing_and_the_next_try_goes_on(folder: Path, hub: TakingHub) -> None:
    hub.breaks = [50_000] * 20
    refused(folder, "broke", "Run the same command again")
    assert not hub.commits and set(hub.files) == {".gitattributes"}
    hub.breaks = []
    hub.answers = {"/commit/main": 500}
    refused(folder, "500")
    sent = len(hub.sent())
    push(folder, "org/name")
    assert len(hub.sent()) == sent and len(hub.commits) == 1  # what had arrived was not sent again


def test_a_short_break_is_not_noticed(folder: Path, hub: TakingHub) -> None:
    hub.breaks = [50_000, 10]
    push(folder, "org/name")
    assert hub.files["model.gguf"] == (folder / "model.gguf").read_bytes()


@pytest.mark.parametrize(
    ("token", "fragments"),
    [("hf_unknown", ("does not accept the token (401)",)), (READS, ("may not write to org/name (403)", "org ("))],
)
def test_tokens_without_the_right(
    token: str, fragments: tuple[str, ...], folder: Path, hub: TakingHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    assert token not in refused(folder, *fragments)
    hub.there = True
    assert token not in refused(folder, *fragments)
    assert not hub.files


def test_no_token_and_no_network(folder: Path, hub: TakingHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    refused(folder, "there is no token", "hf auth login")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused(folder, "HF_HUB_OFFLINE=1 allows no request")
    assert not hub.log
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", WRITES)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    refused(folder, "the connection to http://127.0.0.1:9 broke")


@pytest.mark.parametrize(("status", "fragment"), [(429, "429"), (413, "413"), (503, "503"), (412, "by somebody else")])
def test_other_answers_are_said(status: int, fragment: str, folder: Path, hub: TakingHub) -> None:
    hub.answers = {"/commit/main": status}
    refused(folder, fragment)
    assert not hub.commits


def test_what_is_no_hub(folder: Path, hub: TakingHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TakingHub, "listing", lambda self: "<html>a proxy</html>")
    hub.there = True
    refused(folder, "does not answer like a hub")


def test_a_commit_of_somebody_else_in_between_is_not_overwritten(folder: Path, hub: TakingHub) -> None:
    push(folder, "org/name")
    hub.moved = True
    refused(folder, "was changed by somebody else")


@pytest.mark.parametrize("name", ["name", "org/name:Q4_K_M", "../name", "org/na me", "", "./gemma-small"])
def test_what_is_no_repository(name: str, folder: Path) -> None:
    refused(folder, "cannot be a repository", repository=name)


def test_wrong_folders(folder: Path, tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "is no folder")
    refused(folder / "model.gguf", "is no folder")
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(folder / "model.gguf", bare)
    refused(bare, "has no model that smidgen wrote")


def test_a_model_that_is_not_the_one_on_the_card(folder: Path) -> None:
    (folder / "card.json").write_text("{}")
    refused(folder, "card.json is not as smidgen wrote it")


def test_an_unfinished_cut(folder: Path) -> None:
    claim(folder, ["model.gguf"])
    remove_outdated(folder)
    refused(folder, "has no README.md")


def test_a_card_without_a_licence(folder: Path) -> None:
    readme = folder / "README.md"
    readme.write_text(readme.read_text().replace('license: "gemma"', 'license: "unknown"'))
    refused(folder, "states no licence")


def test_nothing_names_a_folder_of_this_machine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path("/somewhere/anna"))
    with (folder / "README.md").open("a") as readme:
        readme.write("\nSee /somewhere/anna/texts.\n")
    refused(folder, "README.md names a folder of this machine (/somewhere/anna/)")


def test_a_list_of_a_stranger_takes_nothing_from_elsewhere(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "LICENSE-of-mine").write_text("private")
    (folder / "secret.key").write_text("private")
    listed = json.loads((folder / MANIFEST).read_text())
    listed["files"] |= {"../LICENSE-of-mine": None, "secret.key": None, "..": None}
    (folder / MANIFEST).write_text(json.dumps(listed))
    assert set(pack(folder).files) == MADE and pack(folder).left_out == ("secret.key",)
    (folder / "Modelfile").unlink()
    (folder / "Modelfile").symlink_to(tmp_path / "LICENSE-of-mine")
    refused(folder, "Modelfile is a link")
