"""Porter's stemmer (1980) as NLTK has it by default: "sitting" and "sits" become "sit".

NLTK's differences are kept, for the same words are to be counted: short words stay, -ies and -ied of words of four
letters become -ie, fulli becomes ful, a list of irregular words, -alli and -logi beside Porter's own endings.
"""

import re
from functools import lru_cache

_IRREGULAR = {
    "skies": "sky", "sky": "sky", "dying": "die", "lying": "lie", "tying": "tie", "news": "news", "innings": "inning",
    "inning": "inning", "outings": "outing", "outing": "outing", "cannings": "canning", "canning": "canning",
    "howe": "howe", "proceed": "proceed", "exceed": "exceed", "succeed": "succeed",
}  # fmt: skip
_STEP_2 = (
    "ational:ate tional:tion enci:ence anci:ance izer:ize bli:ble alli:al entli:ent eli:e ousli:ous ization:ize "
    "ation:ate ator:ate alism:al iveness:ive fulness:ful ousness:ous aliti:al iviti:ive biliti:ble fulli:ful logi:log"
)
_STEP_3 = "icate:ic ative: alize:al iciti:ic ical:ic ful: ness:"
_STEP_4 = "al: ance: ence: er: ic: able: ible: ant: ement: ment: ent: ion: ou: ism: ate: iti: ous: ive: ize:"


def _rules(table: str) -> list[tuple[str, str]]:
    """Endings and what replaces them, the longest first: it alone decides."""
    pairs = [tuple(rule.split(":")) for rule in table.split()]
    return sorted(((ending, new) for ending, new in pairs), key=lambda pair: -len(pair[0]))


_RULES_2, _RULES_3, _RULES_4 = _rules(_STEP_2), _rules(_STEP_3), _rules(_STEP_4)


@lru_cache(maxsize=50_000)
def stem(word: str) -> str:
    """Of a lower-case word."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) <= 2:
        return word
    word = _final_y(_past_and_ing(_plural(word)))
    word = _suffix(word, _RULES_2, 1)
    word = _suffix(word, _RULES_3, 1)
    word = _suffix(word, _RULES_4, 2)
    return _final_e_and_l(word)


def _shape(stem: str) -> str:
    """c and v for consonants and vowels; y is a vowel after a consonant."""
    shape = ""
    for letter in stem:
        is_vowel = letter in "aeiou" or (letter == "y" and shape[-1:] == "c")
        shape += "v" if is_vowel else "c"
    return shape


def _measure(stem: str) -> int:
    """How often vowels are followed by consonants."""
    return len(re.findall("v+c+", _shape(stem)))


def _ends_double(word: str) -> bool:
    return len(word) >= 2 and word[-1] == word[-2] and _shape(word)[-1] == "c"


def _ends_cvc(word: str) -> bool:
    """ "hop", but not "snow"; also words of two letters such as "at"."""
    shape = _shape(word)
    return (shape[-3:] == "cvc" and word[-1] not in "wxy") or shape == "vc"


def _plural(word: str) -> str:
    if word.endswith("sses"):
        return word[:-2]
    if word.endswith("ies"):
        return word[:-1] if len(word) == 4 else word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _past_and_ing(word: str) -> str:
    if word.endswith("ied"):
        return word[:-1] if len(word) == 4 else word[:-2]
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    for ending in ("ed", "ing"):
        start = word.removesuffix(ending)
        if start != word and "v" in _shape(start):
            if start.endswith(("at", "bl", "iz")):
                return start + "e"
            if _ends_double(start):
                return start if start[-1] in "lsz" else start[:-1]
            return start + "e" if _measure(start) == 1 and _ends_cvc(start) else start
    return word


def _final_y(word: str) -> str:
    """ "happy" -> "happi", but "enjoy" and "by" stay."""
    if word.endswith("y") and len(word) > 2 and _shape(word[:-1])[-1] == "c":
        return word[:-1] + "i"
    return word


def _suffix(word: str, rules: list[tuple[str, str]], least_measure: int) -> str:
    """Of the rules the first that fits the ending decides."""
    for ending, new in rules:
        if word.endswith(ending):
            start = word[: -len(ending)]
            # The "l" of -logi belongs to the start.
            fits = _measure(start + "l" if ending == "logi" else start) >= least_measure
            if ending == "ion":
                fits = fits and start[-1:] in ("s", "t")
            if fits and ending == "alli":
                return _suffix(start + new, rules, least_measure)
            return start + new if fits else word
    return word


def _final_e_and_l(word: str) -> str:
    if word.endswith("e"):
        start = word[:-1]
        if _measure(start) > 1 or (_measure(start) == 1 and not _ends_cvc(start)):
            word = start
    return word[:-1] if word.endswith("ll") and _measure(word[:-1]) > 1 else word
