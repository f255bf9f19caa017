"""What is printed for pasting does in a shell what it says, whatever a folder is called."""

import subprocess
from pathlib import Path

import pytest

from smidgen.cli.main import main
from smidgen.errors import SmidgenError
from smidgen.shell import as_word, path_of
from tests.tiny_models import write_llama


@pytest.mark.parametrize("name", ["plain", "with space", 'it\'s "quoted" $HOME `id`', "a;b", "ünï", "*", "~"])
def test_a_shell_takes_it_as_one_word(name: str) -> None:
    done = subprocess.run(["sh", "-c", f"printf '%s' {as_word(name)}"], capture_output=True, text=True)
    assert done.stdout == name


def test_never_an_option_and_never_more_than_a_line() -> None:
    assert as_word("-rf") == "./-rf"
    assert as_word("a\n# heading") == "DIR"
    assert as_word("small") == "small"


def test_a_tilde_is_the_home_folder_only_where_a_path_begins_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert path_of("~/small") == tmp_path / "home" / "small"
    for said in ("./~", "./~root", ".//~/small"):
        assert path_of(said) == path_of(path_of(said)) == tmp_path / Path(said)
    assert path_of("a/~") == Path("a/~")
    with pytest.raises(SmidgenError, match="say ./~nobody-of-this-name/x"):
        path_of("~nobody-of-this-name/x")


def test_a_folder_named_tilde_is_written_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = write_llama(tmp_path / "model.gguf")
    (tmp_path / "home").mkdir()
    (tmp_path / "~").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for said in ("./~/here.gguf", "~/there.gguf"):
        with pytest.raises(SystemExit) as left:
            main(["export", str(model), "--to", "gguf", "-o", said])
        assert not left.value.code
    assert (tmp_path / "~" / "here.gguf").is_file() and (tmp_path / "home" / "there.gguf").is_file()
