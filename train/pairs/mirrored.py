"""Which prompts a mirror image still fits."""

import re

_SIDES = re.compile(
    r"""\b(?:left|right)(?:most|wards?|-?hand(?:ed)?)?\b | \b(?:east|west)(?:ern|wards?)?\b
    | \b(?:anti-?|counter-?)?clockwise\b | \bmirror(?:ed)?\b
    | \bfrom\b.+\b(?:to|towards?|into|until|through)\b | \b(?:then|followed\ by|beginning|ends?|ending)\b
    | \b(?:text|texts|letters?|lettering|words?|writing|written|calligraphy|inscri\w+|signs?|signboards?
        |logos?|captions?|titles?|maps?|clocks?|flags?|number|digits?)\b
    | ["“”«»]""",
    re.IGNORECASE | re.VERBOSE,
)


def names_a_side(prompt: str) -> bool:
    """True for a prompt that says what is left or right, in which order a scroll passes its places, or that
    something is written; also for one in another script than Latin's, whose words are not known here."""
    foreign = any(letter.isalpha() and ord(letter) > 0x24F for letter in prompt)
    return foreign or bool(_SIDES.search(prompt))
