"""`smidgen cut`: make a model fit a size, by leaving out what is needed least and by spending bits where they count."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smidgen.cli import options
from smidgen.model.kept import AS_USUAL, KVType, keeping_of, refuse_kv
from smidgen.shell import path_of
from smidgen.sizes import parse_size

if TYPE_CHECKING:
    from smidgen.formats.hub.origin import Origin

_PRUNING = "Leave out parts"


def _number(*names: str, help: str) -> Any:
    return typer.Option(*names, min=1, metavar="N", help=help, rich_help_panel=_PRUNING)


def command(
    model: options.Model,
    output: options.Output,
    fit: Annotated[
        str | None, typer.Option("--fit", metavar="SIZE", help="Largest size of the file: 165MB, 1.2GB, 512MiB.")
    ] = None,
    speed: Annotated[
        float | None,
        typer.Option("--speed", min=0.01, metavar="N", help="Tokens to write per second on this machine, instead."),
    ] = None,
    ram: Annotated[
        str | None, typer.Option("--ram", metavar="SIZE", help="Most memory that it may hold while it writes, instead.")
    ] = None,
    langs: Annotated[
        str | None,
        typer.Option(
            "--langs", metavar="de,en…", help="Languages to keep (ISO codes, and 'code'): trims the vocabulary to them."
        ),
    ] = None,
    vocab: Annotated[int | None, _number("--vocab", help="Tokens to keep.  [default: the planner chooses]")] = None,
    layers: Annotated[int | None, _number("--layers", help="Layers to keep.")] = None,
    ffn: Annotated[int | None, _number("--ffn", help="Width of the feed-forward networks.")] = None,
    heads: Annotated[int | None, _number("--heads", help="Query heads to keep for each key/value head.")] = None,
    kv_heads: Annotated[int | None, _number("--kv-heads", help="Key/value heads to keep, with their queries.")] = None,
    hidden: Annotated[int | None, _number("--hidden", help="Width of the residual stream.")] = None,
    experts: Annotated[int | None, _number("--experts", help="Experts to keep in each layer.")] = None,
    merge_experts: Annotated[
        bool, typer.Option("--merge-experts", help="Average the others into them, instead of dropping them.")
    ] = False,
    sparsity: Annotated[
        str | None, typer.Option("--sparsity", metavar="50%|2:4", help="Set this share of the weights to zero.")
    ] = None,
    sparsity_method: Annotated[
        str | None, typer.Option("--sparsity-method", help="magnitude, wanda or sparsegpt.  [default: sparsegpt]")
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            "--text",
            metavar="FILE",
            help="Calibration text, repeatable; de=FILE for a language; with --recipe, where its texts are.  "
            "[default: text by the model itself]",
        ),
    ] = None,
    tokens: Annotated[
        int | None, typer.Option("--tokens", min=512, metavar="N", help="Tokens of calibration.  [default: 16384]")
    ] = None,
    heal: Annotated[
        str | None,
        typer.Option(
            "--heal",
            metavar="N|TIME",
            help="Train what was cut on its text: for so many tokens (200000) or so long (15min).  [default: not]",
        ),
    ] = None,
    types: Annotated[
        str | None,
        typer.Option(
            "--types",
            metavar="A,B…",
            help="GGUF types to choose from, such as Q4_0,Q8_0; or 'portable', for what every format of smidgen export "
            "can hold.  [default: those that do least damage for their size]",
        ),
    ] = None,
    keep_head: Annotated[
        bool, typer.Option("--keep-head", help="Keep a head that is the embedding stored twice as a second matrix.")
    ] = False,
    steps: Annotated[
        str | None,
        typer.Option(
            "--steps",
            metavar="A,B…",
            help="Of vocabulary, experts, depth, width, weights, quantize, heal.  [default: what the options ask for]",
        ),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            "--recipe", metavar="FILE", parser=path_of, help="Carry out this recipe.toml, of a cut or your own."
        ),
    ] = None,
    measure: Annotated[bool, typer.Option("--measure/--no-measure", help="Write the report card.")] = True,
    kv: Annotated[
        str,
        typer.Option(
            "--kv",
            metavar="f16|q8_0|q4_0",
            help="How keys and values are kept while it is measured, also for --speed and --ram.",
        ),
    ] = AS_USUAL,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and its expected cost, and stop.")] = False,
    resume: options.Resume = False,
    seed: options.GivenSeed = None,
    threads: options.Threads = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Make a model fit a size, a speed or a memory where that hurts least, and measure what was lost.

    Spends bits where they count, and on request leaves out what is needed least: tokens of other languages, experts,
    layers, channels, single weights. With --langs, how many tokens stay and how many bits the rest gets is planned
    together. Layers, widths and weights are only taken out when you say how far: that costs more than fewer bits.

    With --heal, what was cut is trained to predict again what the original predicts, in the very numbers that the file
    holds.

    Writes DIR/model.gguf, never larger than --fit, with card.html (the report), card.json, README.md, recipe.toml and
    the original's licence. Runs in llama.cpp, Ollama, LM Studio and everything else that reads GGUF.

    \b
    Examples:
      smidgen cut gemma-3-270m --fit 165MB -o gemma-small
      smidgen cut gemma-3-270m --fit 90MB --langs en -o gemma-en
      smidgen cut model-f16.gguf --fit 1.2GB --langs de,en --text de=my-field.txt -o small
      smidgen cut gemma-3-270m --vocab 65536 --langs en,code -o trimmed
      smidgen cut model-f16.gguf --speed 20 -o quick
      smidgen cut gemma-3-270m --fit 165MB --heal 15min -o gemma-small
      smidgen cut model-f16.gguf --layers 22 --ffn 7168 --heal 2000000 -o shallow
      smidgen cut gemma-3-270m --fit 165MB --types portable --heal 15min -o gemma-everywhere
      smidgen cut gemma-3-270m --fit 165MB -o gemma-small --resume
      smidgen cut gemma-3-270m --fit 165MB -o gemma-small --kv q8_0
      smidgen cut gemma-3-270m --recipe gemma-small/recipe.toml -o again
    """
    said = {
        "fit": fit, "speed": speed, "ram": ram, "langs": langs, "vocab": vocab, "layers": layers, "ffn": ffn,
        "heads": heads, "kv-heads": kv_heads, "hidden": hidden, "experts": experts, "sparsity": sparsity,
        "sparsity-method": sparsity_method, "text": text, "tokens": tokens, "types": types, "steps": steps,
        "seed": seed, "threads": threads, "merge-experts": merge_experts or None, "heal": heal,
        "keep-head": keep_head or None,
    }  # fmt: skip
    said = {name: value for name, value in said.items() if value is not None}
    _refuse_contradictions(said, recipe)
    sizes = {name: parse_size(said[name]) for name in ("fit", "ram") if name in said}
    kept = options.kv_type(kv)
    origin = _refuse_early(model, output, text or (), kept)
    from smidgen.cutting.cut import cut
    from smidgen.cutting.recipe import DEFAULT_TOKENS, CutOptions, Pruning, read_recipe

    if recipe is not None:
        wanted = read_recipe(recipe, text or ())
    else:
        method: dict[str, Any] = {"method": sparsity_method} if sparsity_method else {}
        pruning = Pruning(
            vocab, experts, merge_experts, layers, ffn, heads, kv_heads, hidden, sparsity, **method
        )  # fmt: skip
        wanted = CutOptions(
            sizes.get("fit"), tuple(text or ()), tokens or DEFAULT_TOKENS, seed or 0, threads,
            _types(types), languages=options.comma_list(langs), pruning=pruning,
            steps=options.comma_list(steps),
            speed=speed, ram=sizes.get("ram"), heal=heal, keep_head=keep_head,
        )  # fmt: skip
    result = cut(origin, output, wanted.changed(kv=kept), resume=resume, dry_run=dry_run, measured=measure)
    options.show(result, json)


