"""`smidgen cut`: make a model fit a size."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from smidgen.cli import options
from smidgen.sizes import parse_size


def command(
    model: options.Model,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the result.", show_default=False)
    ],
    fit: Annotated[
        str | None, typer.Option("--fit", metavar="SIZE", help="Largest size of the file: 165MB, 1.2GB, 512MiB.")
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            "--text", metavar="FILE", help="Calibration text, repeatable.  [default: text by the model itself]"
        ),
    ] = None,
    tokens: Annotated[
        int | None, typer.Option("--tokens", min=512, metavar="N", help="Tokens of calibration.  [default: 16384]")
    ] = None,
    types: Annotated[
        str | None,
        typer.Option(
            "--types",
            metavar="A,B…",
            help="GGUF types to choose from, such as Q4_0,Q8_0.  [default: those that do least damage for their size]",
        ),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option("--recipe", metavar="FILE", help="Repeat the cut that wrote this recipe.toml.")
    ] = None,
    measure: Annotated[bool, typer.Option("--measure/--no-measure", help="Write the report card.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and its expected cost, and stop.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the same cut was interrupted.")] = False,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, metavar="N", help="Of every random choice.  [default: 0]")
    ] = None,
    threads: options.Threads = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Make a model fit a size by quantizing it where that hurts least, and measure what was lost.

    Writes DIR/model.gguf, never larger than --fit, with card.html (the report), card.json, README.md, recipe.toml and
    the original's licence. Runs in llama.cpp, Ollama, LM Studio and everything else that reads GGUF.

    \b
    Examples:
      smidgen cut gemma-3-270m --fit 165MB -o gemma-small
      smidgen cut model-f16.gguf --fit 1.2GB --text my-field.txt -o small
      smidgen cut gemma-3-270m --fit 165MB -o gemma-small --resume
      smidgen cut gemma-3-270m --recipe gemma-small/recipe.toml -o again
    """
    if recipe is None and fit is None:
        raise typer.BadParameter("--fit SIZE (or --recipe FILE) is needed, for example --fit 165MB")
    if recipe is not None and any(value is not None for value in (fit, text, tokens, types, seed, threads)):
        raise typer.BadParameter(
            "--recipe already says what --fit, --text, --tokens, --types, --seed and --threads would"
        )
    size = None if fit is None else parse_size(fit)
    _refuse_early(model, output, text or ())
    from smidgen.recipe import DEFAULT_TOKENS, CutOptions, cut, read_recipe

    if size is None:
        assert recipe is not None
        wanted = read_recipe(recipe)
    else:
        names = tuple(name.strip().upper() for name in types.split(",")) if types else ()
        wanted = CutOptions(size, tuple(text or ()), tokens or DEFAULT_TOKENS, seed or 0, threads, names)
    result = cut(model, output, wanted, resume=resume, dry_run=dry_run, measured=measure)
    if json:
        print(result.to_json())
    else:
        print(result.describe())


def _refuse_early(model: str, output: Path, texts: Sequence[str]) -> None:
    """What can be refused at once: loading torch takes seconds. The cut looks again."""
    from smidgen.data.sources import read_texts
    from smidgen.formats.catalogue import locate
    from smidgen.formats.contents import refuse_unsupported
    from smidgen.outputs import refuse_output

    path = locate(model)
    refuse_unsupported(path)
    refuse_output(output, path)
    read_texts(texts)
