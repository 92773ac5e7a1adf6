"""CLIP's byte-level BPE: text -> token ids, equal to openai/CLIP's `simple_tokenizer` on every input.

The merges come with the package open_clip_torch (`bpe_simple_vocab_16e6.txt.gz`, OpenAI's file unchanged).
Sennrich et al. 2016 for the algorithm; the byte alphabet is GPT-2's.
"""

import gzip
import html
from functools import cache, lru_cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import ftfy
import regex
import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from extraction.towers import check_tokens
from utils.errors import UserError

NUM_MERGES = 48_894  # the file has more lines; CLIP's vocabulary of 49,408 stops here
START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
_PATTERN = regex.compile(
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+", regex.IGNORECASE
)


def vocabulary_file() -> Path:
    """The merges file inside open_clip_torch, found without importing that (large) package."""
    spec = find_spec("open_clip")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "bpe_simple_vocab_16e6.txt.gz"
        if path.is_file():
            return path
    raise UserError(
        "the BPE vocabulary comes with open_clip_torch, which is not installed: pip install open_clip_torch"
    )


def clean(text: str) -> str:
    """Repair mojibake, undo HTML escapes (twice: they come doubled), collapse white space, lower-case."""
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


class Tokenizer:
    """`encode` and `decode` between text and ids; no start and end tokens (see `tokenize`)."""

    def __init__(self) -> None:
        with gzip.open(vocabulary_file(), "rt", encoding="utf-8") as file:
            lines = file.read().split("\n")[1 : NUM_MERGES + 1]  # the first line is a header
        merges = [tuple(line.split()) for line in lines]
        self._rank = {pair: rank for rank, pair in enumerate(merges)}
        self._byte_to_symbol = _byte_alphabet()
        symbols = list(self._byte_to_symbol.values())
        tokens = [*symbols, *(s + WORD_END for s in symbols), *("".join(pair) for pair in merges), START, END]
        self.ids = {token: i for i, token in enumerate(tokens)}
        self._tokens = tokens
        self._symbol_to_byte = {symbol: byte for byte, symbol in self._byte_to_symbol.items()}

    @property
    def start_id(self) -> int:
        return self.ids[START]

    @property
    def end_id(self) -> int:
        return self.ids[END]

    def encode(self, text: str) -> list[int]:
        return [i for word in _PATTERN.findall(clean(text)) for i in self._encode_word(word)]

    def decode(self, ids: list[int]) -> str:
        """Lower-case text with a space after every word; start and end tokens read as they are written."""
        text = "".join(self._tokens[i] for i in ids)
        data = bytearray(self._symbol_to_byte[c] for c in text)
        return data.decode("utf-8", errors="replace").replace(WORD_END, " ")

    @lru_cache(maxsize=65_536)  # noqa: B019 - one tokenizer lives as long as the process
    def _encode_word(self, word: str) -> tuple[int, ...]:
        if word in (START, END):  # written out in a text they become the special ids, as in the original
            return (self.ids[word],)
        symbols = [self._byte_to_symbol[byte] for byte in word.encode("utf-8")]
        symbols[-1] += WORD_END
        return tuple(self.ids[token] for token in self._merge(symbols))

    def _merge(self, symbols: list[str]) -> list[str]:
        """Join the neighbouring pair with the best rank, everywhere it stands, until no known pair is left."""
        unranked = len(self._rank)
        while len(symbols) > 1:
            pairs = list(pairwise(symbols))
            best = min(pairs, key=lambda pair: self._rank.get(pair, unranked))
            if best not in self._rank:
                break
            merged: list[str] = []
            i = 0
            while i < len(symbols):
                if i + 1 < len(symbols) and (symbols[i], symbols[i + 1]) == best:
                    merged.append(symbols[i] + symbols[i + 1])
                    i += 2
                else:
                    merged.append(symbols[i])
                    i += 1
            symbols = merged
        return symbols


def _byte_alphabet() -> dict[int, str]:
    """A printable character for every byte: itself where it prints, else the next unused code point from 256."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}


@cache
def default_tokenizer() -> Tokenizer:
    return Tokenizer()


def tokenize(texts: str | list[str], context_length: int = 77, truncate: bool = False) -> Int[Tensor, "n t"]:
    """Token ids (n, context_length), int32, zero-padded: start, text, end. Same as `clip.tokenize`.

    A longer text raises; with `truncate` it is cut and its last id becomes the end token.
    """
    tokenizer = default_tokenizer()
    texts = [texts] if isinstance(texts, str) else texts
    rows = [[tokenizer.start_id, *tokenizer.encode(text), tokenizer.end_id] for text in texts]
    return fixed_width(rows, texts, context_length, truncate=truncate)


def at_width(tokens: Int[Tensor, "b t"], *, context_length: int, vocab_size: int) -> Int[Tensor, "b n"]:
    """Ids that `tokenize` padded to any width, as a tower of n = `context_length` takes them.

    UserError for a text that has more tokens than that, and for ids of another tokenizer.
    """
    width = tokens.shape[1]
    if width > context_length and tokens[:, context_length:].any():
        raise UserError(
            f"token ids (b, {width}) with a text of more than {context_length}, the most this model takes: "
            "use model.tokenize(texts, truncate=True), which cuts it"
        )
    tokens = tokens[:, :context_length]
    check_tokens(tokens, context_length=context_length, vocab_size=vocab_size)
    return F.pad(tokens, (0, max(context_length - width, 0)))


def fixed_width(
    rows: list[list[int]], texts: list[str], context_length: int, *, truncate: bool, pad_id: int = 0
) -> Int[Tensor, "n t"]:
    """The ids of each text, int32, padded to `context_length`. UserError for too many, or cut before the last one."""
    result = torch.full((len(rows), context_length), pad_id, dtype=torch.int)
    for row, ids in enumerate(rows):
        if len(ids) > context_length and not truncate:
            which = f"text {row + 1} of {len(texts)}" if len(texts) > 1 else "the text"
            raise UserError(
                f"{which} has {len(ids)} tokens, {context_length} is the most this model takes (truncate=True cuts "
                f"it): {texts[row][:80]!r}"
            )
        kept = ids if len(ids) <= context_length else [*ids[: context_length - 1], ids[-1]]
        result[row, : len(kept)] = torch.tensor(kept, dtype=torch.int)
    return result
