"""What a cut is to do: its options, the steps that follow from them, and `recipe.toml`, which says both.

A cut is a chain of steps, always in the order of `STEPS`. Each takes a model and leaves a model. Which steps are taken
follows from what is asked for, or is said with `steps`.
"""

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from smidgen.bounds import MOST_SEED, MOST_THREADS, one_of, several, within
from smidgen.cutting.limits import Limits, Pace
from smidgen.cutting.portable import NAME as PORTABLE_NAME
from smidgen.cutting.portable import are_portable
from smidgen.data.languages import languages_of
from smidgen.data.sources import TextSource, read_texts
from smidgen.data.text import WINDOW
from smidgen.distillation.heal import HealBudget
from smidgen.errors import BadFile, SmidgenError, printable
from smidgen.formats.hub.origin import Origin
from smidgen.model.kept import AS_USUAL, KV_TYPES, KVType
from smidgen.numerics.block_types import BY_NAME, F16, PORTABLE, BlockType
from smidgen.numerics.codeword_fields import FORMATS
from smidgen.numerics.grids import GRIDS
from smidgen.pruning.masks import Pattern
from smidgen.pruning.sparsity import METHODS, Method
from smidgen.quantization.survey import TARGET_TYPES
from smidgen.shell import path_of
from smidgen.sizes import parse_size
from smidgen.version import __version__

#: Every step there is, in the order in which they are taken. (Healing comes after pruning and after quantization; it
#: stands last here.)
STEPS = ("vocabulary", "experts", "depth", "width", "weights", "quantize", "heal")

#: After these steps a model is healed before it is quantized: they leave more to mend than training through a lattice
#: should have to.
HEALED_BEFORE_QUANTIZATION = ("experts", "depth", "width", "weights")

#: Tokens of calibration, where nobody says otherwise.
DEFAULT_TOKENS = 16_384

_MOST_WRITTEN = 65_536


@dataclass(frozen=True)
class Pruning:
    """What to leave out of a model; None for what stays as it is.

    vocabulary: tokens to keep, None to let the planner choose where the step is taken.
    experts: of each layer, to keep; merged: what goes is averaged into what stays.
    layers: to keep.  ffn, hidden: widths.  heads: query heads for each key/value head; kv_heads: key/value heads.
    sparsity: share of zeros ("50%") or N:M ("2:4").  method: how they are chosen.
    """

    vocabulary: int | None = None
    experts: int | None = None
    merged: bool = False
    layers: int | None = None
    ffn: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    hidden: int | None = None
    sparsity: str | None = None
    method: Method = "sparsegpt"


# Step → the options that belong to it, as `Pruning` and the command line name them.
_OPTIONS = {
    "vocabulary": ("vocabulary",),
    "experts": ("experts", "merged"),
    "depth": ("layers",),
    "width": ("ffn", "heads", "kv_heads", "hidden"),
    "weights": ("sparsity", "method"),
}
_OTHER_OPTIONS = {"quantize": ("fit", "types", "speed", "ram", "pace", "surveyed", "keep_head"), "heal": ("budget",)}
_FLAGS = {"vocabulary": "--vocab or --langs", "kv_heads": "--kv-heads", "method": "--sparsity-method"}


