"""Film and photographs that nobody on this project made, from $FLEXIP_TEST_DATA."""

import numpy as np
import pyarrow.dataset as pads

from flexip.images import decode_image, decode_mask
from jobs.curate import CurateConfig, run
from pipelines.settings import InputSettings
from pipelines.shards import open_dataset, verify


def curate(source, output, **options):
    grouped = options.pop("group_by_folder", False)
    return run(CurateConfig(input=InputSettings(path=str(source), group_by_folder=grouped), output=output, **options))


def accepted(result, *columns):
    table = pads.dataset(result.output / "subjects").to_table([*columns, "unit", "status"])
    return [r for r in table.to_pylist() if (r["unit"], r["status"]) == ("subject", "accepted")]


def test_film_gives_variant_pairs_of_one_shot(curation_ray, test_data, tmp_path):
    film = test_data / "video" / "sintel_trailer_10s.mp4"
    result = curate(film, tmp_path / "film", frames={"per_video": 16}, pairs={"identity_min": 0.3})
    verify(result.output)
    assert result.manifest.counts["frame"]["inputs"] == 16
    dataset = open_dataset(result.output)
    assert dataset.size("variant", "train") >= 2
    for pair in dataset.pairs("variant", "train").to_pylist():
        assert 1.0 <= pair["time_gap"] < 5, "a tenth of ten seconds, and no longer than the longest shot"
        assert decode_image(pair["target"]).shape == (64, 64, 3)
        mask, reference = decode_mask(pair["reference_mask"]), decode_image(pair["reference"])
        assert 0.05 < mask.mean() < 0.95
        assert (reference[~mask] > 200).mean() > 0.9, "white around the subject"
    for row in accepted(result, "box"):
        x0, y0, x1, y1 = row["box"]
        assert 0 <= x0 < x1 <= 1
        assert 0 <= y0 < y1 <= 1
        assert 0.01 <= (x1 - x0) * (y1 - y0) <= 0.64


def test_photographs_are_grouped_by_folder_whatever_their_format(curation_ray, test_data, tmp_path):
    source = tmp_path / "photos"
    source.mkdir()
    for name in ("can", "candle", "red_cartoon", "robot_toy"):
        (source / name).symlink_to(test_data / "images" / "dreambooth" / name)
    result = curate(source, tmp_path / "sets", group_by_folder=True, pairs={"identity_min": 0.0})
    counts = result.manifest.counts
    files = sorted(source.glob("*/*.jpg"))
    assert counts["source"] == {"inputs": len(files), "accepted": len(files), "rejected": {}, "quarantined": {}}
    rows = accepted(result, "source", "cluster", "caption", "frame_index")
    clusters = {row["source"].split("/")[0]: set() for row in rows}
    for row in rows:
        clusters[row["source"].split("/")[0]].add(row["cluster"])
    assert set(clusters) == {"can", "candle", "red_cartoon", "robot_toy"}, "the two-frame MPO of the candle too"
    assert all(len(names) == 1 for names in clusters.values())
    assert len(set.union(*clusters.values())) == 4
    dataset = open_dataset(result.output)
    pairs = [p for s in ("train", "val", "test") for p in dataset.pairs("variant", s).to_pylist()]
    assert len(pairs) >= 6
    assert {p["caption"] for p in pairs} <= {f"a photo of a {n}" for n in ("can", "red cartoon", "robot toy")}
    assert all(p["reference_key"] != p["target_key"] for p in pairs)


def test_colour_profiles_are_applied(test_data):
    from PIL import Image

    path = test_data / "images" / "dreambooth" / "dog" / "00.jpg"
    with Image.open(path) as image:
        assert image.info.get("icc_profile"), "this photograph is chosen for its profile"
        plain = np.asarray(image.convert("RGB")).astype(int)
    assert decode_image(path.read_bytes()).shape == plain.shape
