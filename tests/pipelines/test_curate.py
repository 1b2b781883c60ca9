"""Curation through Ray, end to end, on a rendered world with spoilt files among the good ones."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.dataset as pads
import pytest
from bad_media import bomb, sound
from PIL import Image
from safetensors.torch import load_file, save_file

from flexip.pocket import weights_path
from flexip.pocket.video import make_world
from jobs.curate import CurateConfig, main, run, try_out
from pipelines.settings import InputSettings
from pipelines.shards import DatasetError, open_dataset, read_part, verify

SPOILT = {
    "text.mp4": ("quarantined", "not_a_video"),
    "truncated.mp4": ("quarantined", "truncated"),
    "sound.mp4": ("rejected", "no_video_stream"),
    "dot.png": ("rejected", "too_small"),
    "bomb.png": ("rejected", "too_many_pixels"),
    "half.png": ("quarantined", "truncated"),
    "page.jpg": ("quarantined", "not_an_image"),
    "empty.mp4": ("rejected", "empty_file"),
    "zz_twin.mp4": ("rejected", "duplicate"),
}


def config(source: Path, output: Path, **sections) -> CurateConfig:
    return CurateConfig(
        input=InputSettings(path=str(source), group_by_folder=True),
        output=output,
        **{
            "shards": {"rows_per_file": 8, "hidden": True},
            "splits": {"least_test": 1},
            "frames": {"per_video": 6},
            "pairs": {"identity_min": 0.0},
            **sections,
        },
    )


def spoil(folder: Path) -> None:
    """Bad inputs of every kind, made for real."""
    whole = (folder / "videos" / "video-0000.mp4").read_bytes()
    (folder / "text.mp4").write_text("hello\n" * 100)
    (folder / "truncated.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "zz_twin.mp4").write_bytes(whole)
    (folder / "page.jpg").write_text("<html>404</html>" * 20)
    still = (folder / "stills" / "creature-0000" / "00.png").read_bytes()
    (folder / "half.png").write_bytes(still[: len(still) // 2])
    dot = io.BytesIO()
    Image.new("RGB", (1, 1)).save(dot, "PNG")
    (folder / "dot.png").write_bytes(dot.getvalue())
    (folder / "bomb.png").write_bytes(bomb(60_000))
    sound(folder / "sound.mp4")


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = make_world(tmp_path_factory.mktemp("world"), videos=4, stills=8, seed=1)
    spoil(folder)
    return folder


@pytest.fixture(scope="module")
def curated(curation_ray, world, tmp_path_factory):
    return run(config(world, tmp_path_factory.mktemp("curated") / "dataset"))


def test_every_input_ends_in_exactly_one_state_and_bad_ones_cost_only_themselves(curated):
    counts = curated.manifest.counts
    for unit, count in counts.items():
        parts = count["accepted"] + sum(count["rejected"].values()) + sum(count["quarantined"].values())
        assert parts == count["inputs"] > 0, unit
    assert counts["source"]["inputs"] == 12 + len(SPOILT)
    assert counts["source"]["accepted"] == 12
    table = pads.dataset(curated.output / "subjects").to_table(["source", "unit", "status", "reason"])
    states = {r["source"]: (r["status"], r["reason"]) for r in table.to_pylist() if r["unit"] == "source"}
    assert {name: states[name] for name in SPOILT} == SPOILT
    assert counts["frame"]["inputs"] == 4 * 6 + 8
    assert counts["subject"]["accepted"] >= 20


def test_manifest_lists_every_file_with_its_sum(curated):
    manifest = verify(curated.output)
    there = {p.relative_to(curated.output).as_posix() for p in curated.output.rglob("*") if p.is_file()}
    assert there == {*manifest.files, "manifest.json", "report.html"}
    assert manifest.sizes == curated.manifest.sizes
    pairs = sum(entry["rows"] for name, entry in manifest.files.items() if "/pairs/" in name)
    assert pairs == manifest.counts["pair"]["accepted"] == sum(sum(s.values()) for s in manifest.sizes.values())


def test_the_report_shows_what_the_manifest_counts_and_measures_it_against_the_truth(curated):
    text = curated.report.read_text()
    source = curated.manifest.counts["source"]
    assert f"{source['accepted']} of {source['inputs']} sources could be used" in text
    assert "Against the truth" in text
    assert all(name in text for name in ("truncated.mp4", "zz_twin.mp4", "bounds the pass"))
    assert len(text) < 5e6


def test_a_dry_run_writes_the_report_on_some_inputs_and_nothing_else(curation_ray, world, tmp_path, capsys):
    output = tmp_path / "out"
    text = try_out(config(world, output, dry_run=9)).read_text()
    assert [path.name for path in output.iterdir()] == ["report.html"]
    told = capsys.readouterr().out
    tried = int(told.split(" of 21 inputs were tried")[0].rsplit(" ", 1)[-1])
    assert 9 <= tried < 9 + 4, "a set of stills comes whole"
    assert f"{tried} of 21 inputs were tried" in text
    assert "no dataset was written" in told
    assert try_out(config(world, output, dry_run=9)) == output / "report.html", "once more in the same place"


def test_families_are_aligned_with_their_pairs_row_for_row(curated, pocket_encoders):
    manifest = curated.manifest
    assert manifest.fingerprints == pocket_encoders.fingerprints
    for name in manifest.files:
        if "/pairs/" not in name:
            continue
        pairs = read_part(curated.output / name)
        ids = pairs["pair_id"].to_pylist()
        assert len(set(ids)) == len(ids) <= 8
        for family, fingerprint in manifest.fingerprints.items():
            table = read_part(curated.output / name.replace("pairs", f"{family}-{fingerprint}"))
            assert table["pair_id"].to_pylist() == ids


def test_features_are_those_of_the_stored_pictures_and_captions(curated, pocket_encoders):
    from flexip.images import decode_image

    dataset = open_dataset(curated.output)
    size = dataset.size("variant", "train")
    assert size >= 4
    rows = [size - 1, 0]
    got = dataset.read("variant", "train", rows, ["clip", "dino", "hidden", "text", "vae"])
    pairs = dataset.pairs("variant", "train").take(rows).to_pylist()
    references = [decode_image(p["reference"]) for p in pairs]
    cls, patches = pocket_encoders.encode_references(references)
    expected = {
        "clip": cls,
        "dino": patches,
        "hidden": pocket_encoders.encode_hidden(references),
        "text": pocket_encoders.encode_text([p["caption"] for p in pairs]),
        "vae": pocket_encoders.encode_targets([decode_image(p["target"]) for p in pairs]),
    }
    for family, values in expected.items():
        assert got[family].shape == tuple(values.shape)
        np.testing.assert_allclose(got[family].astype(np.float32), values.numpy(), rtol=2e-3, atol=2e-3)


def test_no_cluster_is_in_two_splits_and_captions_come_from_the_table(curated, world):
    dataset = open_dataset(curated.output)
    lines = (world / "ground_truth.jsonl").read_text().splitlines()
    told = {json.loads(line)["captions"]["medium plain"] for line in lines}
    home: dict[str, set[str]] = {}
    for name in ("invariant", "variant"):
        for split in ("train", "val", "test"):
            table = dataset.pairs(name, split, ["cluster", "caption", "time_gap"])
            for row in table.to_pylist():
                home.setdefault(row["cluster"], set()).add(split)
                assert row["caption"] in told
                assert row["time_gap"] == 0 or name == "variant"
    assert all(len(splits) == 1 for splits in home.values())
    assert dataset.size("variant", "test") > 0, "least_test holds one back"


def test_the_same_input_and_seed_give_the_same_bytes(curated, world, tmp_path):
    again = run(config(world, tmp_path / "again"))
    assert again.manifest.files == curated.manifest.files


def test_a_complete_dataset_is_left_as_it_is_and_refused_for_anything_else(curated, world, capsys):
    before = {path: path.stat().st_mtime_ns for path in curated.output.rglob("*") if path.is_file()}
    assert run(config(world, curated.output)).manifest.files == curated.manifest.files
    assert "is complete already" in capsys.readouterr().out
    with pytest.raises(DatasetError, match="holds a dataset of other settings, models or sources"):
        run(config(world, curated.output, frames={"per_video": 5}))
    with pytest.raises(DatasetError, match="holds a dataset of other settings, models or sources"):
        run(config(world / "videos", curated.output))
    assert {path: path.stat().st_mtime_ns for path in curated.output.rglob("*") if path.is_file()} == before


def test_one_family_is_computed_anew_and_nothing_else_touched(curation_ray, curated, world, tmp_path):
    dataset = Path(shutil.copytree(curated.output, tmp_path / "copy"))
    dino = shutil.copytree(weights_path() / "dino", tmp_path / "dino")
    weights = load_file(dino / "model.safetensors")
    save_file({name: tensor * 1.01 for name, tensor in weights.items()}, dino / "model.safetensors", {"format": "pt"})
    before = {path: path.stat().st_mtime_ns for path in dataset.rglob("*.parquet") if "dino-" not in str(path)}
    main(["features", str(dataset), "--only", "dino", "--models.dino", str(dino)])
    manifest = verify(dataset)
    assert manifest.fingerprints["dino"] != curated.manifest.fingerprints["dino"]
    assert manifest.encoders["dino"] == str(dino)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    old, new = (open_dataset(d).read("variant", "train", [0, 1], ["clip", "dino"]) for d in (curated.output, dataset))
    assert np.array_equal(old["clip"], new["clip"])
    assert not np.array_equal(old["dino"], new["dino"])
    there = {p.relative_to(dataset).as_posix() for p in dataset.rglob("*") if p.is_file()}
    assert there == {*manifest.files, "manifest.json", "report.html"}, "the old family is gone"
    fresh = run(config(world, tmp_path / "fresh", models={"dino": str(dino)}))
    assert {n: e for n, e in manifest.files.items() if "dino-" in n} == {
        n: e for n, e in fresh.manifest.files.items() if "dino-" in n
    }


def test_a_family_that_does_not_exist_is_named(curated, capsys):
    with pytest.raises(SystemExit):
        main(["features", str(curated.output), "--only", "clap"])
    assert "only = features.clap: no such family; known are clip, dino, text, vae, hidden" in capsys.readouterr().err


def test_verify_says_that_all_is_well_or_what_is_not(curated, tmp_path, capsys):
    main(["verify", str(curated.output)])
    assert "all as the manifest lists them" in capsys.readouterr().out
    copy = Path(shutil.copytree(curated.output, tmp_path / "copy"))
    victim = next(copy.rglob("part-*.parquet"))
    victim.write_bytes(victim.read_bytes()[:-1])
    for words, said in ((["verify", str(copy)], f"{victim}: changed"), (["verify"], "give the dataset's directory")):
        with pytest.raises(SystemExit):
            main(words)
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("there", ["manifest.json", "notes.txt"])
def test_an_output_that_holds_something_is_left_alone(curation_ray, world, tmp_path, there):
    (tmp_path / there).write_text("mine")
    with pytest.raises(DatasetError, match="output = "):
        run(config(world, tmp_path))
    assert (tmp_path / there).read_text() == "mine"


def test_nothing_accepted_is_an_error_with_the_counted_reasons(curation_ray, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.mp4").write_text("no video")
    (folder / "b.png").write_text("no image")
    with pytest.raises(DatasetError, match=r"not one pair was accepted.*1 not_a_video, 1 not_an_image|1 not_an_image"):
        run(config(folder, tmp_path / "out"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--input.path", "/nowhere"], "error: input.path = /nowhere: no such file or folder"),
        (["--input.path", "{empty}"], "none a video or image"),
        (["--input.path", "{empty}", "--filters.area_mim", "0.1"], "did you mean --filters.area_min?"),
        (["--input.path", "{empty}", "--filters.area_min", "0.9"], "must be below area_max"),
    ],
)
def test_user_errors_are_one_line_and_exit_code_2(tmp_path, capsys, arguments, words):
    given = [a.format(empty=tmp_path) for a in arguments]
    with pytest.raises(SystemExit) as caught:
        main([*given, "--output", str(tmp_path / "out")])
    said = capsys.readouterr().err
    assert caught.value.code == 2
    assert words in said
    assert len(said.strip().splitlines()) == 1, said


def test_a_missing_input_leaves_no_trace_on_the_way_out(tmp_path):
    command = [sys.executable, "-m", "jobs.curate", "--input.path", "/nowhere", "--output", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2800, check=False)
    assert done.returncode == 2
    assert done.stderr.strip() == "error: input.path = /nowhere: no such file or folder, and no file matches it"
    assert not (tmp_path / "out").exists()
