"""What a cut is to do: which steps follow from which options, and recipes there and back."""

from pathlib import Path

import pytest

from smidgen.cutting.limits import Limits, Pace
from smidgen.cutting.recipe import CutOptions, Pruning, read_recipe
from smidgen.data.sources import read_texts
from smidgen.errors import BadFile, SmidgenError
from smidgen.formats.hub.origin import Origin
from smidgen.numerics.block_types import Q4_K, Q8_0
from smidgen.publishing.companions import _toml


@pytest.mark.parametrize(
    "options, chain",
    [
        ({"fit": 10**6}, ("quantize",)),
        ({"speed": 20.0}, ("quantize",)),
        ({"ram": 10**9}, ("quantize",)),
        ({"fit": 10**6, "languages": ("en",)}, ("vocabulary", "quantize")),
        ({"pruning": Pruning(vocabulary=65_536)}, ("vocabulary",)),
        ({"pruning": Pruning(layers=12, ffn=512), "fit": 10**6}, ("depth", "width", "quantize")),
        ({"pruning": Pruning(sparsity="2:4")}, ("weights",)),
        ({"pruning": Pruning(experts=4)}, ("experts",)),
        ({"steps": ("quantize", "vocabulary"), "fit": 10**6}, ("vocabulary", "quantize")),
        ({"steps": ("vocabulary",)}, ("vocabulary",)),
    ],
)
def test_steps_follow_from_the_options(options: dict, chain: tuple[str, ...]) -> None:
    assert CutOptions(**options).chain == chain


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, "Nothing to do"),
        ({"fit": 0}, "fit is 0; it must be 1 or more"),
        ({"pruning": Pruning(layers=0)}, "layers is 0"),
        ({"pruning": Pruning(vocabulary=0)}, "--vocab or --langs is 0"),
        ({"fit": 10, "languages": ("xx",)}, "xx"),
        ({"fit": 10, "steps": ("quantise",)}, "'quantise' is not a step"),
        ({"steps": ("quantize",)}, "give --fit, --speed or --ram"),
        ({"steps": ("depth",)}, "give --layers"),
        ({"fit": 10, "steps": ("quantize",), "pruning": Pruning(ffn=4)}, "leaves out 'width'"),
        ({"pruning": Pruning(sparsity="3:2")}, "3:2"),
        ({"pruning": Pruning(sparsity="50%", method="guess")}, "'guess' is no way to choose zeros"),
        ({"pruning": Pruning(sparsity="50%"), "fit": 10}, "in different cuts"),
        ({"speed": -1.0}, "speed is -1; it must be"),
    ],
)
def test_options_that_mean_nothing(options: dict, message: str) -> None:
    with pytest.raises(SmidgenError, match=message) as error:
        CutOptions(**options)
    assert "\n" not in str(error.value)


def test_a_recipe_there_and_back(tmp_path: Path) -> None:
    options = CutOptions(
        fit=10**6, seed=3, tokens=2048, types=("Q8_0",), languages=("de", "en"),
        pruning=Pruning(layers=3, ffn=64, experts=2, merged=True),
    )  # fmt: skip
    recipe = options.as_recipe(Origin.of_path(tmp_path / "model"), "0" * 64, [], Limits(999_000), 12_345, {"de": 812})
    (tmp_path / "recipe.toml").write_text(_toml(recipe))
    again = read_recipe(tmp_path / "recipe.toml")
    assert 'calibration = [{ text = "de", tokens = 812 }]' in (tmp_path / "recipe.toml").read_text()
    assert again.chain == options.chain == ("vocabulary", "experts", "depth", "width", "quantize")
    assert (again.fit, again.seed, again.tokens, again.types, again.languages) == (
        999_000,
        3,
        2048,
        ("Q8_0",),
        ("de", "en"),
    )
    assert again.pruning == Pruning(vocabulary=12_345, layers=3, ffn=64, experts=2, merged=True)
    assert again.original == "0" * 64


def test_a_recipe_says_what_a_speed_came_to(tmp_path: Path) -> None:
    """On another machine the same speed is another plan; the seconds that were planned with make the same one."""
    limits = Limits(10**7, Pace(0.0125, {"Q4_K": 7.2e-11, "Q8_0": 5e-11}), (Q4_K, Q8_0))
    recipe = CutOptions(speed=60.0).as_recipe(Origin.of_path(tmp_path / "model"), "0" * 64, [], limits, None, {})
    (tmp_path / "recipe.toml").write_text(_toml(recipe))
    again = read_recipe(tmp_path / "recipe.toml")
    assert (again.fit, again.speed, again.pace, again.surveyed_kinds) == (10**7, None, limits.pace, limits.kinds)
    (tmp_path / "recipe.toml").write_text(_toml(recipe).replace("0.0125", "-1"))
    with pytest.raises(BadFile, match="a pace is of seconds, above 0"):
        read_recipe(tmp_path / "recipe.toml")


