"""The pocket vocabulary."""

import numpy as np

from flexip.pocket.captions import vocabulary
from flexip.pocket.tokens import MAX_TOKENS, TEXT_LENGTH, build_tokenizer
from flexip.pocket.world import random_picture, render


def test_words_of_the_world_are_single_tokens() -> None:
    tokenizer = build_tokenizer()
    assert len(tokenizer) <= MAX_TOKENS
    words = sorted(vocabulary())
    assert {word: len(tokenizer(word).input_ids) - 2 for word in words} == dict.fromkeys(words, 1)


def test_any_text_has_an_encoding_and_keeps_its_bytes() -> None:
    tokenizer = build_tokenizer()
    for text in ("", "ein größerer Bär", "雪の中の青い生き物", "a 🙂 creature\twith\u0000 12 €", "\U0010ffff"):
        ids = tokenizer(text, padding="max_length", truncation=True).input_ids
        assert len(ids) == TEXT_LENGTH
        assert max(ids) < len(tokenizer)
    plain = tokenizer("ein größerer bär", add_special_tokens=False).input_ids
    assert tokenizer.eos_token_id not in plain  # no byte was unknown
    assert tokenizer.decode(plain) == "ein größerer bär"


def test_captions_fit_the_text_length() -> None:
    tokenizer = build_tokenizer()
    rng = np.random.default_rng(0)
    captions = [text for _ in range(100) for text in render(random_picture(rng), 16).captions.values()]
    assert max(len(ids) for ids in tokenizer(captions).input_ids) <= TEXT_LENGTH