@dataclass(frozen=True)
class CutOptions:
    """What a cut depends on: the same options, model and versions give the same file, bit for bit.

    fit: largest size of the file in bytes.  speed: tokens to decode per second on this machine.  ram: most memory in
    bytes while it runs. All None: no quantization.
    texts: calibration files; empty for text that the model writes itself.  languages: codes; what to trim the
    vocabulary for, and to write calibration text in.  tokens: of calibration.  seed: of every random choice.
    threads: of torch (sums depend on it in the last bit).
    types: GGUF types to choose from; empty for `quantization.survey.TARGET_TYPES`; "portable" alone for what every
    export format can hold (`cutting.portable`).
    heal: for how many tokens, or how long, to train what was cut (`distillation.heal`); None not to.
    steps: of `STEPS`; empty for those that the other options ask for.
    original: the sha256 that the model must have; None for any.
    keep_head: a head that is the embedding stays a matrix of its own (`cutting.tying`).
    kv: how the result keeps keys and values, q8_0 or q4_0 as llama.cpp rounds them, while its card is measured; and
    already where plans are tried for `speed` and `ram`, so that the file depends on it.
    pace, surveyed: what `speed` and `ram` became in an earlier cut, beside `fit`: seconds, and the types that were
    surveyed. With them the same types are chosen on any machine.
    """

    fit: int | None = None
    texts: tuple[str, ...] = ()
    tokens: int = DEFAULT_TOKENS
    seed: int = 0
    threads: int | None = None
    types: tuple[str, ...] = ()
    original: str | None = None
    languages: tuple[str, ...] = ()
    pruning: Pruning = field(default_factory=Pruning)
    steps: tuple[str, ...] = ()
    speed: float | None = None
    ram: int | None = None
    heal: str | None = None
    keep_head: bool = False
    pace: Pace | None = None
    surveyed: tuple[str, ...] = ()
    kv: KVType = AS_USUAL

    @classmethod
    def of(cls, **given: Any) -> "CutOptions":
        """Options as they are said in a program: sizes also as people write them ("165MB"), one text without a tuple,
        and what to leave out (`layers=22`) without a `Pruning`.

        Raises TypeError for a name that is no option, else as `CutOptions`.
        """
        left_out = {name: given.pop(name) for name in {one.name for one in fields(Pruning)} & given.keys()}
        if left_out:
            given["pruning"] = replace(given.get("pruning") or Pruning(), **left_out)
        for name in ("fit", "ram"):
            if given.get(name) is not None:
                given[name] = _size(name, given[name])
        if isinstance(given.get("heal"), int):
            given["heal"] = str(given["heal"])
        return cls(**given)

    def changed(self, **given: Any) -> "CutOptions":
        """The same but for some, said as in `of`."""
        return CutOptions.of(**{one.name: getattr(self, one.name) for one in fields(self)} | given) if given else self

    def __post_init__(self) -> None:
        """Raises SmidgenError for options that mean nothing, whether a program or a recipe gave them."""
        self._check_numbers()
        for name in ("texts", "types", "surveyed", "languages", "steps"):
            object.__setattr__(self, name, tuple(map(os.fspath, several(name, getattr(self, name)))))
        languages_of(self.languages)
        one_of("kv", self.kv, KV_TYPES)
        self._check_types()
        if self.pruning.sparsity is not None:
            Pattern.parse(self.pruning.sparsity)
        if self.heal is not None:
            HealBudget.parse(self.heal)
        if self.pruning.method not in METHODS:
            raise SmidgenError(f"{self.pruning.method!r} is no way to choose zeros. Choose from {', '.join(METHODS)}.")
        self._check_steps()

    def _check_types(self) -> None:
        if PORTABLE_NAME in self.types and len(self.types) > 1:
            others = ", ".join(name for name in self.types if name != PORTABLE_NAME)
            raise SmidgenError(
                f"--types {PORTABLE_NAME} chooses what every export format can hold, and {others} beside it would not "
                "be: leave one of them out."
            )
        known = {kind.name for kind in (*GRIDS, *FORMATS, F16)}
        offered = sorted(known - {kind.name for kind in PORTABLE}) + [PORTABLE_NAME]
        for name in (*self.types, *self.surveyed):
            if name not in (offered if name in self.types else known):
                raise SmidgenError(f"{name!r} is not a type to quantize to. Choose from {', '.join(offered)}.")

    def _check_numbers(self) -> None:
        values = {**asdict(self.pruning), **{one.name: getattr(self, one.name) for one in fields(self)}}
        counted = {name for names in _OPTIONS.values() for name in names} - {"merged", "sparsity", "method"}
        least = {"tokens": WINDOW, "seed": 0} | dict.fromkeys(("fit", "ram", *sorted(counted)), 1)
        for name, smallest in least.items():
            within(_FLAGS.get(name, name), values[name], smallest, MOST_SEED)
        within("threads", self.threads, 1, MOST_THREADS)
        within("speed", self.speed, 0.01, 1e9, whole=False)

    def _check_steps(self) -> None:
        for name in self.steps:
            if name not in STEPS:
                raise SmidgenError(f"{name!r} is not a step. Choose from {', '.join(STEPS)}.")
        chosen = self.chain
        if not set(chosen) - {"heal"}:
            raise SmidgenError("Nothing to do: say --fit SIZE, or what to leave out (--vocab, --langs, --layers, …).")
        for step, given in self._asked().items():
            if step in chosen and not given and step != "vocabulary":
                raise SmidgenError(f"The step {step!r} needs to know how far: give {self._wanted(step)}.")
            if step not in chosen and given:
                raise SmidgenError(f"--steps leaves out {step!r}, but {self._wanted(step)} asks for it. Drop one.")
        if self.keep_head and "quantize" not in chosen:
            raise SmidgenError(f"--keep-head goes with {self._wanted('quantize')}: a head is only left out for bytes.")
        if self.portable and "quantize" not in chosen:
            raise SmidgenError(
                f"--types {PORTABLE_NAME} goes with {self._wanted('quantize')}: without one of them nothing is encoded."
            )
        if "weights" in chosen and "quantize" in chosen:
            raise SmidgenError(
                "Zeros do not survive quantization yet: do the steps 'weights' and 'quantize' in different cuts."
            )

    @property
    def chain(self) -> tuple[str, ...]:
        """The steps of this cut, in order."""
        if self.steps:
            return tuple(step for step in STEPS if step in self.steps)
        return tuple(step for step, given in self._asked().items() if given)

    def _asked(self) -> dict[str, bool]:
        """Step → whether an option asks for it."""
        given = {
            step: any(getattr(self.pruning, name) is not None for name in names if name not in ("merged", "method"))
            for step, names in _OPTIONS.items()
        }
        given["vocabulary"] |= bool(self.languages)
        given["quantize"] = any(limit is not None for limit in (self.fit, self.speed, self.ram))
        return given | {"heal": self.heal is not None}

    def _wanted(self, step: str) -> str:
        if step == "quantize":
            return "--fit, --speed or --ram"
        if step == "heal":
            return "--heal"
        names = [name for name in _OPTIONS[step] if name not in ("merged", "method")]
        return " or ".join(_FLAGS.get(name, f"--{name}") for name in names)

    @property
    def promised(self) -> bool:
        """Whether the result is to do something on this machine, so that plans are tried on it."""
        return self.speed is not None or self.ram is not None

    @property
    def kept_in_words(self) -> str:
        """What to say after a speed or a memory of how keys and values were kept; nothing where that is as usual."""
        return "" if self.kv == AS_USUAL else f", with keys and values as {self.kv}"

    @property
    def tokens_to_write(self) -> int:
        """Of text by the model itself, where none is given: more to heal on than to calibrate on."""
        if self.heal is None:
            return self.tokens
        healed = HealBudget.parse(self.heal).tokens
        return max(self.tokens, _MOST_WRITTEN if healed is None else min(healed, _MOST_WRITTEN))

    @property
    def heals_before_quantization(self) -> bool:
        """Whether a part of the healing comes before quantization."""
        return {"heal", "quantize"} <= set(self.chain) and bool(set(self.chain) & set(HEALED_BEFORE_QUANTIZATION))

    @property
    def kinds(self) -> tuple[BlockType, ...]:
        """The types to choose from."""
        if self.types == (PORTABLE_NAME,):
            return PORTABLE
        return tuple(BY_NAME[name] for name in self.types) or TARGET_TYPES

    @property
    def portable(self) -> bool:
        """Whether every export format is to hold the result."""
        return are_portable(self.kinds)

    @property
    def surveyed_kinds(self) -> tuple[BlockType, ...]:
        """Those of `surveyed`."""
        return tuple(BY_NAME[name] for name in self.surveyed)

    def fingerprint(self, model: str, texts: Sequence[TextSource]) -> dict[str, Any]:
        """Everything that the result depends on, to bind a workspace to. model: its sha256."""
        without = {"threads", "original", "pruning"} | (set() if self.promised else {"kv"})
        own = {name: value for name, value in asdict(self).items() if name not in without}
        own |= {"model": model, "texts": [text.sha256 for text in texts], "threads": torch.get_num_threads()}
        return own | asdict(self.pruning) | {"smidgen": __version__, "torch": torch.__version__}

    def as_recipe(
        self, origin: Origin, sha256: str, sources: Sequence[TextSource], limits: Limits | None,
        vocabulary: int | None, used: Mapping[str, int],
    ) -> dict[str, Any]:  # fmt: skip
        """What `recipe.toml` says: everything that is needed to make the same file again.

        limits, vocabulary: what the planner chose.  used: how many tokens of each text were calibrated on, which is
        said for people.
        """
        texts = [{"file": _file_named(source), "sha256": source.sha256} for source in sources]
        chosen = asdict(self.pruning) | {"vocabulary": vocabulary}
        steps: list[dict[str, Any]] = []
        for step in self.chain:
            values: dict[str, Any] = {}
            if step == "quantize" and limits is not None:
                pace = None if limits.pace is None else limits.pace.as_json()
                surveyed = [kind.name for kind in limits.kinds] or None
                values = {"fit": limits.nbytes, "types": list(self.types), "surveyed": surveyed, "pace": pace}
            values |= {"keep_head": True} if step == "quantize" and self.keep_head else {}
            values |= {name: chosen[name] for name in _OPTIONS.get(step, ())}
            values |= {"budget": self.heal} if step == "heal" else {}
            steps.append({"step": step} | {name: value for name, value in values.items() if value is not None})
        revision = {"revision": origin.revision} if origin.revision else {}
        return {
            "model": origin.file, **revision, "sha256": sha256, "threads": torch.get_num_threads(),
            "tokens": self.tokens, "seed": self.seed, "texts": texts, "languages": list(self.languages),
            "calibration": [{"text": text, "tokens": tokens} for text, tokens in used.items()],
            "versions": {"smidgen": __version__, "torch": torch.__version__}, "steps": steps,
        }  # fmt: skip


