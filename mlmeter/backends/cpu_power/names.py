"""Processor names: one key per model, and what vendors' numbering schemes tell.

Keys are compared exactly. A near miss such as 7763 for 7763X or 8480+ for 8480C would be a
wrong figure told with confidence, so there is no fuzzy match: a name that is not in the table
is an unknown name.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_MARKS = re.compile(r"\((?:r|tm|c)\)|[®™©]")
# From here on nothing names the model: a clock, a second remark, the graphics inside.
_TAIL = re.compile(r"[@,;].*|\b(?:with|w/).*")
_PARENTHESES = re.compile(r"\([^)]*\)?")
_CLOCK = re.compile(r"\b\d+(?:\.\d+)?\s*[gm]hz\b")
_CORES = re.compile(
    r"\b(?:\d+|single|dual|two|triple|quad|four|six|eight|twelve|sixteen|multi)[- ]?cores?\b(?!\s*i\d)"
)
_WORDS = re.compile(r"\b(?:processors?|cpu|apu|soc|64-bit|genuine|server|family|engineering sample)\b")
_BRAND = re.compile(
    r"\b(?:xeon|epyc|opteron|threadripper|ryzen|core|pentium|celeron|atom|athlon|phenom|sempron|turion"
    r"|graviton|altra|ampereone|grace|axion|cobalt|neoverse|kunpeng|thunderx2?|m\d)"
)
# Xeons of which a submitter or a firmware has left out the word.
_BARE_XEON = re.compile(r"^(?:intel\s+)?(?=e[357][- ]\d{4}|[xlw]\d{4}\b)")
_XEON_GRADE = re.compile(r"\b(?:platinum|gold|silver|bronze|max|scalable)\b")
_XEON_TWICE = re.compile(r"\b([dew])\s+(?=\1-?\d)")


def model_key(name: str) -> str:
    """Return the key of a processor's name: letters, digits and plus signs; ``""`` if it names none.

    Trademark signs, clocks, core counts, vendors' names, grades of Xeons ("Platinum") and
    remarks ("with Radeon Graphics") are left out; nothing else is.

    Example:
        >>> model_key("Intel(R) Xeon(R) Platinum 8480+ CPU @ 2.00GHz")
        'xeon8480+'
        >>> model_key("AMD EPYC 7763 64-Core Processor")
        'epyc7763'
    """
    text = _MARKS.sub(" ", name.lower().replace("_", " "))
    text = _PARENTHESES.sub(" ", _TAIL.sub(" ", text))
    text = _CORES.sub(" ", _CLOCK.sub(" ", text))
    text = " ".join(_WORDS.sub(" ", text).split())
    text = _BARE_XEON.sub("xeon ", text)
    brand = _BRAND.search(text)
    if brand is None:
        return ""
    text = text[brand.start() :]
    if text.startswith("xeon"):
        text = _XEON_TWICE.sub("", _XEON_GRADE.sub(" ", text).strip())
        text = re.sub(r"\s+0$", "", text)
    key = re.sub(r"[^a-z0-9+]", "", text)
    # A name without a number is that of a brand, which hypervisors show: "AMD EPYC", "Intel Xeon".
    named = any(character.isdigit() for character in key) or key.startswith("grace")
    return key if named else ""


class Generation(NamedTuple):
    """What a name's number tells without a table.

    Attributes:
        year: of the first models of the generation.
        sockets: most processors that a machine has of it, as hosts of virtual machines are built.
    """

    year: int
    sockets: int


# Typed from the vendors' numbering schemes. The first that fits the whole key counts.
_GENERATIONS = tuple(
    (re.compile(pattern), Generation(year, sockets))
    for pattern, year, sockets in (
        # Woodcrest; its 5110 and 5120 have the numbers of a Xeon Gold of 2017.
        (r"xeon51[3-6]0", 2006, 2),
        (r"xeone3\d{4}l?", 2011, 1),
        (r"xeone3\d{4}[a-z]?v2", 2012, 1),
        (r"xeone3\d{4}[a-z]?v3", 2013, 1),
        (r"xeone3\d{4}[a-z]?v[45]", 2015, 1),
        (r"xeone3\d{4}[a-z]?v6", 2017, 1),
        (r"xeone5\d{4}[a-z]?", 2012, 2),
        (r"xeone5\d{4}[a-z]?v2", 2013, 2),
        (r"xeone5\d{4}[a-z]?v3", 2014, 2),
        (r"xeone5\d{4}[a-z]?v4", 2016, 2),
        (r"xeone7\d{4}[a-z]?", 2011, 4),
        (r"xeone7\d{4}[a-z]?v2", 2014, 4),
        (r"xeone7\d{4}[a-z]?v3", 2015, 4),
        (r"xeone7\d{4}[a-z]?v4", 2016, 4),
        (r"xeone21\d\d[a-z]?", 2018, 1),
        (r"xeone22\d\d[a-z]*", 2019, 1),
        (r"xeone23\d\d[a-z]?", 2021, 1),
        (r"xeone24\d\d[a-z]?", 2023, 1),
        (r"xeond15\d\d[a-z]*", 2015, 1),
        (r"xeond21\d\d[a-z]*", 2018, 1),
        (r"xeond16\d\d[a-z]*", 2019, 1),
        (r"xeond[12]7\d\d[a-z]*", 2022, 1),
        (r"xeond[12]8\d\d[a-z]*", 2023, 1),
        # Xeon 6: the grades of the years before have no final P or E on these numbers.
        (r"xeon6[5-9]\d\de[+]?", 2024, 2),
        (r"xeon6[5-9]\d\dp[a-z+]*", 2024, 2),
        (r"xeon[34568]1\d\d[a-z]*", 2017, 2),
        (r"xeon[34568]2\d\d[a-z]*", 2019, 2),
        (r"xeon[568]3\d\dhl?", 2020, 4),
        (r"xeon[34568]3\d\d[a-z+]*", 2021, 2),
        (r"xeon[345689]4\d\d[a-z+]*", 2023, 2),
        (r"xeon[34568]5\d\d[a-z+]*", 2023, 2),
        (r"xeon(?:30|53)\d\d|xeon[exlw]53\d\d", 2006, 2),
        (r"xeon[exl]?(?:32|72|73)\d\d", 2007, 2),
        (r"xeon[exlw](?:33|52|54|74)\d\d", 2008, 2),
        (r"xeon[exlw](?:34|55)\d\d", 2009, 2),
        (r"xeon[exlw]?(?:56|65|75)\d\d", 2010, 2),
        (r"xeon70\d\d[a-z]?", 2005, 4),
        (r"xeon71\d\d[a-z]?", 2006, 4),
        (r"opteron[128][12]\d\d(?:[a-z]{2})?", 2006, 2),
        (r"opteron[128]3[3-6]\d(?:[a-z]{2})?", 2007, 2),
        (r"opteron[128]3[7-9]\d(?:[a-z]{2})?", 2008, 2),
        (r"opteron[28]4\d\d(?:[a-z]{2})?", 2009, 2),
        (r"opteron[46]1\d\d(?:[a-z]{2})?", 2010, 2),
        (r"opteron[346]2\d\d(?:[a-z]{2})?", 2011, 2),
        (r"opteron[346]3\d\d(?:[a-z]{2})?", 2012, 2),
        # A final P is a processor for one socket.
        (r"epyc7[0-9a-z]{2}1p", 2017, 1),
        (r"epyc7[0-9a-z]{2}1", 2017, 2),
        (r"epyc7[0-9a-z]{2}2p", 2019, 1),
        (r"epyc7[0-9a-z]{2}2[a-z]?", 2019, 2),
        (r"epyc7[0-9a-z]{2}3p", 2021, 1),
        (r"epyc7[0-9a-z]{2}3[a-z]?", 2021, 2),
        (r"epyc8[0-9a-z]{2}4pn?", 2023, 1),
        (r"epyc4[0-9a-z]{2}4p[a-z]?", 2024, 1),
        (r"epyc4[0-9a-z]{2}5p[a-z]?", 2025, 1),
        (r"epyc9[0-9a-z]{2}4p[a-z]?", 2022, 1),
        (r"epyc9[0-9a-z]{2}4[a-z]?", 2022, 2),
        (r"epyc9[0-9a-z]{2}5p", 2024, 1),
        (r"epyc9[0-9a-z]{2}5[a-z]?", 2024, 2),
        (r"ryzen[3579](?:pro)?1\d{3}[a-z]*", 2017, 1),
        (r"ryzen[3579](?:pro)?2\d{3}[a-z]*", 2018, 1),
        (r"ryzen[3579](?:pro)?3\d{3}[a-z]*", 2019, 1),
        (r"ryzen[3579](?:pro)?[45]\d{3}[a-z0-9]*", 2020, 1),
        (r"ryzen[3579](?:pro)?[67]\d{3}[a-z0-9]*", 2022, 1),
        (r"ryzen[3579](?:pro)?[89]\d{3}[a-z0-9]*", 2024, 1),
    )
)

# Brands of machines under a desk or on a lap; nothing here was checked on these.
_CLIENT = re.compile(r"(?:core|ryzen|pentium|celeron|atom|athlon|phenom|sempron|turion|threadripper|m\d)")


def generation(key: str) -> Generation | None:
    """Return what the numbering scheme of a key tells; None if it follows none that is known."""
    return next((found for pattern, found in _GENERATIONS if pattern.fullmatch(key)), None)


def is_client(key: str) -> bool:
    """Whether a key is that of a desktop's or laptop's processor."""
    return _CLIENT.match(key) is not None
