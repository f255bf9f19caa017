"""Downloads from a stand-in for the hub: what is fetched, what is not, and each way in which it can go wrong."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants, scan_cache_dir

from smidgen import progress
from smidgen.errors import BadFile, SmidgenError, Unsupported
from smidgen.formats.hub import transfer as hub_transfer
from smidgen.formats.hub.catalogue import locate, origin_of
from smidgen.formats.hub.hub import HubModel, cached, download
from tests.formats.hub.hub_stand_in import COMMIT, Hub

MODEL = HubModel("org/name")
WEIGHTS = os.urandom(3 * 2**20 + 123)
SINGLE = {
    "config.json": b"{}", "model.safetensors": WEIGHTS, "tokenizer.json": b"{ }", "tokenizer_config.json": b"{  }",
    "generation_config.json": b"{   }", "chat_template.jinja": b"{{ x }}", "LICENSE": b"text",
    "USE_POLICY.md": b"policy", "GEMMA_TERMS.html": b"terms", "README.md": b"---\nlicense: mit\n---\n",
    ".gitattributes": b"x", "pytorch_model.bin": b"no", "original/consolidated.00.pth": b"no", "onnx/model.onnx": b"no",
    "picture.png": b"no", "modeling_name.py": b"no", "original/params.json": b"{}", "flax_model.msgpack": b"no",
    "consolidated.safetensors": b"no", "runs/LICENSE": b"no",
}  # fmt: skip
NEEDED = list(SINGLE)[:10]
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = "model.safetensors.index.json"
SHARDED = {
    "config.json": b"{}", INDEX: json.dumps({"weight_map": {"a": SHARDS[0], "b": SHARDS[1]}}).encode(),
    SHARDS[0]: b"first", SHARDS[1]: WEIGHTS, "consolidated.safetensors": b"no",
}  # fmt: skip


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, no token, no waiting."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(hub_transfer, "PAUSES", (0.0, 0.0))
    return tmp_path / "cache"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub(dict(SINGLE)) as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.address)
        yield running


def refused(wish: HubModel, kind: type[SmidgenError], *fragments: str) -> str:
    with pytest.raises(SmidgenError) as caught:
        download(wish)
    message = str(caught.value)
    assert caught.type is kind, message
    assert message.isprintable(), message
    for fragment in fragments:
        assert fragment in message, message
    return message


def shown(snapshot: Path) -> dict[str, bytes]:
    """What a snapshot shows, by path."""
    return {path.relative_to(snapshot).as_posix(): path.read_bytes() for path in snapshot.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("org/name", MODEL),
        ("org/name@v1", HubModel("org/name", "v1")),
        ("org/name@refs/pr/1:Q4_K_M", HubModel("org/name", "refs/pr/1", "Q4_K_M")),
        ("google/gemma-2-2b-it:sub/file.gguf", HubModel("google/gemma-2-2b-it", None, "sub/file.gguf")),
        ("https://huggingface.co/org/name", MODEL),
        ("hf.co/org/name:q8_0", HubModel("org/name", None, "q8_0")),
        ("org/name.gguf", None),
        ("name", None),
        ("a/b/c", None),
        ("../name", None),
        ("org/..", None),
        ("org/name@../../x", None),
        ("org/name@a//b", None),
        ("org/name\n", None),
        ("/org/name", None),
        ("örg/name", None),
        ("org/name@", None),
    ],
)
def test_names(text: str, expected: HubModel | None) -> None:
    assert HubModel.parse(text) == expected
    if expected is not None and "co/" not in text:
        assert str(expected) == text


def test_only_what_is_needed_is_fetched(hub: Hub, own_cache: Path) -> None:
    snapshot = download(MODEL)
    assert shown(snapshot) == {name: SINGLE[name] for name in NEEDED}
    assert snapshot == own_cache / "models--org--name" / "snapshots" / COMMIT
    assert hub.paths()[0] == "/api/models/org/name/revision/main"
    assert sorted(hub.paths()[1:]) == sorted(NEEDED)
    assert hub.paths()[-1] == "model.safetensors"
    assert {method for method, _, _ in hub.log} == {"GET"}
    agents = {headers["user-agent"] for _, _, headers in hub.log}
    assert all(agent.startswith("smidgen/") and "torch" not in agent and "agent/" not in agent for agent in agents)
    assert all("authorization" not in headers for _, _, headers in hub.log)
    names = ["GEMMA_TERMS.html", "LICENSE", "USE_POLICY.md"]
    for origin in (origin_of(snapshot), origin_of("org/name")):
        assert [path.name for path in origin.notices] == names
        assert (origin.repository, origin.revision, origin.name) == ("org/name", COMMIT, "org/name")


def test_chat_templates_by_name_are_fetched(hub: Hub) -> None:
    folder = "additional_chat_templates"
    named = {f"{folder}/tool_use.jinja": b"tools", f"{folder}/notes.txt": b"no", f"{folder}/deep/x.jinja": b"no"}
    hub.files = SINGLE | named
    assert shown(download(MODEL)) == {name: hub.files[name] for name in (*NEEDED, f"{folder}/tool_use.jinja")}


def test_a_second_time_asks_only_for_the_list(hub: Hub) -> None:
    first = download(MODEL)
    hub.log.clear()
    assert download(MODEL) == first
    assert hub.paths() == ["/api/models/org/name/revision/main"]
    (first / "config.json").unlink()
    assert shown(download(MODEL)) == {name: SINGLE[name] for name in NEEDED}
    assert len(hub.log) == 2  # its bytes were still there


def test_the_cache_is_huggingface_hubs(hub: Hub, own_cache: Path) -> None:
    snapshot = download(MODEL)
    (repo,) = scan_cache_dir(own_cache).repos
    (revision,) = repo.revisions
    assert (repo.repo_id, revision.commit_hash, revision.refs) == ("org/name", COMMIT, {"main"})
    assert {file.file_name for file in revision.files} == set(NEEDED)
    from huggingface_hub import hf_hub_download

    hub.log.clear()
    assert hf_hub_download("org/name", "config.json", revision=COMMIT) == str(snapshot / "config.json")
    assert hub.log == []


def test_shards_are_those_of_the_index(hub: Hub) -> None:
    hub.files = dict(SHARDED)
    assert shown(download(MODEL)) == {name: SHARDED[name] for name in ("config.json", INDEX, *SHARDS)}


@pytest.mark.parametrize("revision", ["v1", "refs/pr/1", COMMIT])
def test_revisions(hub: Hub, revision: str) -> None:
    snapshot = download(HubModel("org/name", revision))
    assert snapshot.name == COMMIT
    assert hub.paths()[0] == f"/api/models/org/name/revision/{revision}"
    assert cached(HubModel("org/name", revision)) == snapshot
    assert cached(MODEL) is None


QUANTS = {
    name: name.encode() for name in ("m-Q4_K_M.gguf", "m-Q4_K_S.gguf", "m-Q8_0.gguf", "mmproj-F16.gguf", "LICENSE")
}


@pytest.mark.parametrize(
    ("wish", "file"),
    [
        (None, "m-Q4_K_M.gguf"),
        ("Q8_0", "m-Q8_0.gguf"),
        ("q4_k_s", "m-Q4_K_S.gguf"),
        ("M-q8_0.GGUF", "m-Q8_0.gguf"),
        ("bf16/m-BF16.gguf", "BF16/m-BF16.gguf"),
        ("BF16", "BF16/m-BF16.gguf"),
    ],
)
def test_repos_of_gguf_files(hub: Hub, wish: str | None, file: str) -> None:
    hub.files = QUANTS | {"BF16/m-BF16.gguf": b"x", "config.json": b"{}"}
    path = download(HubModel("org/name", None, wish))
    assert path.is_file() and path.as_posix().endswith(f"{COMMIT}/{file}")
    assert set(shown(path.parents[file.count("/")])) == {file, "LICENSE"}
    assert [found.name for found in origin_of(path).notices] == ["LICENSE"]
    assert cached(HubModel("org/name", None, wish)) == path


def test_the_only_gguf_file_needs_no_name(hub: Hub) -> None:
    hub.files = {"Model.IQ9.gguf": b"x", "imatrix.gguf": b"y"}
    assert download(MODEL).name == "Model.IQ9.gguf"


def test_a_named_gguf_file_wins_over_safetensors(hub: Hub) -> None:
    hub.files = SINGLE | QUANTS
    assert download(MODEL).is_dir()
    assert download(HubModel("org/name", None, "Q8_0")).name == "m-Q8_0.gguf"


def test_gguf_files_that_cannot_be_chosen(hub: Hub) -> None:
    parts = ("big-F16-00001-of-00002.gguf", "big-F16-00002-of-00002.gguf")
    hub.files = dict.fromkeys(("m-Q5_0.gguf", "m-Q8_0.gguf", *parts), b"")
    refused(MODEL, SmidgenError, "4 .gguf files", "org/name:FILE", "m-Q5_0.gguf, m-Q8_0.gguf")
    refused(HubModel("org/name", None, "Q2_K"), SmidgenError, "no .gguf file Q2_K", "m-Q5_0.gguf")
    refused(HubModel("org/name", None, "F16"), Unsupported, "2 parts", "give one of them")
    hub.files = dict(SINGLE)
    refused(HubModel("org/name", None, "Q4_0"), SmidgenError, "has no .gguf files")


@pytest.mark.parametrize(
    ("files", "fragment"),
    [
        (["config.json", "pytorch_model.bin"], "pickles (pytorch_model.bin)"),
        (["config.json", "pytorch_model-00001-of-00002.bin"], "can run code"),
        (["params.json", "consolidated.00.pth"], "pickles (consolidated.00.pth)"),
        (["adapter_config.json", "adapter_model.safetensors"], "adapter"),
        (["model.safetensors"], "no config.json"),
        (["README.md"], "no weights"),
        ([], "no weights"),
        (["sub/config.json", "sub/model.safetensors"], "main folder"),
    ],
)
def test_repos_without_a_model(hub: Hub, files: list[str], fragment: str) -> None:
    hub.files = dict.fromkeys(files, b"x")
    refused(MODEL, Unsupported, fragment)
    assert len(hub.log) == 1


def test_a_repo_that_is_not_there(hub: Hub) -> None:
    refused(HubModel("org/other"), SmidgenError, "has no model org/other", hub.address, "HF_TOKEN")
    refused(HubModel("org/na--me"), SmidgenError, "not a name that the hub allows")
    with pytest.raises(SmidgenError, match="If you meant a file or folder here: there is no org/other"):
        locate("org/other")
    with pytest.raises(SmidgenError, match="set HF_TOKEN$"):
        locate("hf.co/org/other")


def test_a_revision_that_is_not_there(hub: Hub) -> None:
    refused(HubModel("org/name", "v9"), SmidgenError, "no revision v9")


@pytest.mark.parametrize("at_the_list", [True, False])
def test_gated_repos(hub: Hub, monkeypatch: pytest.MonkeyPatch, at_the_list: bool) -> None:
    hub.gated_files, hub.token = True, "hf_good"
    if at_the_list:
        hub.refuse = (403, "GatedRepo")
    wanted = (f"accept its licence at {hub.address}/org/name", "HF_TOKEN")
    refused(MODEL, SmidgenError, "org/name is gated", *wanted)
    monkeypatch.setenv("HF_TOKEN", "hf_bad")
    refused(MODEL, SmidgenError, "org/name is gated", *wanted)
    hub.refuse = None
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    assert download(MODEL).is_dir()


def test_the_token_stays_with_the_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.gated_files, hub.token, hub.redirect = True, "hf_secret", True
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert (download(MODEL) / "model.safetensors").read_bytes() == WEIGHTS
    (headers,) = [headers for _, path, headers in hub.log if path.startswith("/cdn/")]
    assert "authorization" not in headers


@pytest.mark.parametrize(("status", "fragment"), [(401, "HF_TOKEN"), (403, "HF_TOKEN"), (418, "later"), (500, "later")])
def test_other_answers(hub: Hub, status: int, fragment: str) -> None:
    hub.refuse = (status, "")
    refused(MODEL, SmidgenError, fragment)


def test_a_server_that_is_no_hub(hub: Hub) -> None:
    listing = hub.listing()
    broken: list[Any] = [[1], "text", {"siblings": 3}, listing | {"sha": "../../x"}, listing | {"sha": None}]
    broken += [listing | {"siblings": [{}]}, listing | {"siblings": [{"rfilename": "a", "lfs": {"size": 1}}]}]
    broken += [listing | {"sha": "0" * 100}, listing | {"sha": ""}]
    for hub.info in broken:
        refused(MODEL, BadFile, "HF_ENDPOINT")


def test_no_network(hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    snapshot = download(MODEL)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    capsys.readouterr()
    assert download(MODEL) == snapshot
    assert "using org/name from the cache" in capsys.readouterr().err
    refused(HubModel("org/name", "v1"), SmidgenError, "http://127.0.0.1:9 cannot be reached", "check the network")


def test_a_cut_connection_resumes(hub: Hub) -> None:
    hub.cut["model.safetensors"] = [2**20 + 5, 2**20 + 7]
    assert (download(MODEL) / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.ranges_of("model.safetensors") == [None, f"bytes={2**20 + 5}-", f"bytes={2**21 + 12}-"]


def test_a_connection_that_is_cut_for_good(hub: Hub, own_cache: Path) -> None:
    hub.cut["model.safetensors"] = [2**20, *[0] * 5]
    refused(MODEL, SmidgenError, "connection broke", "1048576 of 3145851 bytes", "goes on from there")
    assert not (own_cache / "models--org--name" / "snapshots" / COMMIT / "model.safetensors").exists()
    hub.cut.clear()
    hub.log.clear()
    assert (download(MODEL) / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.paths() == ["/api/models/org/name/revision/main", "model.safetensors"]
    assert hub.ranges_of("model.safetensors") == ["bytes=1048576-"]


def test_a_server_without_ranges_starts_again(hub: Hub) -> None:
    hub.ranges = False
    hub.cut["model.safetensors"] = [2**20 + 5]
    assert (download(MODEL) / "model.safetensors").read_bytes() == WEIGHTS


def test_damage_is_found_by_the_hash(hub: Hub, own_cache: Path) -> None:
    """What an earlier download left may be wrong: it is fetched once more. Other bytes from the server are refused."""
    hub.cut["model.safetensors"] = [2**20, *[0] * 5]
    refused(MODEL, SmidgenError, "connection broke")
    (partial,) = (own_cache / "models--org--name" / "blobs").glob("*.incomplete")
    partial.write_bytes(b"X" * 2**20)
    hub.cut.clear()
    assert (download(MODEL) / "model.safetensors").read_bytes() == WEIGHTS

    shutil.rmtree(own_cache)
    hub.info = hub.listing()
    hub.files["model.safetensors"] = bytes(len(WEIGHTS))
    refused(MODEL, BadFile, "model.safetensors", "another hash")
    hub.files["model.safetensors"] = WEIGHTS + b"more"
    refused(MODEL, BadFile, "model.safetensors is longer than")
    hub.files["model.safetensors"] = WEIGHTS
    assert download(MODEL).is_dir()


def test_a_disk_that_is_too_small(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    refused(MODEL, SmidgenError, "0.00 GB free", "HF_HOME")
    assert len(hub.log) == 1


def test_a_cache_that_cannot_be_written(hub: Hub, own_cache: Path) -> None:
    own_cache.write_text("a file")
    refused(MODEL, SmidgenError, "cannot be written", "HF_HOME")


EVIL = ["../evil", "/tmp/evil.gguf", "a/../../evil.gguf", "..\\evil.gguf", "C:\\evil.gguf", "sub//evil.gguf",
        "LICENSE\n", "a\\..\\LICENSE", "../LICENSE", "/LICENSE", "./model.gguf", "nul:LICENSE"]  # fmt: skip


def test_names_that_leave_the_cache_are_not_fetched(hub: Hub, own_cache: Path, tmp_path: Path) -> None:
    hub.files = SINGLE | dict.fromkeys(EVIL, b"evil")
    assert set(shown(download(MODEL))) == set(NEEDED)
    hub.files = dict.fromkeys(EVIL, b"evil")
    refused(MODEL, Unsupported, "no weights")
    refused(HubModel("org/name", None, "evil"), SmidgenError, "no .gguf files")
    for name in ("../evil", "/tmp/evil.safetensors", "sub/evil.safetensors", "gone.safetensors", "config.json"):
        index = json.dumps({"weight_map": {"a": name}}).encode()
        hub.files = {"config.json": b"{}", INDEX: index, name: b"evil", "sub/evil.safetensors": b"evil"}
        if name.startswith("gone"):
            del hub.files[name]
        refused(MODEL, BadFile, "no weight file of the repo")
    assert {path.name for path in tmp_path.iterdir()} <= {"cache"}
    assert not any("evil" in path.name for path in own_cache.rglob("*"))


@pytest.mark.parametrize("etag", [None, "../../../../evil", "W/0123abc", "..", "/tmp/"])
def test_hashes_that_are_paths_are_not_used(hub: Hub, tmp_path: Path, etag: str | None) -> None:
    """A hash becomes a file name in the cache. Without a good one, the file's ETag does, if it is a plain name."""
    hub.info, hub.etag = hub.listing(), etag
    for entry in hub.info["siblings"]:
        entry["blobId"] = "../../../../evil"
        if "lfs" in entry:
            entry["lfs"]["sha256"] = f"../../../../evil{'0' * 48}"
    snapshot = download(MODEL)
    assert (snapshot / "config.json").read_bytes() == b"{}"
    blobs = [path for path in tmp_path.rglob("*") if path.is_file() and path.parent.name == "blobs"]
    assert len(blobs) == len(NEEDED)
    assert {path.name for path in tmp_path.iterdir()} <= {"cache"}


