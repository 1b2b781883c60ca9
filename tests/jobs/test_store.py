"""Checkpoints on disk: what interrupted writing leaves is never taken for one, and what the rule keeps stays."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from flexip.checkpoint import Snapshot
from jobs.training import store


def snapshot(step: int) -> Snapshot:
    tensors, config = {"a": torch.full((100,), float(step)), "b": torch.zeros(3)}, {"format": 1, "architecture": {}}
    return Snapshot(weights=tensors, config=config, state={"exp_avg.a": torch.ones(100)}, step=step)


FILES = ["adapters.safetensors", "training_state.safetensors", "config.json", store.MARK]  # in the order of writing


@pytest.fixture
def folder(tmp_path) -> Path:
    store.write_step(tmp_path, snapshot(2))
    store.write_step(tmp_path, snapshot(4))
    return tmp_path


def test_the_newest_whole_checkpoint_is_taken(folder):
    assert store.newest(folder) == store.Newest(folder / "step-00000004", [])
    assert sorted(file.name for file in (folder / "step-00000004").iterdir()) == sorted(FILES)
    assert store.newest(folder / "nowhere") == store.Newest(None, [])


@pytest.mark.parametrize("written", range(len(FILES)))
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_writing_cut_off_at_any_file_leaves_the_earlier_checkpoint(folder, written, share):
    """Whether the directory already has its name (another file system's way of moving) or is a draft still."""
    cut = folder / "step-00000004"
    partial = cut / FILES[written]
    partial.write_bytes(partial.read_bytes()[: int(partial.stat().st_size * share)])
    for later in FILES[written + 1 :]:
        (cut / later).unlink()
    found = store.newest(folder)
    assert found.path == folder / "step-00000002"
    assert len(found.passed_over) == 1
    shutil.move(cut, folder / ".step-00000004.new")
    assert store.newest(folder) == store.Newest(folder / "step-00000002", [])
    store.CheckpointWriter(folder)
    assert [path.name for path in folder.iterdir()] == ["step-00000002"]


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder, name):
    (folder / "step-00000004" / name).unlink()
    assert store.newest(folder).passed_over == [f"step-00000004: {name} is missing"]


@pytest.mark.parametrize("name", FILES[:-1])
def test_changed_bits_are_noticed(folder, name):
    file = folder / "step-00000004" / name
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert store.newest(folder).passed_over == [f"step-00000004: {name} is not what was written"]


def test_a_damaged_checkpoint_is_written_anew(folder):
    (folder / "step-00000004" / "config.json").unlink()
    store.write_step(folder, snapshot(4))
    assert store.newest(folder) == store.Newest(folder / "step-00000004", [])


def test_deleting_cut_off_leaves_no_checkpoint_behind(folder):
    shutil.move(folder / "step-00000002", folder / ".step-00000002.old")
    (folder / ".step-00000002.old" / "config.json").unlink()
    assert store.stored(folder) == [folder / "step-00000004"]
    store.tidy(folder)
    assert [path.name for path in folder.iterdir()] == ["step-00000004"]


def test_the_newest_and_the_best_are_kept(tmp_path):
    for step, score in ((1, 0.5), (2, 0.9), (3, 0.9), (4, 0.1), (5, 0.2)):
        store.store_scores(store.write_step(tmp_path, snapshot(step)), {"area": score})
    store.write_step(tmp_path, snapshot(6))  # not validated yet
    found = store.best(tmp_path, "area", largest=True)
    assert found == tmp_path / "step-00000003"
    assert store.best(tmp_path, "area", largest=False) == tmp_path / "step-00000004"
    assert store.best(tmp_path, "loss", largest=False) is None
    gone = store.prune(tmp_path, 2, keep=[tmp_path / "step-00000003"])
    assert [store.step_of(path) for path in gone] == [4, 2, 1]
    assert [store.step_of(path) for path in store.stored(tmp_path)] == [6, 5, 3]
    assert store.newest(tmp_path).path == tmp_path / "step-00000006"


def test_the_writer_finishes_one_after_the_other_and_tells_what_failed(tmp_path):
    writer = store.CheckpointWriter(tmp_path)
    for step in (1, 2, 3):
        writer.save(snapshot(step))
    writer.finish()
    assert [store.step_of(path) for path in store.stored(tmp_path)] == [3, 2, 1]
    assert json.loads((tmp_path / "step-00000003" / store.MARK).read_text())["step"] == 3
    shutil.rmtree(tmp_path)
    tmp_path.write_text("no folder any more")
    writer.save(snapshot(4))
    with pytest.raises(OSError, match=r"step-00000004|Not a directory"):
        writer.finish()
    tmp_path.unlink()