def read_recipe(
    path: str | os.PathLike[str], texts: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = ()
) -> CutOptions:
    """The options that a `recipe.toml` says. A cut wrote it, or a person: then sha256 and threads may be missing.

    texts: where texts of the recipe are, as `FILE` or `NAME=FILE`. They are told apart by their sha256, by name alone
    where the recipe has none. The others are looked for beside the recipe. A file with another name than in the recipe
    gives the same weights; the history in the result has the new name.
    Raises BadFile for anything that is not a recipe, and for a text that is none of its texts.
    """
    path = path_of(path)
    shown = read_texts(several("texts", texts))
    try:
        recipe = tomllib.loads(path.read_text(encoding="utf-8"))
        given = [dict(step) for step in recipe["steps"]]
        said = [dict(text) for text in recipe.get("texts", [])]
        _refuse_other_texts(shown, said, path)
        options = _options(recipe, given, tuple(_find_text(text, path, shown) for text in said))
    except OSError as error:
        raise BadFile(f"The recipe {path} cannot be read: {error.strerror}. Give the recipe.toml of a cut.") from error
    except (ValueError, KeyError, TypeError) as error:
        reason = f"no {error} in it" if isinstance(error, KeyError) else str(error)
        raise BadFile(f"{path} is not a recipe ({reason}). Give the recipe.toml of a cut.") from error
    return options


