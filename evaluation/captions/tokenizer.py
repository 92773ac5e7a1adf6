"""Captions -> words, as coco-caption counts them, without Java.

coco-caption runs Stanford's PTBTokenizer (CoreNLP 3.4.1, Penn Treebank style) with -lowerCase and drops a list of
punctuation marks. These are its rules as seen from outside, written anew: "can't" is "ca n't", "man's" is "man 's",
hyphens stay inside words, "st." keeps its full stop. Kept as it is there, because scores are compared: brackets become
the words "-lrb-" and "-rrb-" (the list has them in capitals, which do not occur), "?!" and "!!" are words as well.

Same words as Stanford's for 25,012 of the 25,014 captions of COCO's val2017 and all 40,201 of Flickr8k. What differs:
whether "Ave S." keeps its full stop depends there on the next line of the file; telephone numbers; stock symbols.
"""

import re

Tokens = list[str]

# These keep their full stop. States' names that are words too do so only with a capital: "Wash.", "a car wash."
_ABBREVIATIONS = (
    "mr|mrs|ms|mlle|mme|messrs|dr|prof|gen|col|capt|cpl|lt|sgt|pfc|pvt|sfc|maj|cmdr|adm|rev|hon|pres|gov|sen|sens|rep|"
    "reps|msgr|drs|ens|insp|supt|jr|sr|esq|st|ave|blvd|rd|ft|mt|ct|sq|jos|alex|wm|inc|co|corp|ltd|bros|cie|plc|"
    "jan|feb|mar|apr|jun|jul|aug|sep|sept|oct|nov|dec|mon|tue|tues|wed|thu|thurs|fri|"
    "ala|ariz|calif|colo|conn|dak|fla|ga|ind|kan|ky|md|mich|minn|mo|mont|neb|nev|okla|penn|tenn|va|vt|wis|wisc|wyo|"
    r"vs|etc|al|cf|est|dept|bldg|univ|assn|asst|tel|ext|intl|ph\.d"
)
_CAPITAL_ABBREVIATIONS = "Ark|Del|Ill|La|Mass|Miss|Ore|Pa|Tex|Wash"
_BEFORE_A_NUMBER = "no|nos|fig|pp|ca|prop|art|op"
# These begin a new sentence: "a sign for w. The man" has no abbreviation in it, "w. Taylor" has.
_STARTS = (
    "A|About|According|Additionally|After|An|As|At|But|He|Her|Here|However|If|In|It|Last|Many|More|Now|Once|One|Other|"
    "Our|She|Since|So|Some|Such|That|The|Their|Then|There|These|They|This|We|What|When|While|Yet|You"
)

_L, _A = r"[^\W\d_]", r"[^\W_]"  # a letter; a letter or digit
_END = rf"(?!{_A})"
_WORD = rf"{_L}{_A}*(?:(?:[.!?]|_+){_L}{_A}*)*"  # "hello.world" is one
_PART = rf"(?:[dlo]'(?={_L}{{2}}))?{_A}+"  # o'clock, d'oeuvres
_COMPOUND = rf"{_A}+(?:-{_L}+){{0,2}}"
_TOKEN = re.compile(
    rf"""
    </?[a-z][^<>]*>                                              # a tag
  | https?://[^\s<>"]*[\w/] | www\.[^\s<>"]*[\w/] | [\w.+-]+@[\w-]+(?:\.[\w-]+)+
  | [@\#]{_L}[^\W\d]* | [:;=]-?[()dp](?!\w)                           # #hashtag, :-)
  | (?:can(?=not{_END}) | (?:gon|wan)(?=na{_END}) | got(?=ta{_END}) | (?:lem|gim)(?=me{_END}))
  | '(?:n'|n|em|til|cause){_END} | (?<!\w)'\d\ds?{_END} | 't(?=(?:is|was){_END})
  | '(?:s|m|d|ll|re|ve){_END} | n['`]t{_END} | {_A}+?(?=n['`]t{_END})      # man|'s, do|n't
  | (?:ol'|ma'am|nor'easter){_END} | y'(?=all{_END})
  | (?:{_L}\.)+{_L}\.-{_A}+ | (?:{_L}\.){{2,}}(?!\w)             # u.s.-based, p.m.
  | {_L}\.(?!\w)(?!\s+(?-i:{_STARTS})\b)
  | (?:{_ABBREVIATIONS}|(?-i:{_CAPITAL_ABBREVIATIONS}))\.(?!\w)
  | (?:{_BEFORE_A_NUMBER})\.(?=\s?\d) | {_WORD}\.(?=,)  # no. 5; 6 oz., hot
  | \d{{1,4}}(?:/\d{{1,4}}){{1,2}}(?!\w) | {_COMPOUND}(?:/{_COMPOUND}){{1,2}}  # 1/2, 12/25/10, black/white
  | (?-i:[A-Z]+(?:&[A-Z]+)+){_END}                               # AT&T, but "b & w"
  | [-+]?(?:\d+(?:[.,:]\d+)+|[.,]\d+(?:[.,:]\d+)*)(?:-{_A}+)*    # 5:54|pm, 3.5-inch
  | (?-i:[A-HJ-XZn]'{_L}{{3,}}) | {_L}*[aeiouy]'[aeiou]{_L}*     # O'Brien, Te'o
  | {_PART}(?:-{_PART})+ | [dlo]'{_L}{{2,}}{_A}* | {_WORD} | {_PART}                     # t-shirt
  | [-+]\d+(?:[.,:]\d+)*{_END}
  | \.\.\. | \.\s\.\s\. | -- | [?!]{{2,}} | \*+ | '' | `` | << | >>
  | [^\s\U00010000-\U0010FFFF]                                   # any other sign, but no emoji
    """,
    re.VERBOSE | re.IGNORECASE,
)
_NORMAL = str.maketrans(
    {  # quotation marks, dashes and fractions of typographers
        **dict.fromkeys("\u2018\u2019", "'"),
        **dict.fromkeys("\u201c\u201d", '"'),
        **dict.fromkeys("\u2013\u2014", "--"),
        **{"\u2026": "...", "\u00bd": " 1/2", "\u00bc": " 1/4"},
    }
)
_BRACKETS = str.maketrans({"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"})
_DROPPED = frozenset(["''", "'", "``", "`", '"', ".", "?", "!", ",", ":", "-", "--", "...", ";"])


def tokenize(caption: str) -> Tokens:
    """Lower-case words of one caption; none for an empty one or one of punctuation only."""
    tokens = _TOKEN.findall(caption.replace("&amp;", "&").translate(_NORMAL))
    return [token.translate(_BRACKETS) for token in map(str.lower, tokens) if token not in _DROPPED]
