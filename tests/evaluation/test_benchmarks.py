"""Benchmarks of every layout in one form; what is wrong with a manifest is named by file and line."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evaluation.benchmarks import BenchmarkError, Photo, pooled, without_broken, without_subject
from evaluation.layouts import pocket_benchmark, read_benchmark
from flexip.images import encode_png


def picture(path: Path, shade: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(np.full((16, 16, 3), shade, np.uint8)))
    return path


def test_dreambench_has_its_classes_prompts_and_photographs(test_data):
    found = read_benchmark("dreambench", test_data / "images" / "dreambooth")
    assert len(found.cases) == 25 * len(found.subjects)
    words = {subject.name: (subject.word, subject.kind) for subject in found.subjects}
    assert words["dog2"] == ("dog", "live")
    assert words["red_cartoon"] == ("cartoon", "object")
    prompts = {case.prompt for case in found.cases}
    assert {"a dog in a purple wizard outfit", "a cartoon on top of a mirror"} <= prompts
    assert not any("{" in prompt or "  " in prompt for prompt in prompts)
    assert found.subject("candle").reference.image.ndim == 3  # a picture of two frames
    few = found.first(subjects=2, prompts=3)
    assert (len(few.subjects), len(few.cases)) == (2, 6)
    assert few.digest != found.digest == read_benchmark("dreambench", test_data / "images" / "dreambooth").digest


def test_dreambench_plus_goes_by_captions(tmp_path):
    picture(tmp_path / "images" / "animal" / "00.jpg", 10)
    captions = tmp_path / "captions" / "animal"
    captions.mkdir(parents=True)
    (captions / "00.txt").write_text("kitten\na kitten in a garden\na kitten in oils\n")
    found = read_benchmark("dreambench++", tmp_path)
    assert [(s.name, s.word, s.kind) for s in found.subjects] == [("animal/00", "kitten", "animal")]
    assert [case.prompt for case in found.cases] == ["a kitten in a garden", "a kitten in oils"]
    (captions / "01.txt").write_text("dog\n")
    with pytest.raises(BenchmarkError, match=r"01.txt: no picture"):
        read_benchmark("dreambench++", tmp_path)
    picture(tmp_path / "images" / "animal" / "01.jpg", 20)
    with pytest.raises(BenchmarkError, match=r"01.txt:1: a subject and no prompt"):
        read_benchmark("dreambench++", tmp_path)


@pytest.fixture
def ms_bench(tmp_path) -> Path:
    for number, name in enumerate(("living/cat", "living/dog", "object/clock")):
        picture(tmp_path / "ms" / "msbench" / f"{name}.jpg", 40 + number)
    (tmp_path / "ms" / "prompts").mkdir()
    (tmp_path / "ms" / "prompts" / "msbench.py").write_text(
        'data_class_dict = {"cat": "cat", "dog": "dog", "clock": "alarm clock"}\n'
        'two = ["a {0} and a {1} in a room", "a {0} and a {1} on grass"]\n'
        'subject_combination_prompts = {"living_living": two, "living_object": two}\n'
    )
    return tmp_path / "ms"


def test_ms_bench_combines_subjects_of_categories_each_pair_once(ms_bench):
    found = read_benchmark("ms-bench", ms_bench)
    assert found.units == ("cat+dog", "cat+clock", "dog+clock")
    assert found.cases[2].prompt == "a cat and a alarm clock in a room"
    (ms_bench / "prompts" / "msbench.py").write_text("data_class_dict = make()")
    with pytest.raises(BenchmarkError, match=r"msbench.py: malformed"):
        read_benchmark("ms-bench", ms_bench)


def test_pooling_counts_the_same_picture_once(ms_bench, tmp_path):
    picture(tmp_path / "own" / "pet" / "0.png", 40)
    (tmp_path / "own" / "pet" / "1.jpg").write_bytes((ms_bench / "msbench/living/cat.jpg").read_bytes())
    own = read_benchmark("folder", tmp_path / "own", ["a {} at sea"])
    together, dropped = pooled([own, read_benchmark("ms-bench", ms_bench)])
    assert dropped == ["ms-bench/cat: the same picture as own/pet"]
    assert [subject.name for subject in together.subjects] == ["own/pet", "ms-bench/dog", "ms-bench/clock"]
    assert together.units == ("own/pet", "ms-bench/dog+ms-bench/clock")
    assert together.cases[0].prompt == "a pet at sea"
    _, dropped = pooled([read_benchmark("ms-bench", ms_bench), own])  # whichever comes first, shown there or not
    assert dropped == ["own/pet: the same picture as ms-bench/cat"]
    with pytest.raises(BenchmarkError, match="'own' is there twice"):
        pooled([own, own])


def test_a_pool_keeps_the_subjects_of_a_benchmark_with_a_plus_apart(ms_bench, tmp_path):
    picture(tmp_path / "plus" / "images" / "animal" / "00.jpg", 90)
    (tmp_path / "plus" / "captions" / "animal").mkdir(parents=True)
    (tmp_path / "plus" / "captions" / "animal" / "00.txt").write_text("kitten\na kitten in oils\n")
    together, _ = pooled([read_benchmark("dreambench++", tmp_path / "plus"), read_benchmark("ms-bench", ms_bench)])
    names = {subject.name for subject in together.subjects}
    assert all(set(case.unit.split("+")) == set(case.subjects) <= names for case in together.cases)


def test_a_folder_needs_prompts(tmp_path):
    picture(tmp_path / "own" / "my_cat_2.png", 3)
    with pytest.raises(BenchmarkError, match=r"prompts.txt: cannot be read"):
        read_benchmark("folder", tmp_path / "own")
    (tmp_path / "own" / "prompts.txt").write_text("a {} in the snow\n\n")
    found = read_benchmark("folder", tmp_path / "own")
    assert [case.prompt for case in found.cases] == ["a my cat in the snow"]
    with pytest.raises(BenchmarkError, match="no folder"):
        read_benchmark("folder", tmp_path / "nowhere")
    picture(tmp_path / "own" / "my_cat_2" / "0.png", 4)
    with pytest.raises(BenchmarkError, match="'my_cat_2': there are two of this name"):
        read_benchmark("folder", tmp_path / "own")


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("{", ":2: not JSON"),
        ("[]", ":2: a list; one object a line"),
        ({"subject": 3}, ":2: subject = 3; a text"),
        ({"subject": "a", "pictures": ["a.png"], "prompts": ["x"]}, ":2: subject = 'a': it has a line already"),
        ({"subject": "b", "pictures": [], "prompts": ["x"]}, r":2: pictures = \[\]; a list of texts"),
        ({"subject": "b", "pictures": ["no.png"], "prompts": ["x"]}, ":2: .*no.png cannot be read"),
        ({"subject": "b", "pictures": ["a.png"], "prompts": ["x"], "shown": 1}, r":2: shown = 1; needs .* 0\.\.0"),
    ],
)
def test_a_bad_manifest_is_named_by_its_line(tmp_path, line, wrong):
    picture(tmp_path / "a.png", 3)
    good = {"subject": "a", "pictures": ["a.png"], "prompts": ["a {} in the snow"], "word": "cat"}
    text = line if isinstance(line, str) else json.dumps(line)
    (tmp_path / "manifest.jsonl").write_text(json.dumps(good) + "\n" + text + "\n")
    with pytest.raises(BenchmarkError, match=f"manifest.jsonl{wrong}"):
        read_benchmark("folder", tmp_path)
    (tmp_path / "manifest.jsonl").write_text(json.dumps(good) + "\n\n")
    assert read_benchmark("folder", tmp_path).cases[0].prompt == "a cat in the snow"


def test_the_pocket_benchmark_states_what_can_be_read_off():
    found = pocket_benchmark("val", creatures=2, photos=2)
    assert len({photo.digest for subject in found.subjects for photo in subject.photos}) == 4
    assert dict(found.cases[0].truth) == {"scene": "snow", "expression": "happy"}
    assert found.digest == pocket_benchmark("val", creatures=2, photos=2).digest


def test_a_prompt_without_its_subject_says_the_rest():
    for prompt, words, rest in (
        ("a dog on top of a purple rug", ["dog"], "on top of a purple rug"),
        ("a happy creature in the snow", ["creature"], "in the snow"),
        ("a cube shaped dog", ["dog"], ""),
        ("A cat and a red backpack in the jungle", ["cat", "backpack"], "and in the jungle"),
        ("a street in Paris", ["dog"], "a street in Paris"),
    ):
        assert without_subject(prompt, words) == rest


def test_a_photograph_that_is_no_picture_costs_its_subject():
    benchmark = pocket_benchmark("test", creatures=2, photos=1).first(prompts=1)
    first, second = benchmark.subjects
    broken = replace(first, photos=(*first.photos, Photo(b"text", "broken.png")))
    found, lines = without_broken(replace(benchmark, subjects=(broken, second)))
    assert found.units == (second.name,)
    assert lines[0].startswith(f"{first.name}: broken.png")
    with pytest.raises(BenchmarkError, match=r"no subject is left; .*broken\.png"):
        without_broken(replace(benchmark, subjects=(broken,), cases=benchmark.cases[:1]))
