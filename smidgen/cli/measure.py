"""`smidgen measure`: the report card of one model against another."""

import json as json_format
from pathlib import Path
from typing import Annotated, Any

import typer

from smidgen.cli.compare import compare_cuts
from smidgen.cli.options import KV, LARGEST_SEED, MODEL_HELP, Debug, Json, Quiet, Threads, comma_list, kv_type
from smidgen.errors import SmidgenError, printable
from smidgen.shell import path_of

Original = Annotated[str, typer.Argument(metavar="ORIGINAL", help=MODEL_HELP, show_default=False)]
Cut = Annotated[
    str, typer.Argument(metavar="CUT", help="The model to compare with it, named alike.", show_default=False)
]
More = Annotated[
    list[str] | None,
    typer.Argument(metavar="CUT", help="With --compare: further cuts.", show_default=False),
]
Compare = Annotated[
    bool,
    typer.Option(
        "--compare", help="Compare cuts of one original by the cards in their folders; -o writes frontier.html."
    ),
]
Text = Annotated[
    list[str] | None,
    typer.Option("--text", metavar="[NAME=]FILE", help="UTF-8 text to compare on; repeatable.", show_default="its own"),
]
Langs = Annotated[
    str | None,
    typer.Option(
        "--langs", metavar="de,fr", help="Languages (ISO codes) to compare in, too, on text by the original itself."
    ),
]
Tokens = Annotated[int, typer.Option("--tokens", min=64, metavar="N", help="Tokens to compare on, of each text.")]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="CARD.json",
        parser=path_of,
        help="Write the card, and CARD.html beside it; or the page of --compare.",
    ),
]
Tasks = Annotated[
    str | None,
    typer.Option(
        "--tasks",
        metavar="mmlu,mbpp",
        help="Ask both models: mmlu, mbpp, belebele, mgsm_direct, global_mmlu_full (or one language of these, such as "
        "mgsm_direct_de), xstest, crows_pairs, bbq, or any task of lm-evaluation-harness.",
    ),
]
Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", parser=path_of, help="Local copies of the tasks' data; else the hub's."),
]
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit", min=1, metavar="N", help="Items of each task in all, drawn by --seed; mbpp:100 limits one task."
    ),
]
Unsafe = Annotated[bool, typer.Option("--unsafe", help="Run programs that a model writes without a sandbox.")]
Seed = Annotated[
    int,
    typer.Option("--seed", min=0, max=LARGEST_SEED, metavar="N", help="Chooses windows and self-written text."),
]
NoSpeed = Annotated[bool, typer.Option("--no-speed", help="Leave out speed and memory.")]
NoAnswers = Annotated[bool, typer.Option("--no-answers", help="Leave out answers to a few prompts side by side.")]


