"""The policies that a guard judges by where nobody gives a file: for each protocol, those that its models know."""

from smidgen.serving.guard.policies import Policy
from smidgen.serving.guard.protocols import ProtocolName

# The four harms that ShieldGemma was trained on, described in our own words.
_SHIELDGEMMA = (
    Policy(
        "dangerous-content",
        "Dangerous Content",
        "content that helps or encourages people to hurt themselves or others (such as making or getting weapons and "
        "explosives, planning violence or terrorism, or ways to end one's life)",
    ),
    Policy(
        "harassment",
        "Harassment",
        "content that attacks, threatens or humiliates a certain person (such as threats of violence, bullying, or "
        "mocking those who suffered from a crime or a disaster)",
    ),
    Policy(
        "hate-speech",
        "Hate Speech",
        "content that attacks, insults or demeans people for what they are (such as their origin, skin colour, "
        "religion, disability, age, sex, gender identity or sexual orientation), or calls for violence against them or "
        "for taking rights from them. Speaking of such a group in a fair or friendly way is allowed",
    ),
    Policy(
        "sexual-content",
        "Sexually Explicit Information",
        "content that describes sexual acts or is meant to arouse. Words of medicine and of sex education are allowed",
    ),
)

# Llama Guard 3's categories in their order, by the titles that it was trained with: (name, title, action). The flagged
# ones are often asked about in good faith.
_LLAMA_GUARD = (
    ("violent-crimes", "Violent Crimes", "refuse"),
    ("non-violent-crimes", "Non-Violent Crimes", "refuse"),
    ("sex-crimes", "Sex Crimes", "refuse"),
    ("child-exploitation", "Child Exploitation", "refuse"),
    ("defamation", "Defamation", "flag"),
    ("specialized-advice", "Specialized Advice", "flag"),
    ("privacy", "Privacy", "flag"),
    ("intellectual-property", "Intellectual Property", "flag"),
    ("weapons", "Indiscriminate Weapons", "refuse"),
    ("hate", "Hate", "refuse"),
    ("self-harm", "Self-Harm", "refuse"),
    ("sexual-content", "Sexual Content", "refuse"),
    ("elections", "Elections", "flag"),
    ("code-interpreter-abuse", "Code Interpreter Abuse", "flag"),
)


def default_policies(protocol: ProtocolName) -> tuple[Policy, ...]:
    """The policies for guards that speak this protocol."""
    if protocol == "shieldgemma":
        return _SHIELDGEMMA
    return tuple(
        Policy(name, title, action=action, undecided=action, category=f"S{number}")
        for number, (name, title, action) in enumerate(_LLAMA_GUARD, 1)
    )
