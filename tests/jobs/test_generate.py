"""Pictures from a checkpoint without a server, through the command line."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from flexip.calibration import Calibration
from flexip.checkpoint import store_calibration
from flexip.images import decode_image, encode_png
from jobs.generate import main
from jobs.receipt import read_receipt


@pytest.fixture(scope="module")
def picture(reference, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("reference") / "subject.png"
    path.write_bytes(encode_png(reference))
    return path


def words(checkpoint: Path, output: Path, *more: str) -> list[str]:
    base = ["--checkpoint", str(checkpoint), "--prompt", "a creature, in the snow", "--steps", "3"]
    return [*base, "--output", str(output), *more]


def test_pictures_are_named_by_their_seeds_and_repeat(untrained_checkpoint, picture, tmp_path, capsys) -> None:
    asked = ["--subject", str(picture), "--gamma", "0.7", "--seed", "4"]
    main(words(untrained_checkpoint, tmp_path / "two", *asked, "--images", "2"))
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["00004.png", "00005.png", "reference.png"]
    assert "2 pictures in" in capsys.readouterr().out
    first, second = (decode_image((tmp_path / "two" / f"0000{seed}.png").read_bytes()).astype(int) for seed in (4, 5))
    assert first.shape == (64, 64, 3)
    assert np.abs(first - second).mean() > 2
    main(words(untrained_checkpoint, tmp_path / "one", *asked))
    assert np.abs(decode_image((tmp_path / "one" / "00004.png").read_bytes()).astype(int) - first).max() <= 1


def test_a_picture_is_drawn_again_from_its_receipt(untrained_checkpoint, picture, tmp_path) -> None:
    mask = tmp_path / "mask.png"
    mask.write_bytes(encode_png(np.full((12, 8, 3), 128, np.uint8)))
    more = ["--subject", str(picture), "--mask", str(mask), "--gamma", "0.7", "--seed", "4", "--solver", "dpm++2m"]
    more += ["--size", "64x96"]
    main(words(untrained_checkpoint, tmp_path, *more))
    original = tmp_path / "00004.png"
    assert decode_image(original.read_bytes()).shape == (96, 64, 3)
    again = ["--from", str(original), "--subject", str(picture), "--mask", str(mask)]
    main(["--checkpoint", str(untrained_checkpoint), "--output", str(tmp_path / "again"), *again])
    assert (tmp_path / "again" / "00004.png").read_bytes() == original.read_bytes()


def test_a_group_painted_into_a_canvas_is_drawn_again_from_its_receipt(untrained_checkpoint, picture, tmp_path) -> None:
    other, canvas, where = (tmp_path / name for name in ("other.png", "canvas.png", "where.png"))
    reference = decode_image(picture.read_bytes())
    other.write_bytes(encode_png(np.ascontiguousarray(reference[::-1])))
    canvas.write_bytes(encode_png(np.full((64, 64, 3), 90, np.uint8)))
    where.write_bytes(encode_png(np.repeat(np.arange(8, dtype=np.uint8) // 4 * 255, 8 * 3).reshape(8, 8, 3)))
    files = ["--subject", str(picture), "--subject", str(other), "--canvas", str(canvas), "--canvas-mask", str(where)]
    gates = ["--gamma", "0.9", "--gamma", "0.2", "--box", "0,0,0.5,1", "--box", "0.5,0,1,1"]
    main(words(untrained_checkpoint, tmp_path, *files, *gates, "--strength", "0.7", "--solver", "lcm"))
    original = tmp_path / "00000.png"
    receipt = read_receipt(original.read_bytes())
    assert [(s.preservation, s.box) for s in receipt.subjects] == [(0.9, (0, 0, 0.5, 1)), (0.2, (0.5, 0, 1, 1))]
    assert receipt.canvas is not None
    assert receipt.canvas.strength == 0.7
    drawn = decode_image(original.read_bytes())
    assert (drawn[:28] == 90).all()
    assert (drawn[36:] != 90).any()
    assert (tmp_path / "reference-2.png").is_file()
    again = ["--checkpoint", str(untrained_checkpoint), "--output", str(tmp_path / "again"), "--from", str(original)]
    main([*again, *files])
    assert (tmp_path / "again" / "00000.png").read_bytes() == original.read_bytes()


def test_a_sweep_draws_each_gamma_of_each_seed(untrained_checkpoint, picture, tmp_path) -> None:
    asked = ["--subject", str(picture), "--guidance_scale", "1"]
    main(words(untrained_checkpoint, tmp_path, *asked, "--sweep", "0,0.75", "--images", "2"))
    names = ["00000-0.75.png", "00000-0.png", "00001-0.75.png", "00001-0.png"]
    assert sorted(path.name for path in tmp_path.glob("0*")) == names
    gates = [read_receipt((tmp_path / name).read_bytes()).subjects[0].preservation for name in names]
    assert gates == [0.75, 0, 0.75, 0]
    assert decode_image((tmp_path / "sweep.png").read_bytes()).shape == (2 * 66 + 2, 2 * 66 + 2, 3)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "subject is missing; give the file with SHA-256"),
        (["--subject", "OTHER"], "has SHA-256"),
        (["--subject", "PICTURE", "--mask", "OTHER"], "the receipt knows no mask"),
        (["--subject", "PICTURE", "--canvas", "OTHER", "--canvas-mask", "OTHER"], "the receipt knows no canvas"),
        (["--subject", "PICTURE", "--seed", "5"], "seed: given together with from"),
        (["--subject", "PICTURE", "--checkpoint", "RETRAINED"], "give the checkpoint that drew it"),
        (["--subject", "PICTURE", "--from", "OTHER"], "holds no receipt"),
        (["--subject", "PICTURE", "--from", "nowhere.png"], "from = nowhere.png: cannot be read"),
    ],
)
def test_a_receipt_needs_its_own_files(untrained_checkpoint, picture, tmp_path, capsys, more, said):
    main(words(untrained_checkpoint, tmp_path, "--subject", str(picture)))
    other = tmp_path / "other.png"
    other.write_bytes(encode_png(np.zeros((16, 16, 3), np.uint8)))
    retrained = shutil.copytree(untrained_checkpoint, tmp_path / "retrained")
    weights = load_file(retrained / "adapters.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, retrained / "adapters.safetensors")
    names = {"OTHER": str(other), "PICTURE": str(picture), "RETRAINED": str(retrained)}
    base = {"--from": str(tmp_path / "00000.png"), "--checkpoint": str(untrained_checkpoint)}
    given = base | {more[i]: names.get(more[i + 1], more[i + 1]) for i in range(0, len(more), 2)}
    with pytest.raises(SystemExit):
        main([*[word for pair in given.items() for word in pair], "--output", str(tmp_path / "out")])
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert said in line
    assert not (tmp_path / "out").exists()


def test_without_a_reference_the_base_model_draws(untrained_checkpoint, picture, tmp_path) -> None:
    main(words(untrained_checkpoint, tmp_path / "base"))
    zero = ["--preservation", "0", "--personalization", "0", "--subject", str(picture)]
    main(words(untrained_checkpoint, tmp_path / "zero", *zero))
    base, zero = (decode_image((tmp_path / name / "00000.png").read_bytes()) for name in ("base", "zero"))
    np.testing.assert_array_equal(base, zero)


def test_identity_is_asked_for_by_its_amount(untrained_checkpoint, picture, tmp_path, capsys) -> None:
    checkpoint = shutil.copytree(untrained_checkpoint, tmp_path / "checkpoint")
    store_calibration(checkpoint, Calibration([0.0, 1.0], [0.2, 0.8], "dino", 4, "abc"))
    subject = ["--subject", str(picture)]
    main(words(checkpoint, tmp_path / "asked", *subject, "--identity", "0.35"))
    assert "identity 0.35 is gamma 0.250" in capsys.readouterr().out
    main(words(checkpoint, tmp_path / "dialled", *subject, "--gamma", "0.25"))
    drawn = [decode_image((tmp_path / name / "00000.png").read_bytes()).astype(int) for name in ("asked", "dialled")]
    assert np.abs(drawn[0] - drawn[1]).max() <= 1


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--subject", "nowhere.png"], "subject = nowhere.png: no such file"),
        (["--gamma", "1.5"], "gamma"),
        (["--identity", "0.5"], "has no calibration; run `python -m jobs.calibrate`"),
        (["--identity", "0.5", "--gamma", "0.5"], "given together with gamma"),
        (["--preservation", "0.5"], "give both weights, or gamma alone"),
        (["--subject", "x.png", "--gamma", "0.5", "--gamma", "0.5"], "gamma: 2 for 1 subjects; give one for each"),
        (["--subject", "x.png", "--box", "0,0,1"], "box"),
        (["--canvas", "x.png"], "canvas and canvas_mask: give both"),
        (["--strength", "0.5"], "strength: there is no canvas"),
        (["--sweep", "0,1"], "subject: missing beside the sweep"),
        (["--subject", "x.png", "--sweep", "0,1", "--gamma", "1"], "sweep: given together with another gate"),
        (["--checkpoint", "nowhere"], "nowhere"),
        (["--imges", "2"], "did you mean --images?"),
        (["--size", "60x90"], "size = 60x90: sides must be multiples of 16 pixels; 64x96 would be"),
        (["--size", "large"], "WIDTHxHEIGHT in pixels"),
        (["--subject", "PICTURE", "--mask", "PICTURE", "--size", "96x64"], "mask: 64x64 pixels; the picture is 96x64"),
    ],
)
def test_a_mistake_is_one_line(untrained_checkpoint, picture, tmp_path, capsys, more, said) -> None:
    more = [str(picture) if word == "PICTURE" else word for word in more]
    with pytest.raises(SystemExit) as ended:
        main(words(untrained_checkpoint, tmp_path / "out", *more))
    assert ended.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert said in lines[0]
    assert not (tmp_path / "out").exists()
