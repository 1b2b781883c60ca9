"""The pocket vocabulary."""

import re
from itertools import takewhile

import numpy as np
import pytest
import torch

from flexip.pocket.captions import altered, caption, vocabulary
from flexip.pocket.pretrain_clip import contrast
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


def words(sentence: str) -> list[str]:
    return [word for word in re.findall(r"[\w-]+", sentence) if word not in ("a", "an")]


def alike(first: list[str], second: list[str]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


def test_an_altered_caption_says_one_other_thing() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        sentence = caption(random_picture(rng, creatures=1), "long", bool(rng.integers(2)))
        wrong = altered(sentence, rng)
        old, new = words(sentence), words(wrong)
        kept = alike(old, new) + alike(old[::-1], new[::-1])
        assert old != new
        assert len(new) - kept <= 3, wrong  # the longest phrase: "on the moon"
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", wrong)
    changed = {altered("a red round creature", np.random.default_rng(seed)) for seed in range(60)}
    assert {"a blue round creature", "an orange round creature", "a red square creature"} <= changed
    assert altered("two creatures", rng) == "two creatures"


def test_a_wrong_caption_that_looks_like_the_right_one_costs_the_picture() -> None:
    image = torch.eye(2, 4)
    same = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0]])
    blind, seeing = torch.cat([image, image]), torch.cat([image, torch.eye(4)[2:]])
    losses = [contrast(image, text, torch.tensor(50.0), same).item() for text in (blind, seeing)]
    assert losses == pytest.approx([0.5 * np.log(2), 0.0], abs=1e-4)
