"""`smidgen data`: text from anywhere as a corpus for one model, tokenized once."""

from typing import Annotated

import typer

from smidgen.cli import options

_RULES = "What is kept"


def command(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE…", help="Text, JSONL, Parquet (also .gz), folders, patterns, hf:org/name[:config][:split].",
            show_default=False,
        ),
    ],
    model: Annotated[str, typer.Option("--model", metavar="MODEL", help=options.MODEL_HELP, show_default=False)],
    output: options.Output,
    langs: Annotated[
        str | None,
        typer.Option(
            "--langs", "--lang", metavar="de,en…", help="Keep only documents in these languages.",
            rich_help_panel=_RULES,
        ),
    ] = None,
    quality: Annotated[
        bool,
        typer.Option("--quality/--no-quality", help="Gopher's rules: length, symbols, repetition.",
            rich_help_panel=_RULES,),
    ] = True,
    min_words: Annotated[
        int,
        typer.Option(
            "--min-words", min=0, metavar="N", help="Shortest document, with --quality.", rich_help_panel=_RULES
        ),
    ] = 50,
    dedup: Annotated[
        bool,
        typer.Option("--dedup/--no-dedup", help="Drop what is there twice, exactly or nearly.", rich_help_panel=_RULES),
    ] = True,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", min=1, metavar="N", help="Read at most N documents of each source.", rich_help_panel=_RULES
        ),
    ] = None,
    field: Annotated[
        str, typer.Option("--field", metavar="NAME", help="That holds the text in JSONL, Parquet and data sets.")
    ] = "text",
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Count malformed lines instead of stopping at the first one.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, max=512, metavar="N", help="Processes.  [default: the cores]")
    ] = None,
    resume: options.Resume = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:  # fmt: skip
    """Turn text into a corpus that `distill` reads: filtered, deduplicated, tokenized once.

    Writes DIR/index.json and shards of tokens beside it, each with a checksum. The same sources and settings give the
    same shards, however many processes make them, and training reads them in an order that depends on its seed alone.

    A text file is one document, or several where it is long; a line of JSONL and a row of Parquet are one each.

    \b
    Examples:
      smidgen data notes.txt books/ --model gemma-3-270m -o corpus
      smidgen data "crawl/*.jsonl.gz" --model gemma-3-270m --langs de,en -o corpus
      smidgen data hf:HuggingFaceFW/fineweb:sample-10BT --limit 100000 --model gemma-3-270m -o corpus
      smidgen data faq.jsonl --field answer --no-quality --no-dedup --model gemma-3-270m -o corpus
    """
    from smidgen.data.corpus.filters import Rules
    from smidgen.data.corpus.prepare import CorpusOptions
    from smidgen.engines.machine import default_threads
    from smidgen.training.collect import collect

    wanted = CorpusOptions(Rules(options.comma_list(langs), quality, min_words), dedup, field, skip_bad, limit)
    result = collect(model, sources, output, wanted, workers=workers or default_threads(), resume=resume)
    options.show(result, json)