def _file_named(source: TextSource) -> str:
    """A text as a recipe names it: recipes are published, and folders of the person's machine are nobody's business."""
    file = source.name if source.path is None else source.path.name
    return file if source.language is None else f"{source.language}={file}"


def _refuse_other_texts(shown: Sequence[TextSource], said: Sequence[Mapping[str, Any]], recipe: Path) -> None:
    for source in shown:
        if any(_is_text(source, text) for text in said):
            continue
        if not said:
            raise BadFile(f"{printable(recipe)} was made without a text of its own: leave --text out.")
        named = ", ".join(printable(text["file"], 60) for text in said[:8])
        raise BadFile(
            f"The text {printable(source.path)} is none of those that {printable(recipe)} was made with: {named} "
            f"(by their sha256; this one's begins with {source.sha256[:12]}). Give that file, or cut with --fit."
        )


def _is_text(source: TextSource, said: Mapping[str, Any]) -> bool:
    """Whether a file is the text that a recipe means: by its hash; by name where the recipe has no hash."""
    if "sha256" in said:
        return source.sha256 == said["sha256"]
    language, _, name = str(said["file"]).partition("=")
    file = None if source.path is None else source.path.name
    return source.name in (said["file"], language) or file in (said["file"], name)


def _find_text(said: Mapping[str, Any], recipe: Path, shown: Sequence[TextSource]) -> str:
    """The text that a recipe names, as `--text` takes it: the one that the person shows, else looked for where the
    person is, beside the recipe, and beside the recipe's folder; where the recipe has a hash, only a file with it
    counts.

    Raises BadFile where there is no such file.
    """
    given, wanted = str(said["file"]), said.get("sha256")
    language, equals, name = given.partition("=")
    found = next((source.path for source in shown if _is_text(source, said)), None)
    if found is not None:
        return f"{language}={found}" if equals else str(found)
    another = False
    for folder in (Path(), recipe.absolute().parent, recipe.absolute().parent.parent):
        for prefix, file in (("", given), (f"{language}=", name)):
            if file and (folder / file).is_file():
                found = f"{prefix}{folder / file}"
                if wanted is None or read_texts([found])[0].sha256 == wanted:
                    return found
                another = True
    if another:
        what = f"The text {printable(given)} is not the one that {printable(recipe)} was made with."
        raise BadFile(f"{what} Say with --text where that one is, or cut with --fit.")
    raise BadFile(
        f"The text {printable(given)} that {printable(recipe)} was made with is not here. Put it beside the recipe, or "
        "say with --text where it is."
    )


