"""The costs of curation: what is told of what was measured, and what is counted."""

from collections import Counter
from pathlib import Path

import pytest

from benchmarks import sd15
from benchmarks.counted import caption_flops, decoder_flops
from benchmarks.curation import CurationConfig as Config
from benchmarks.curation import Tally, costs_of, costs_of_all, enlarged, size_of, without_networks
from flexip.images import encode_png
from flexip.rows import PairRow
from jobs.planning.costs import TABLES, read_table
from pipelines.features import FAMILIES, embed_crops, encode_family
from pipelines.records import Source


def tally(**seconds: float) -> Tally:
    counts = {"pixels": 4_000_000, "frames": 8, "clips": 2, "sources": 2, "crops": 16, "invariant": 6, "variant": 2}
    sizes = {"raw bytes": 400, "raw pixels": 100, "subjects bytes": 80, "pairs bytes": 16, "features bytes": 8}
    return Tally(Counter(seconds), Counter(counts | sizes | {"hashed": 1000}))


def test_costs_are_seconds_over_what_they_are_of():
    found = costs_of("clip", tally(read=2, search=4, pairs=6))
    values = {name: value for name, (value, _) in found.items()}
    assert values["read.clip"] == 0.5  # 2 s, 4 Mpx
    assert (values["search.clip"], values["pairs.clip"]) == (0.5, 3)
    assert (values["frames.clip"], values["crops.clip"], values["invariant.clip"]) == (4, 2, 3)
    assert (values["raw.clip"], values["subjects.clip"]) == (4, 10)


def test_costs_of_all_kinds_are_of_their_sums():
    found = costs_of_all([tally(embed=8, features=4), tally(embed=8, features=0, hash=2)])
    values = {name: value for name, (value, _) in found.items()}
    assert (values["embed"], values["features"]) == (0.5, 0.25)
    assert values["hash"] == pytest.approx(1e6)  # 2 s for 2 kB
    assert (values["pair.bytes"], values["features.bytes"]) == (2, 1)


def test_the_committed_table_has_every_cost():
    names = {name for kind in ("image", "clip", "set") for name in costs_of(kind, tally())} | set(
        costs_of_all([tally()])
    )
    measured = read_table(TABLES[0])
    missing = names - measured.keys()
    assert missing <= {"variant.image"}  # one still gives no pair of two moments


def test_encoders_without_networks_give_what_the_papers_would(pocket_encoders, reference):
    silent = without_networks(pocket_encoders)
    picture = encode_png(reference)
    pair = PairRow("id", "variant", "train", "c", "r", "t", picture, picture, picture, "a toy", 0.0, 1.0, 1.0)
    for family in FAMILIES:
        assert encode_family(silent, [pair, pair], family, 2, "float16").shape == (2, *sd15.SHAPES[family])
    assert embed_crops(silent, [reference], [reference[..., 0] > 0], 4).shape == (1, 1024)


def test_a_film_is_enlarged_and_what_is_none_is_left_out(test_data, tmp_path):
    config = Config(videos="", images="", output=tmp_path, height=96, seconds=0.5)
    enlarged(str(test_data / "video" / "flipping_a_pancake.mkv"), config, target := tmp_path / "film.mp4")
    frames, pixels = size_of(Source(str(target), "film.mp4", "video"))
    assert 10 <= frames <= 16
    assert pixels == 96 * 170
    (tmp_path / "none.mp4").write_bytes(b"none")
    enlarged(str(tmp_path / "none.mp4"), config, tmp_path / "out.mp4")
    assert not Path(tmp_path / "out.mp4").exists()


def test_counts_are_those_of_the_published_sizes():
    """BLIP-large sees 577 tokens with 303 M parameters; the decoder of Stable Diffusion has 1.24 TMAC at 512 px."""
    assert 2 * 577 * 0.303e9 < caption_flops(40) < 1.3 * 2 * 577 * 0.303e9
    assert decoder_flops() == pytest.approx(2 * 1.24e12, rel=0.05)
