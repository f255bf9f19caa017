"""The page: one file, no script, nothing from the network, every string escaped, every figure there."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from smidgen.measuring import parts
from smidgen.measuring.answers_shown import language_name
from smidgen.measuring.card import build_card
from smidgen.measuring.facts import Making
from smidgen.measuring.figures import bits_per_byte, number, percent, size
from smidgen.measuring.report import part_of_model, render
from smidgen.measuring.verdict import verdict
from smidgen.model.families import FAMILIES
from tests.measuring.test_card import full_card, model, tensors_of, text
from tests.tiny_models import LLAMA_CONFIG

ROLES = ("query", "key", "value", "output", "gate", "up", "down")
SECTIONS = (
    "size",
    "fidelity",
    "tasks",
    "languages",
    "safety",
    "answers",
    "speed",
    "energy",
    "types",
    "steps",
    "origin",
)
VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Collects tags and text, and checks that tags are closed in order.

    sections: name of a section → its words.  pictures: name of a section → how many it has.
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.sections: dict[str, str] = {}
        self.pictures: dict[str, int] = {}
        self._section: str | None = None
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "section":
            self._section = str(dict(attrs)["aria-labelledby"])
            self.sections[self._section], self.pictures[self._section] = "", 0
        elif tag == "svg" and self._section is not None:
            self.pictures[self._section] += 1

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "section":
            self._section = None

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self._section is not None:
            self.sections[self._section] += f"{data.strip()} " if data.strip() else ""


def whole_page(folder: Path) -> Page:
    """The page that a real cut wrote into a folder, once it is known to have every part that belongs there."""
    card = json.loads((folder / "card.json").read_text("utf-8"))
    page, done = Page((folder / "card.html").read_text("utf-8")), [step["step"] for step in card["steps"]]
    trimmed = any(one["tokens_dropped"] for one in (*card["fidelity"], *card["languages"].values()))
    wanted = [*SECTIONS]
    wanted += ["trimmed"] * trimmed + ["healing"] * ("heal" in done)
    assert sorted(page.sections) == sorted(wanted)
    words, tensors = " ".join(page.words), card["cut"]["tensors"]
    for label in ("Size", "KL divergence", "Same next token", "Bits per byte", "Speed (tokens/s)"):
        assert label in words
    for one in card["fidelity"]:
        figures = [number(one[key]) for key in ("kl_mean", "kl_p99", "kl_p999")]
        figures.append(bits_per_byte(one["bits_per_byte_cut"]))
        assert all(said in page.sections["fidelity"] for said in (one["text"], percent(one["same_top1"]), *figures))
    assert_speed_is_told(page.sections["speed"] + page.sections["energy"], card)
    assert_all_tensors_are_told(page, card)
    assert all(tensor["kind"] in page.sections["size"] for tensor in tensors)
    assert "Tokenizer and header" in page.sections["size"]
    for name, before, after in parts.rows(card["parts"]):
        assert f"{name} {size(before)} {size(after)}" in page.sections["size"]
    for step in card["steps"]:
        assert step["summary"][:200] in page.sections["steps"]
    assert f"The cut took {card['cost']['seconds']:.0f} s" in page.sections["steps"]
    assert page.pictures.get("healing", 0) == done.count("heal")
    for code, one in card["languages"].items():
        assert language_name(code) in page.sections["languages"]
        assert number(one["kl_mean"]) in page.sections["languages"]
        assert not trimmed or code in page.sections["trimmed"]
    for pair in card["answers"].get("shown", ()):
        assert " ".join(pair["cut"].split()) in " ".join(page.sections["answers"].split())
    assert card["cut"]["sha256"] in page.sections["origin"] and card["original"]["sha256"] in page.sections["origin"]
    return page


def assert_speed_is_told(said: str, card: Any) -> None:
    """Speed and memory, or why they were not measured."""
    sides = [card["speed"], card["speed"]["original"]]
    if card["speed"].get("reason"):
        assert f"not measured: {card['speed']['reason']}" in said
        return
    for side in sides:
        figures = [number(side["decode_tokens_per_s"]), number(side["prompt_tokens_per_s"])]
        assert all(figure in said for figure in (*figures, size(side["peak_ram_bytes"])))


def assert_all_tensors_are_told(page: Page, card: Any) -> None:
    """Types by layer, damage by layer where types were chosen, and the table, with every role in every layer."""
    inside, tensors = page.sections["types"], card["cut"]["tensors"]
    damage = {one["name"]: one["damage"] for step in card["steps"] for one in step.get("tensors", ())}
    assert page.pictures["types"] == (2 if damage else 1) and damage.keys() <= {tensor["name"] for tensor in tensors}
    layers = {tensor["layer"] for tensor in tensors} - {None}
    assert layers == {*range(len(layers))} and layers
    placed = {(one["layer"], role) for one in tensors if one["role"] for role in one["role"].split("+")}
    assert {(layer, role) for layer in layers for role in ROLES} | {(None, "embedding")} <= placed
    for tensor in tensors:
        row = [tensor["name"], part_of_model(tensor), tensor["original_kind"], tensor["kind"], f"{tensor['bytes']:,}"]
        assert f"{tensor['name']}: {tensor['kind']}" in inside and " ".join(filter(None, row)) in inside
    for layer in layers if damage else ():
        assert f"layer {layer}: attention" in inside or f"layer {layer} (" in inside
    assert all(number(value) in inside for value in damage.values())


def bare_card(**changes: Any) -> dict[str, Any]:
    return build_card(model("big", "Q8_0", 200_000), model("small", "Q4_0", 110_000), [text("prose", 0.06)], **changes)


def test_the_page_needs_nothing_from_outside_and_runs_nothing() -> None:
    page = render(full_card())
    parsed = Page(page)
    names = {tag for tag, _ in parsed.tags}
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "form", "base"}
    for _, attributes in parsed.tags:
        assert not attributes.keys() & {"src", "href", "srcset", "action", "onload", "onclick"}
    assert "http://" not in page and "https://" not in page and "url(" not in page and "@import" not in page
    assert "default-src 'none'" in page


def test_healing_is_shown_as_a_curve() -> None:
    step = {"step": "heal", "tokens": 4096, "seconds": 61.5, "watched": [[0, 0.0612], [2, 0.0551], [4, 0.0493]]}
    page = render(bare_card(making=Making([step])))
    Page(page)
    assert "How it healed" in page and "4,096 tokens" in page and "0.0493" in page and "http://" not in page
    assert "How it healed" not in render(bare_card())


def test_the_page_says_the_main_figures() -> None:
    page = render(full_card())
    for figure in ("200.0 kB", "110.0 kB", "0.090", "87.3%", "0.931", "0.912", "60", "40", "ab" * 32, "cd" * 32):
        assert figure in page, figure
    assert verdict(full_card()) == (
        "small: 110.0 kB instead of the 200.0 of big; predicts much like the original; gives the same next word 87.3% "
        "of the time; writes 1.5× as fast; worst language German."
    )


def test_the_page_says_how_the_divergence_is_spread_and_explains_only_what_it_shows() -> None:
    one = text("prose", 0.06)
    assert "standard error" in render(bare_card())
    single = replace(one, figures={**one.figures, "kl_standard_error": None, "kl_p90": 0.123})  # of a single window
    page = render(build_card(model("big", "Q8_0", 200_000), model("small", "Q4_0", 110_000), [single]))
    assert "standard error" not in page and '<td class="n" data-label="KL p90">0.123</td>' in page


def test_both_pictures_name_every_tensor() -> None:
    parsed = Page(render(full_card()))
    assert parsed.pictures["types"] == 2
    for tensor in full_card()["cut"]["tensors"]:
        assert f"{tensor['name']}: {tensor['kind']}" in parsed.sections["types"]
    assert "layer 2: attention" in parsed.sections["types"]
    assert "8 others: F32" in parsed.sections["types"]  # two norms in each layer, the last one, rotary divisors


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_each_family_s_tensors_have_their_place(family: Any) -> None:
    names = family.gguf.names
    layer = replace(
        LLAMA_CONFIG.layers[0], qk_norm=family.traits.qk_norm, post_norms=family.traits.post_norms,
        qkv_bias="blocks.{i}.attention.query.bias" in names,
    )  # fmt: skip
    mixture = replace(layer, experts=4, experts_used=2)
    last = mixture if "blocks.{i}.experts.router.weight" in names else layer
    layout = family.gguf_layout(replace(LLAMA_CONFIG, family=family.name, layers=(layer, last), tied_head=True))
    facts = replace(model("some", "Q4_0", 10**6), tensors=tensors_of(layout, "Q4_0"), layers=(0, 1))
    card = build_card(facts, facts, [])
    inside = Page(render(card)).sections["types"]
    places = [(tensor["layer"], role) for tensor in card["cut"]["tensors"] for role in tensor["role"].split("+")]
    assert {(number, role) for number in (0, 1) for role in ROLES} | {(None, "embedding")} <= {*places}
    for name in layout.shapes:
        assert f"{name}: " in inside  # in the picture
        assert f"{name} " in inside  # in the table
    assert "embedding and head: Q8_0" in inside


def test_tensors_that_are_not_known_are_listed() -> None:
    card = full_card()
    for tensor in card["cut"]["tensors"]:
        tensor |= {"layer": None, "original_layer": None, "role": None}
    inside = Page(render(card)).sections["types"]
    for tensor in card["cut"]["tensors"]:
        assert f"{tensor['name']}: {tensor['kind']}" in inside and f"{tensor['name']} " in inside
    assert f"{len(card['cut']['tensors'])} others: 3 types" in inside
    damage = sum(tensor["damage"] for tensor in card["steps"][0]["tensors"])
    assert f"others: {damage:.6f}" in inside


def test_layers_that_moved_say_the_number_that_they_had() -> None:
    two = FAMILIES["llama"].gguf_layout(replace(LLAMA_CONFIG, layers=LLAMA_CONFIG.layers[:2]))
    for layers, labels in (((0, 2), ["0 (0)", "1 (2)"]), (None, ["0 (?)", "1 (?)"])):
        cut = replace(model("small", "Q4_0", 5), tensors=tensors_of(two, "Q4_0"), layers=layers)
        inside = Page(render(build_card(model("big", "Q8_0", 9), cut, []))).sections["types"]
        assert all(label in inside for label in labels) and "in brackets, its number in the original" in inside
    assert "in brackets" not in render(full_card())


def test_without_speed_or_damage_it_says_not_measured_and_why() -> None:
    page = render(bare_card(speed_reason="llama.cpp refused"))
    assert "Speed and memory were not measured: llama.cpp refused." in page
    assert Page(page).pictures["types"] == 1 and "Damage by layer: not measured" in page


@pytest.mark.parametrize(
    "hostile", ["<script>alert(1)</script>", "\"'><img src=x onerror=alert(1)>", "a-<b>-&amp;{{7*7}}"]
)
def test_strings_from_strangers_stay_text(hostile: str) -> None:
    card = full_card()
    for part in ("original", "cut"):
        card[part] |= {"name": hostile, "path": hostile, "sha256": hostile}
    card["fidelity"][0] |= {"text": hostile, "sha256": hostile}
    card["fidelity"][2]["text"] = hostile
    card["languages"] = {hostile: card["fidelity"][0]}
    card["steps"][0] = card["steps"][0] | {"step": hostile, "parameters": {hostile: hostile}}
    card["speed"] |= {"engine": hostile, "machine": hostile}
    card["made"] |= {"machine": hostile}
    for tensor in card["cut"]["tensors"]:
        tensor |= {"kind": hostile, "original_kind": hostile}
    page = render(card)
    assert hostile not in page
    Page(page)
    assert not re.search(r"<(script|img|b)\b", page)
    assert {tag for tag, _ in Page(page).tags} == {tag for tag, _ in Page(render(full_card())).tags}


def test_a_text_seen_in_calibration_is_marked() -> None:
    seen = build_card(model("a", "Q8_0", 9), model("b", "Q4_0", 5), [text("prose", 0.06, seen=0.8)])
    assert "Too good to be true: 80.0% of the text prose was also used to make the cut" in render(seen)
    (note,) = build_card(model("a", "Q8_0", 9), model("b", "Q4_0", 5), [text("prose", 0.06, seen=0.054)])["notes"]
    assert note.startswith(
        "5.4% of the text prose was also used to make the cut, so its figures may be a little better"
    )
    assert note.endswith("smidgen measure ORIGINAL DIR --text FILE")


def test_a_text_of_which_other_passages_were_calibrated_on_is_marked() -> None:
    step = {"step": "quantize", "parameters": {"calibration": ["prose"]}}
    marked = render(
        build_card(
            model("a", "Q8_0", 9), model("b", "Q4_0", 5), [text("prose", 0.06, seen=0.01)], making=Making([step])
        )
    )
    assert "calibrated on other passages of the text prose" in marked
    assert "other passages" not in render(bare_card())
    assert "was also used to make" not in render(bare_card())


def test_the_page_of_a_model_against_itself_and_of_an_untied_larger_model() -> None:
    same = build_card(model("a", "Q8_0", 200_000), model("a", "Q8_0", 200_000), [text("prose", 0.0)])
    assert "as large as a (200.0 kB)" in verdict(same) and "makes the same predictions" in verdict(same)
    Page(render(same))
    grown = build_card(model("a", "Q8_0", 9000), model("b", "Q8_0", 2_000_000), [])
    assert verdict(grown) == "b: 2.0 MB instead of the 9.0 kB of a."


def test_bits_per_byte_have_the_digits_that_a_difference_shows_in() -> None:
    assert (bits_per_byte(1.639), bits_per_byte(1.6439), bits_per_byte(None)) == ("1.6390", "1.6439", "not measured")


def test_words_for_figures() -> None:
    assert [size(v) for v in (253_113_024, 1_708_582_752, 512, None)] == [
        "253.1 MB",
        "1.71 GB",
        "512 bytes",
        "not measured",
    ]
    assert [number(v) for v in (0.0617, 1.0249, 48.13, 812.3, 12345.6, 0.0, 0.00001234, 1e-9, None)] == [
        "0.0617", "1.02", "48.1", "812", "12,346", "0.00", "0.0000123", "under 0.000001", "not measured",
    ]  # fmt: skip
    assert [percent(v) for v in (0.8731, 1.0, 0.99999, 0.0, 0.0001, None)] == [
        "87.3%", "100.0%", "over 99.9%", "0.0%", "under 0.1%", "not measured",
    ]  # fmt: skip
