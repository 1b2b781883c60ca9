"""The pocket vocabulary: byte-level BPE in CLIP's layout, so small that a caption's words are single tokens."""

from collections import Counter
from itertools import pairwise
from typing import Any

from transformers import CLIPTokenizer

from flexip.pocket.captions import vocabulary

MAX_TOKENS = 1000
TEXT_LENGTH = 77
_END = "</w>"
_SPECIAL = ("<|startoftext|>", "<|endoftext|>")


def build_tokenizer() -> CLIPTokenizer:
    """A CLIPTokenizer of at most MAX_TOKENS tokens; any UTF-8 text has an encoding, by bytes where words are unknown.

    The end token has the highest id: open_clip finds the text's end by it.
    """
    alphabet = byte_letters()
    merges = learn_merges(sorted(vocabulary()), MAX_TOKENS - 2 * len(alphabet) - len(_SPECIAL))
    pieces = [*alphabet, *(letter + _END for letter in alphabet), *(a + b for a, b in merges), *_SPECIAL]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    options: dict[str, Any] = {"vocab": vocab, "merges": merges, "model_max_length": TEXT_LENGTH}
    return CLIPTokenizer(**options)


def learn_merges(words: list[str], limit: int) -> list[tuple[str, str]]:
    """Byte-pair merges, most frequent first, until each word is one token or the limit is reached."""
    splits = [[*word[:-1], word[-1] + _END] for word in words]
    merges: list[tuple[str, str]] = []
    while len(merges) < limit:
        pairs = Counter(pair for split in splits for pair in pairwise(split))
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        splits = [_merged(split, best) for split in splits]
    return merges


def byte_letters() -> list[str]:
    """The 256 printable characters that stand for the bytes 0..255 in byte-level BPE (Radford et al., 2019)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def _merged(split: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for piece in split:
        if out and (out[-1], piece) == pair:
            out[-1] += piece
        else:
            out.append(piece)
    return out