def test_mirrors_that_list_only_names(hub: Hub) -> None:
    """Sizes and hashes are asked for file by file; what is there is not asked for again."""
    hub.info = hub.listing()
    hub.info["siblings"] = [{"rfilename": entry["rfilename"]} for entry in hub.info["siblings"]]
    hub.cut["model.safetensors"] = [70_000]
    assert shown(download(MODEL)) == {name: SINGLE[name] for name in NEEDED}
    assert [method for method, path, _ in hub.log if path.endswith("/model.safetensors")] == ["HEAD", "GET", "GET"]
    assert hub.ranges_of("model.safetensors")[2] == "bytes=70000-"
    hub.log.clear()
    download(MODEL)
    assert len(hub.log) == 1


def test_progress_is_in_lines_and_silent_when_quiet(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    download(MODEL)
    shown_lines = capsys.readouterr()
    assert shown_lines.out == "" and shown_lines.err.startswith("Downloading org/name: 3.1 MB/3.1 MB, ")
    shutil.rmtree(constants.HF_HUB_CACHE)
    progress.set_quiet(True)
    try:
        download(MODEL)
    finally:
        progress.set_quiet(False)
    assert capsys.readouterr() == ("", "")


SCRIPT = """
import socket, sys
if sys.argv[2] == "no sockets":
    def refuse(*_): raise AssertionError("a socket was opened")
    socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
from smidgen.formats.hub.catalogue import locate
from smidgen.errors import SmidgenError
try:
    print(locate(sys.argv[1]))
except SmidgenError as error:
    print(error)
"""


def in_another_process(hub: Hub, home: Path, sockets: str = "", **environment: str) -> subprocess.Popen[str]:
    """`locate("org/name")` with huggingface_hub's environment variables, as a person sets them."""
    settings = {"HF_HOME": str(home), "HF_ENDPOINT": hub.address, "PYTHONPATH": str(Path.cwd()), **environment}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    command = [sys.executable, "-c", SCRIPT, "org/name", sockets]
    return subprocess.Popen(command, env=inherited | settings, stdout=subprocess.PIPE, text=True)


def test_a_killed_download_goes_on_and_offline_mode_asks_nobody(hub: Hub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    hub.files["model.safetensors"] = WEIGHTS * 8
    hub.hold["model.safetensors"] = 5 * 2**20
    first = in_another_process(hub, home)
    deadline = time.monotonic() + 30
    while not any(path.stat().st_size >= 4 * 2**20 for path in home.rglob("*.incomplete")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    hub.release.set()
    hub.log.clear()

    out, _ = in_another_process(hub, home).communicate(timeout=60)
    snapshot = home / "hub" / "models--org--name" / "snapshots" / COMMIT
    assert out == f"{snapshot}\n"
    assert (snapshot / "model.safetensors").read_bytes() == WEIGHTS * 8
    (resumed,) = hub.ranges_of("model.safetensors")
    assert resumed is not None and int(resumed.removeprefix("bytes=").removesuffix("-")) >= 4 * 2**20

    hub.log.clear()
    out, _ = in_another_process(hub, home, "no sockets", HF_HUB_OFFLINE="1").communicate(timeout=60)
    assert out == f"{snapshot}\n"
    out, _ = in_another_process(hub, tmp_path / "empty", "no sockets", HF_HUB_OFFLINE="1").communicate(timeout=60)
    assert "not complete in the cache" in out and "HF_HUB_OFFLINE=1" in out and out.count("\n") == 1
    assert hub.log == []


def test_what_is_half_there_is_not_used_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.files = dict(SHARDED)
    hub.cut[SHARDS[1]] = [2**20, *[0] * 5]
    refused(MODEL, SmidgenError, "connection broke")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused(MODEL, SmidgenError, "not complete in the cache")