def test_a_recipe_names_no_folder_and_finds_its_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes are published: a text is its file name and its hash, a model its name."""
    private, output = tmp_path / "secret-project", tmp_path / "secret-project" / "out"
    output.mkdir(parents=True)
    for name in ("notes.txt", "de.txt"):
        (private / name).write_text(f"The text of {name}.")
    (private / "model.gguf").write_bytes(b"GGUF")
    options = CutOptions(fit=10**6, texts=(str(private / "notes.txt"), f"german={private / 'de.txt'}"))
    about = Origin.of_path(private / "model.gguf"), "0" * 64, read_texts(options.texts), Limits(10**6), None, {}
    recipe = options.as_recipe(*about)
    assert recipe["model"] == "model.gguf" and [text["file"] for text in recipe["texts"]] == [
        "notes.txt",
        "german=de.txt",
    ]
    (output / "recipe.toml").write_text(_toml(recipe))
    assert "secret" not in (output / "recipe.toml").read_text()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("Another text of that name.")
    again = read_texts(read_recipe(output / "recipe.toml").texts)
    assert [(text.name, text.text) for text in again] == [
        ("notes.txt", "The text of notes.txt."), ("german", "The text of de.txt.")
    ]  # fmt: skip
    (private / "de.txt").unlink()
    with pytest.raises(BadFile, match="german=de.txt that .* was made with is not here. Put it beside the recipe"):
        read_recipe(output / "recipe.toml")


def test_a_person_shows_where_the_texts_of_a_recipe_are(tmp_path: Path) -> None:
    away = tmp_path / "away"
    away.mkdir()
    for name in ("renamed.txt", "de.txt", "byhand.txt", "other.txt"):
        (away / name).write_text(f"The text of {name}.")
    hashes = [read_texts([away / name])[0].sha256 for name in ("renamed.txt", "de.txt")]
    (tmp_path / "r.toml").write_text(
        '[[steps]]\nstep = "quantize"\nfit = 9000\n'
        f'[[texts]]\nfile = "notes.txt"\nsha256 = "{hashes[0]}"\n'
        f'[[texts]]\nfile = "german=de.txt"\nsha256 = "{hashes[1]}"\n[[texts]]\nfile = "byhand.txt"\n'
    )
    texts = [away / "byhand.txt", f"x={away / 'de.txt'}", str(away / "renamed.txt")]
    again = read_recipe(tmp_path / "r.toml", texts).texts
    assert again == (str(away / "renamed.txt"), f"german={away / 'de.txt'}", str(away / "byhand.txt"))
    with pytest.raises(BadFile, match=r"other.txt is none of those that .*r.toml was made with: notes.txt, german=de"):
        read_recipe(tmp_path / "r.toml", away / "other.txt")
    with pytest.raises(BadFile, match="notes.txt that .* is not here. Put it beside the recipe, or say with --text"):
        read_recipe(tmp_path / "r.toml", away / "de.txt")
    (tmp_path / "r.toml").write_text('[[steps]]\nstep = "quantize"\nfit = 9000\n')
    with pytest.raises(BadFile, match="made without a text of its own: leave --text out"):
        read_recipe(tmp_path / "r.toml", away / "de.txt")


def test_a_recipe_names_the_commit_of_a_repository(tmp_path: Path) -> None:
    place = tmp_path / "models--org--name" / "snapshots" / ("0" * 40)
    recipe = CutOptions(fit=10**6).as_recipe(Origin.of_path(place), "0" * 64, [], Limits(10**6), None, {})
    assert (recipe["model"], recipe["revision"]) == ("org/name", "0" * 40)
    (tmp_path / "recipe.toml").write_text(_toml(recipe))
    assert read_recipe(tmp_path / "recipe.toml").fit == 10**6


def test_a_recipe_by_hand(tmp_path: Path) -> None:
    text = 'languages = ["en"]\n[[steps]]\nstep = "vocabulary"\n[[steps]]\nstep = "quantize"\nfit = "90MB"\n'
    (tmp_path / "mine.toml").write_text(text)
    options = read_recipe(tmp_path / "mine.toml")
    assert options.fit == 90_000_000 and options.chain == ("vocabulary", "quantize") and options.original is None


@pytest.mark.parametrize(
    "text, message",
    [
        ("[[steps]]\nstep = 'depth'\nlayer = 3\n", "the step 'depth' does not know 'layer'"),
        ("[[steps]]\nstep = 'depth'\nlayers = 'three'\n", "layers should be int"),
        ("colour = 1\n[[steps]]\nstep = 'depth'\nlayers = 3\n", "'colour', which no recipe knows"),
        ("[[steps]]\nlayers = 3\n", "no 'step' in it"),
        ("steps = 3\n", "is not a recipe"),
    ],
)
def test_what_is_no_recipe(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(BadFile, match=message):
        read_recipe(tmp_path / "bad.toml")
