"""What the demo refuses before it does anything; tests/faults/test_demo.py runs it whole."""

from pathlib import Path

import pytest

from jobs.demo import main


def refused(capsys: pytest.CaptureFixture, *words: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    assert ended.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_an_output_that_no_demo_made_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    precious = tmp_path / "thesis.tex"
    precious.write_text("years of work")
    line = refused(capsys, "--output", str(tmp_path))
    assert f"output = {tmp_path}" in line
    assert "choose another --output" in line
    assert precious.read_text() == "years of work"


def test_a_missing_input_is_named_and_an_earlier_demo_stays(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / ".flexip-demo").touch()
    (output / "sweep.png").write_text("the last demo's")
    line = refused(capsys, "--input", str(tmp_path / "holday.mp4"), "--output", str(output))
    assert "holday.mp4" in line
    assert (output / "sweep.png").exists()


def test_an_input_inside_the_output_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The output of an earlier demo is emptied: `make demo INPUT=demo_output/world` would delete what it reads."""
    world = tmp_path / "out" / "world"
    world.mkdir(parents=True)
    (tmp_path / "out" / ".flexip-demo").touch()
    (world / "clip.mp4").write_text("")
    line = refused(capsys, "--input", str(world), "--output", str(tmp_path / "out"))
    assert "inside" in line
    assert (world / "clip.mp4").exists()