def _types(said: str | None) -> tuple[str, ...]:
    """As GGUF writes them, however they were typed; 'portable' is a word of ours."""
    return tuple(name.lower() if name.lower() == "portable" else name.upper() for name in options.comma_list(said))


def _refuse_contradictions(said: dict[str, Any], recipe: Path | None) -> None:
    if recipe is not None and (told := said.keys() - {"text"}):
        first = next(name for name in said if name in told)
        raise typer.BadParameter(f"--recipe already says what --{first} would; give one of them")
    if recipe is None and not said.keys() & {
        "fit", "speed", "ram", "langs", "vocab", "layers", "ffn", "heads", "kv-heads", "hidden", "experts", "sparsity",
        "steps",
    }:  # fmt: skip
        raise typer.BadParameter(
            "--fit SIZE (or --speed, --ram, --langs, --vocab, --recipe FILE) is needed, for example --fit 165MB"
        )
    for option, owner in (("merge-experts", "experts"), ("sparsity-method", "sparsity")):
        if option in said and owner not in said:
            raise typer.BadParameter(f"--{option} goes with --{owner}; give both")


def _refuse_early(model: str, output: Path, texts: Sequence[str], kv: KVType) -> "Origin":
    """What can be refused at once: loading torch takes seconds. The cut looks again. Returns what was located."""
    from smidgen.data.sources import read_texts
    from smidgen.formats.hub.catalogue import origin_of
    from smidgen.formats.opening import read_config
    from smidgen.publishing.companions import refuse_output

    origin = origin_of(model)
    refuse_kv(kv, keeping_of(read_config(origin.path)))
    refuse_output(output, origin)
    read_texts(texts)
    return origin
