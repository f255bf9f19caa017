"""What a guard decides of a text by one policy, and the sentence that says why."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from smidgen.serving.guard.policies import Policy
from smidgen.serving.guard.protocols import Kind

Verdict = Literal["allowed", "flagged", "refused", "undecided"]
Consequence = Literal["allow", "flag", "refuse"]

_GRAVITY: dict[str, int] = {"allow": 0, "flag": 1, "refuse": 2}
_VIOLATED: dict[str, Verdict] = {"refuse": "refused", "flag": "flagged"}


@dataclass(frozen=True)
class Decision:
    """What is decided of one text by one policy. It holds nothing of the text.

    policy: its name.  on: "prompt" or "answer".
    consequence: what follows; for "undecided", what the policy says.
    probability: that the policy is violated, as the guard says; None where it did not say.
    reason: in words.  seconds: that it took.  choice: which of several answers, None where there is one.
    """

    policy: str
    on: Kind
    verdict: Verdict
    consequence: Consequence
    probability: float | None
    reason: str
    seconds: float
    choice: int | None = None


@dataclass(frozen=True)
class Reading:
    """What a guard said of one piece of a text.  violated: the policies that it names; None where it means all that it
    was asked about."""

    probability: float
    violated: tuple[str, ...] | None = None


def refuses(decisions: Iterable[Decision]) -> bool:
    """Whether what was judged is to be refused."""
    return any(decision.consequence == "refuse" for decision in decisions)


def likeliest(policy: Policy, readings: Sequence[Reading]) -> float | None:
    """The highest probability that the policy is violated; None where the guard named others and not this one."""
    meant = [one.probability for one in readings if one.violated is None or policy.name in one.violated]
    return max(meant, default=None)


def is_refused(policy: Policy, readings: Sequence[Reading]) -> bool:
    """Whether the policy refuses the text, whatever is still to be read of it."""
    probability = likeliest(policy, readings)
    return policy.action == "refuse" and probability is not None and probability >= policy.threshold


def decide(
    policy: Policy, on: Kind, readings: Sequence[Reading], why: str | None, seconds: float, shortened: bool
) -> Decision:
    """What follows from what the guard said.

    why: what kept it from reading all of the text, None if nothing.
    shortened: earlier messages stood beside the text in part only.
    """
    probability = likeliest(policy, readings)
    beside = " Earlier messages stood beside it in part only." if shortened else ""
    violated = probability is not None and probability >= policy.threshold
    if why is not None and not (violated and _GRAVITY[policy.action] >= _GRAVITY[policy.undecided]):
        reason = f"The guard could not decide: {why}. This policy says {policy.undecided} then."
        return Decision(policy.name, on, "undecided", _consequence(policy.undecided), None, reason, seconds)
    if violated:
        piece = f" for one of {len(readings)} overlapping pieces" if len(readings) > 1 else ""
        reason = f"The guard's probability is {probability:.3f}{piece}; this policy says {policy.action} from "
        reason += f"{policy.threshold:g} on.{beside}"
        verdict, follows = _VIOLATED[policy.action], _consequence(policy.action)
        return Decision(policy.name, on, verdict, follows, probability, reason, seconds)
    if probability is None:
        reason = f"The guard finds it unsafe for another reason and does not name this policy.{beside}"
    else:
        reason = f"The guard's probability is {probability:.3f}, below {policy.threshold:g}.{beside}"
    return Decision(policy.name, on, "allowed", "allow", probability, reason, seconds)


def worst(decisions: Iterable[Decision]) -> list[Decision]:
    """One decision for each policy: the gravest, with the time of all."""
    found: dict[str, Decision] = {}
    for one in decisions:
        earlier = found.get(one.policy)
        graver = one if earlier is None else max(earlier, one, key=_gravity)
        found[one.policy] = replace(graver, seconds=one.seconds + (0.0 if earlier is None else earlier.seconds))
    return list(found.values())


def _gravity(decision: Decision) -> tuple[int, bool, float]:
    return _GRAVITY[decision.consequence], decision.verdict != "allowed", decision.probability or 0.0


def _consequence(said: str) -> Consequence:
    return next(one for one in ("allow", "flag", "refuse") if one == said)