def _options(recipe: Mapping[str, Any], steps: Sequence[dict[str, Any]], texts: tuple[str, ...]) -> CutOptions:
    known = {"model", "revision", "sha256", "threads", "tokens", "seed", "texts", "languages", "versions", "steps"}
    known.add("calibration")
    if unknown := sorted(recipe.keys() - known):
        raise ValueError(f"it says {unknown[0]!r}, which no recipe knows")
    names, values, others = [], {}, {"quantize": {}, "heal": {}}
    for step in steps:
        name = str(step.pop("step"))
        allowed = _OTHER_OPTIONS[name] if name in _OTHER_OPTIONS else _OPTIONS.get(name, ())
        if unknown := sorted(step.keys() - set(allowed)):
            raise ValueError(f"the step {name!r} does not know {unknown[0]!r}")
        names.append(name)
        others.get(name, values).update(step)
    quantize, heal = others["quantize"], others["heal"].get("budget")
    threads, original = recipe.get("threads"), recipe.get("sha256")
    return CutOptions(
        fit=None if "fit" not in quantize else _size("fit", quantize["fit"]),
        speed=None if "speed" not in quantize else float(quantize["speed"]),
        ram=None if "ram" not in quantize else _size("ram", quantize["ram"]),
        texts=texts,
        tokens=int(recipe.get("tokens", DEFAULT_TOKENS)),
        seed=int(recipe.get("seed", 0)),
        threads=None if threads is None else int(threads),
        types=tuple(str(name) for name in quantize.get("types", ())),
        original=None if original is None else str(original),
        languages=tuple(str(code) for code in recipe.get("languages", ())),
        pruning=Pruning(**{name: _typed(name, value) for name, value in values.items()}),
        steps=tuple(names),
        heal=None if heal is None else str(heal),
        keep_head=_typed("keep_head", quantize.get("keep_head", False)),
        pace=None if "pace" not in quantize else Pace.of(quantize["pace"]),
        surveyed=tuple(str(name) for name in quantize.get("surveyed", ())),
    )  # fmt: skip


def _size(name: str, value: Any) -> int:
    """Bytes, as a number or as people write them."""
    if isinstance(value, str):
        return parse_size(value)
    within(name, value, 1, MOST_SEED, whole=False)
    return int(value)


def _typed(name: str, value: Any) -> Any:
    """A value of an option, of the type that it has there."""
    wanted = bool if name in ("merged", "keep_head") else str if name in ("sparsity", "method") else int
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise TypeError(f"{name} should be {wanted.__name__}, found {value!r}")
    return value
