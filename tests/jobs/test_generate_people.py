"""People by `jobs.generate`: cast, drawn, and drawn again from the receipt; mistakes are one line."""

from pathlib import Path

import pytest
from people import crowd, portrait

from flexip.images import encode_png
from jobs.generate import main
from jobs.receipt import read_receipt


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pictures")
    shown = {"first": portrait(0), "second": portrait(1), "nobody": crowd(0), "crowd": crowd(2)}
    for name, picture in shown.items():
        (folder / f"{name}.png").write_bytes(encode_png(picture))
    return {name: folder / f"{name}.png" for name in shown}


def words(checkpoint: Path, people: Path, output: Path, *more: str) -> list[str]:
    return [f"--checkpoint={checkpoint}", f"--people={people}", f"--output={output}", *more]


def test_two_people_are_drawn_and_drawn_again(untrained_checkpoint, people_checkpoint, pictures, tmp_path) -> None:
    both = ["--subject", str(pictures["first"]), "--subject", str(pictures["second"])]
    asked = ["--box", "0,0,0.5,1,0.5,0,1,1", "--expression", "happy", "--expression", "sad and looking left"]
    plain = ["--prompt=two creatures", "--steps=2", "--gamma=0.2", "--cut_out=false"]
    main(words(untrained_checkpoint, people_checkpoint, tmp_path / "a", *both, *asked, *plain))
    data = (tmp_path / "a" / "00000.png").read_bytes()
    receipt = read_receipt(data)
    assert [(s.person, s.expression, s.pose) for s in receipt.subjects] == [(True, "happy", ""), (True, "sad", "left")]
    assert len(receipt.people) == 64
    again = f"--from={tmp_path / 'a' / '00000.png'}"
    main(words(untrained_checkpoint, people_checkpoint, tmp_path / "b", *both, again))
    assert (tmp_path / "b" / "00000.png").read_bytes() == data


@pytest.mark.parametrize(
    ("subject", "more", "said"),
    [
        ("nobody", [], "no face found in the picture of 64x64"),
        ("crowd", [], "2 faces found where one is expected"),
        ("first", ["--box", "0,0,0.5,1,0.5,0,1,1"], "box: 2 for 1 subjects; give one for each"),
        ("first", ["--box", "0,0,1.5,1"], "box"),
        ("first", ["--expression", "happy,sad"], "expression: 2 for 1 subjects; give one for each"),
        ("first", ["--expression", "bored"], "expressions are afraid, angry"),
        ("first", ["--pose", "up"], "must be one of fully left"),
    ],
)
def test_a_mistake_is_one_line(
    untrained_checkpoint, people_checkpoint, pictures, tmp_path, capsys, subject, more, said
) -> None:
    asked = [f"--subject={pictures[subject]}", "--prompt=a creature", "--steps=1", "--cut_out=false", *more]
    with pytest.raises(SystemExit) as exit_:
        main(words(untrained_checkpoint, people_checkpoint, tmp_path, *asked))
    assert exit_.value.code == 2
    told = capsys.readouterr().err
    assert said in told
    assert "Traceback" not in told