def command(
    context: typer.Context,
    original: Original,
    cut: Cut,
    more: More = None,
    compare: Compare = False,
    text: Text = None,
    langs: Langs = None,
    tokens: Tokens = 8192,
    tasks: Tasks = None,
    data: Data = None,
    limit: Limit = None,
    unsafe: Unsafe = False,
    output: Output = None,
    seed: Seed = 0,
    threads: Threads = None,
    no_speed: NoSpeed = False,
    no_answers: NoAnswers = False,
    kv: KV = "f16",
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """What a cut model lost: KL divergence, same next token, bits per byte, size, speed and memory.

    --kv q8_0 measures the cut as it is where it keeps keys and values so, and says what that costs. The cut's
    vocabulary may be a part of the original's. Without --text, the original first writes a text of its own
    (minutes; kept for the next time). CUT may also be a folder for mlx-lm, vLLM, ONNX Runtime GenAI, OpenVINO or
    LiteRT, as smidgen export writes them: that program runs it, in an environment made for it where it is not
    installed.

    \b
    Examples:
      smidgen measure gemma-3-270m gemma-small
      smidgen measure gemma-3-270m gemma-small --text notes.txt -o card.json
      smidgen measure gemma-3-270m gemma-small --text de=de.txt --text fr=fr.txt --json
      smidgen measure gemma-3-270m gemma-german --langs de,en
      smidgen measure gemma-3-270m gemma-small --kv q8_0
      smidgen measure gemma-3-270m gemma-mlx --text notes.txt -o gemma-mlx/card.json
      smidgen measure gemma-3-270m gemma-small --tasks mmlu,xstest --data evaluations --limit 200
      smidgen measure --compare gemma-small gemma-tiny gemma-german -o frontier.html
    """
    if compare:
        return compare_cuts(context, [original, cut, *(more or ())], output, json)
    if more:
        raise SmidgenError(f"{printable(more[0])} is one model too many: give two, or --compare to compare cuts.")
    from smidgen.data.languages import languages_of
    from smidgen.data.sources import read_texts
    from smidgen.formats.hub.catalogue import origin_of
    from smidgen.formats.opening import read_config
    from smidgen.measuring.subjects import refuse_cut

    kept, path = kv_type(kv), None if output is None else _card_path(output)
    codes = comma_list(langs)
    languages_of(codes)
    read_texts(text or ())  # these are looked at before torch is loaded, which takes seconds
    before, after = origin_of(original), origin_of(cut)
    read_config(before.path)
    refuse_cut(after.path, kept)
    from smidgen.measuring.measure import measure

    card = measure(
        before, after, text or (), languages=codes, tokens=tokens, seed=seed, threads=threads,
        with_speed=not no_speed, with_answers=not no_answers, tasks=comma_list(tasks), data=data, limit=limit,
        unsafe=unsafe, output=path, kv=kept,
    )  # fmt: skip
    if json:
        print(json_format.dumps(card))
        return
    _print_card(card)
    if path is not None:
        print(f"\nCard: {printable(path)} and {printable(path.with_suffix('.html'))}")


def _print_answers(card: dict[str, Any]) -> None:
    """What both models answered, a line for each task."""
    from smidgen.measuring.answers_shown import answer_rows

    for row in answer_rows(card):
        print(f"\n{row.label}: {row.original} → {row.cut}, {row.difference} ({row.items})")
        if row.flips:
            print(f"  {row.flips}")
        for note in row.notes:
            print(f"  {note}")


def _card_path(output: Path) -> Path:
    """Checked before the minutes of measuring, not after. A folder gets card.json."""
    from smidgen.measuring.card import refuse_place

    path = output / "card.json" if output.is_dir() else output
    if path.suffix != ".json":
        raise SmidgenError(f"The card {printable(path)} must end in .json: its page is written beside it as .html.")
    refuse_place(path)
    return path


def _print_card(card: dict[str, Any]) -> None:
    from smidgen.measuring.figures import bits_per_byte, number, percent, size
    from smidgen.measuring.speed_shown import models_of, remarks
    from smidgen.measuring.verdict import verdict

    print(verdict(card))
    for text in card["fidelity"]:
        print(f"\n{text['text']} ({text['tokens']:,} tokens)")
        named = (("median", "kl_median"), ("p90", "kl_p90"), ("p99", "kl_p99"), ("p99.9", "kl_p999"))
        print(f"  KL divergence    {number(text['kl_mean'])} nats")
        print(f"                   {', '.join(f'{word} {number(text[key])}' for word, key in named)}")
        print(f"  same next token  {percent(text['same_top1'])}")
        bits = [bits_per_byte(text[f"bits_per_byte_{which}"]) for which in ("original", "cut")]
        print(f"  bits per byte    {' → '.join(bits)}")
        if text["dropped_mass"]:
            before, after = number(text["tokens_per_byte_original"]), number(text["tokens_per_byte_cut"])
            print(f"  tokens per byte  {before} → {after}")
            print(f"  mass dropped     {percent(text['dropped_mass'])} of the original's expectations")
    _print_answers(card)
    for note in card["notes"]:
        print(f"\n{note}")
    speed = card["speed"]
    if speed["decode_tokens_per_s"] is None:
        print(f"\nSpeed: not measured ({speed['reason']}).")
        return
    for line in remarks(models_of(card)):
        print(f"\n{line}")
    print(f"\n{speed['engine']}, {speed['threads']} threads")
    for label, key, words in (
        ("decode, tokens/s", "decode_tokens_per_s", number),
        ("prompt, tokens/s", "prompt_tokens_per_s", number),
        ("memory, writing", "resident_bytes", size),
        ("memory at most", "peak_ram_bytes", size),
    ):
        before = speed["original"]
        print(f"  {label:<17}{'not measured' if before is None else words(before[key])} → {words(speed[key])}")
