"""Captions made ungrammatical: what a grammar reward learns to tell from people's captions.

Paper: Cho et al. 2022, section 3.3: five kinds of edits, each as likely as the others. Deliberate differences: pieces
fit into short captions, and an edit that changes nothing, or leaves nothing, is drawn again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from utils.errors import UserError

MOST = 3  # words of a piece, copies of it, words inserted, words swapped: 1 to 3, each as likely
Words = list[str]


@dataclass(frozen=True)
class Negative:
    kind: str
    words: Words


def corrupt(words: Sequence[str], vocabulary: Sequence[str], draw: Random) -> Negative:
    """Never equal to `words`, never empty. A kind that cannot change them is not drawn: one word cannot be shuffled.

    `vocabulary`, words that differ, is what is inserted; UNK should not be among them.
    """
    if not words or not vocabulary:
        raise UserError("negatives: expected a caption of one word or more, and a vocabulary to insert from")
    impossible = {"remove": len(words) < 2, "swap": len(vocabulary) < 2, "shuffle": len(set(words)) < 2}
    kind = draw.choice([kind for kind in EDITS if not impossible.get(kind)])
    changed = list(words)
    while changed == list(words):
        changed = EDITS[kind](list(words), vocabulary, draw)
    return Negative(kind, changed)


def repeat(words: Words, vocabulary: Sequence[str], draw: Random) -> Words:
    """Copies of a piece, each put in anywhere."""
    piece = _piece(words, len(words), draw)
    changed = words
    for _ in range(draw.randint(1, MOST)):
        place = draw.randint(0, len(changed))
        changed = changed[:place] + words[piece] + changed[place:]
    return changed


def remove(words: Words, vocabulary: Sequence[str], draw: Random) -> Words:
    """Without a piece; something is left."""
    piece = _piece(words, len(words) - 1, draw)
    return words[: piece.start] + words[piece.stop :]


def insert(words: Words, vocabulary: Sequence[str], draw: Random) -> Words:
    """Words put in anywhere but at the end."""
    changed = list(words)
    for _ in range(draw.randint(1, MOST)):
        changed.insert(draw.randrange(len(changed)), draw.choice(vocabulary))
    return changed


def swap(words: Words, vocabulary: Sequence[str], draw: Random) -> Words:
    """Other words in the place of some."""
    changed = list(words)
    for _ in range(draw.randint(1, MOST)):
        place = draw.randrange(len(changed))
        other = changed[place]
        while other == changed[place]:
            other = draw.choice(vocabulary)
        changed[place] = other
    return changed


def shuffle(words: Words, vocabulary: Sequence[str], draw: Random) -> Words:
    return draw.sample(words, len(words))


def _piece(words: Words, longest: int, draw: Random) -> slice:
    """1 to 3 words in a row, `longest` at most."""
    length = min(draw.randint(1, MOST), longest)
    start = draw.randint(0, len(words) - length)
    return slice(start, start + length)


EDITS: dict[str, Callable[[Words, Sequence[str], Random], Words]] = {
    edit.__name__: edit for edit in (repeat, remove, insert, swap, shuffle)
}
