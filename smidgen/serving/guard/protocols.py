"""How a guard model is asked, and what its answer means: the protocols of ShieldGemma and of Llama Guard 3.

A guard model is trained on one fixed frame around the text to judge. In another frame it still answers, and the answer
means nothing. So the frames here are those of the models' own chat templates, to the character; all that a policy says
is put into them.

- ShieldGemma (arXiv 2407.21772) reads one policy at a time and says Yes (it is violated) or No. Its judgement is the
  probability of Yes against No as its first token.
- Llama Guard 3 (arXiv 2312.06674 and the model's card) reads all policies at once as categories S1, S2 … and says
  `safe`, or `unsafe` and in the next line the categories. Its judgement is the probability of `unsafe` as its first
  token.

Which protocol a file speaks is read from its name and its chat template. Where neither says, a person has to.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from smidgen.bounds import one_of
from smidgen.errors import SmidgenError, Unsupported, printable
from smidgen.model.chat import chat_templates
from smidgen.serving.guard.policies import Policy

ProtocolName = Literal["shieldgemma", "llama-guard"]
Kind = Literal["prompt", "answer"]
PROTOCOLS: tuple[ProtocolName, ...] = ("shieldgemma", "llama-guard")
TITLES: dict[ProtocolName, str] = {"shieldgemma": "ShieldGemma", "llama-guard": "Llama Guard 3"}

_NAMES: dict[str, ProtocolName] = {"shieldgemma": "shieldgemma", "llamaguard": "llama-guard"}
_MARKS: dict[str, ProtocolName] = {
    "Our safety principle is defined in the below:": "shieldgemma",
    "<BEGIN UNSAFE CONTENT CATEGORIES>": "llama-guard",
}
_NAMED = ("general.name", "general.basename", "general.finetune", "general.base_model.0.name")
_ROLES = {"prompt": "User", "answer": "Agent"}
_FRAME_MARKS = re.compile(r"<((?:BEGIN|END) (?:UNSAFE CONTENT CATEGORIES|CONVERSATION))>", re.IGNORECASE)


@dataclass(frozen=True)
class GuardProtocol:
    """The protocol that a guard model speaks.  why: how that is known, for the line that says it."""

    name: ProtocolName
    why: str

    @property
    def title(self) -> str:
        """The name as people write it."""
        return TITLES[self.name]

    @property
    def words(self) -> tuple[str, str]:
        """The two first words of an answer: for what violates a policy, and for what does not."""
        return ("Yes", "No") if self.name == "shieldgemma" else ("unsafe", "safe")


@dataclass(frozen=True)
class Part:
    """A stretch of what a guard reads.  said: it is a person's or a model's text, in which no token is meant."""

    text: str
    said: bool = False


@dataclass(frozen=True)
class Turn:
    """A message of a conversation.  role: "User" or "Agent"."""

    role: str
    text: str


def choose_protocol(metadata: Mapping[str, Any], said: str | None = None) -> GuardProtocol:
    """The protocol of a guard model, from its file's metadata, or as a person said.

    Raises SmidgenError where nobody says and the file does not tell, Unsupported for guards of another generation.
    """
    if said is not None:
        one_of("--guard-protocol", said, PROTOCOLS)
        return GuardProtocol(next(name for name in PROTOCOLS if name == said), "as --guard-protocol says")
    templates = "\n".join(chat_templates(metadata).values())
    names = [str(metadata.get(key, "")) for key in _NAMED]
    plain = [re.sub("[^a-z0-9]", "", name.lower()) for name in names]
    by_name: set[ProtocolName] = {_NAMES[mark] for mark in _NAMES if any(mark in name for name in plain)}
    by_template: set[ProtocolName] = {_MARKS[mark] for mark in _MARKS if mark in templates}
    found = by_name | by_template
    if len(found) != 1:
        reason = "its name and its chat template contradict each other" if found else "the file does not say it"
        shown = printable(next(filter(None, names), "the guard model"), 60)
        raise SmidgenError(
            f"the protocol of the guard {shown} is not known: {reason}. Say --guard-protocol {' or '.join(PROTOCOLS)}."
        )
    protocol = found.pop()
    _refuse_other_generations(protocol, metadata, plain, templates)
    return GuardProtocol(protocol, f"known by its {'name' if by_name else 'chat template'}")


def _refuse_other_generations(
    protocol: ProtocolName, metadata: Mapping[str, Any], names: Sequence[str], templates: str
) -> None:
    """Guards that have the name and another frame. Raises Unsupported."""
    if protocol == "shieldgemma":
        if metadata.get("general.architecture") == "gemma3":
            raise Unsupported("this is ShieldGemma 2, which judges pictures; give a ShieldGemma 1 (2B, 9B or 27B).")
        return
    third = any("llamaguard3" in name for name in names)
    other = any(re.search("llamaguard[0-9]", name) for name in names) or "<|start_header_id|>" not in templates
    if other and not third:
        raise Unsupported(
            "this Llama Guard is not known to be of generation 3; others have another frame and other categories. Say "
            "--guard-protocol llama-guard to ask it as a Llama Guard 3 all the same."
        )


def shieldgemma_parts(policy: Policy, kind: Kind, text: str, question: str = "") -> list[Part]:
    """What ShieldGemma reads to judge a prompt, or the answer to a question, by one policy."""
    if kind == "prompt":
        whose, asked, rule = "a user prompt", "human question", "prompt shall not contain or seek generation of"
        turns = [Part("<start_of_turn>\nHuman Question: "), Part(text, said=True), Part("\n<end_of_turn>\n\n")]
        must = "must"
    else:
        whose, asked, rule = "an AI response to a prompt", "Chatbot Response", "chatbot shall not generate"
        turns = [
            Part("<start_of_turn>\nHuman Question: "), Part(question, said=True), Part("\n<end_of_turn>\n"),
            Part("<start_of_turn>\nChatbot Response: "), Part(text, said=True), Part("\n<end_of_turn>\n\n"),
        ]  # fmt: skip
        must = "must "  # two spaces, as in the model's own template
    return [
        Part(
            f"You are a policy expert trying to help determine whether {whose} is in violation of the defined safety "
            "policies.\n\n"
        ),
        *turns,
        Part(
            "Our safety principle is defined in the below:\n\n"
            f'* "No {policy.title}": The {rule} {_phrase(policy)}.\n\n===\n\n'
            f"Does the {asked} violate the above principle? Your answer {must} start with 'Yes' or 'No'. And then walk "
            "through step by step to be sure we answer correctly.\n\n"
        ),
    ]


def llama_guard_task(policies: Sequence[Policy], kind: Kind, turns: Sequence[Turn], text: str) -> list[Part]:
    """What Llama Guard reads to judge the last message of a conversation by all policies: one message to it.

    turns: the conversation before that message. The chat template of the model goes around all of it.
    """
    role = _ROLES[kind]
    listed = "\n".join(
        f"{policy.category}: {policy.title}."
        + (f"\nAI models should not create {_phrase(policy)}." if policy.text else "")
        for policy in policies
    )
    parts = [
        Part(
            f"Task: Check if there is unsafe content in '{role}' messages in conversations according our safety policy "
            "with the below categories.\n\n<BEGIN UNSAFE CONTENT CATEGORIES>\n"
            f"{listed}\n<END UNSAFE CONTENT CATEGORIES>\n\n<BEGIN CONVERSATION>\n\n"
        )
    ]
    for turn in (*turns, Turn(role, text)):
        parts += [Part(f"{turn.role}: "), Part(_outside_of_frames(turn.text), said=True), Part("\n\n")]
    parts.append(
        Part(
            f"<END CONVERSATION>\n\nProvide your safety assessment for ONLY THE LAST {role} message in the above "
            "conversation:\n - First line must read 'safe' or 'unsafe'.\n - If unsafe, a second line must include a "
            "comma-separated list of violated categories."
        )
    )
    return parts


def _phrase(policy: Policy) -> str:
    return policy.text.strip().removesuffix(".")


def _outside_of_frames(text: str) -> str:
    """The text without the marks that begin and end the parts of the frame: words of a person end none of them."""
    return _FRAME_MARKS.sub(r"\1", text.strip())


def categories_of(written: str, policies: Sequence[Policy]) -> list[Policy]:
    """The policies that Llama Guard names in the line after `unsafe`."""
    named = {part.strip().upper() for part in written.strip().partition("\n")[0].split(",")}
    return [policy for policy in policies if policy.category in named]
