"""Children that hang, die or eat memory cost their own call and nothing else."""

import os
import time

import pytest
from numbered_video import X264

from pipelines.records import Source
from pipelines.sandbox import Sandbox, SandboxError
from pipelines.settings import FrameSettings
from pipelines.stages import read_frames


def reason_of(sandbox: Sandbox, *arguments) -> str:
    with pytest.raises(SandboxError) as caught:
        sandbox(*arguments)
    return caught.value.reason


def test_sandbox_survives_a_hang_a_death_and_an_error():
    start = time.monotonic()
    assert reason_of(Sandbox("time:sleep", 0.8), 60) == "timeout"
    assert time.monotonic() - start < 30
    with pytest.raises(SandboxError, match="code 134") as caught:
        Sandbox("os:_exit", 20)(134)
    assert caught.value.reason == "died"
    with pytest.raises(SandboxError, match="code -6"):
        Sandbox("os:abort", 20)()
    fine = Sandbox("os.path:basename", 20)
    assert fine("/a/b") == "b"
    with pytest.raises(TypeError):
        fine(3.5)
    assert fine("/a/c") == "c", "an error of the function does not end the child"
    child = fine._child
    assert child is not None
    fine.close()
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)


def test_a_child_that_eats_memory_is_killed_and_the_next_call_works():
    sandbox = Sandbox("numpy:ones", 60, memory_mb=300)
    assert reason_of(sandbox, 10**9) == "memory"
    assert sandbox._child is None
    assert sandbox(3).tolist() == [1, 1, 1]
    sandbox.close()


def test_memory_limit_does_not_count_what_is_mapped_but_never_touched():
    sandbox = Sandbox("mmap:mmap", 60, memory_mb=400)
    with pytest.raises(TypeError, match="mmap cannot leave the sandbox"):  # mapped well; only the way back is barred
        sandbox(-1, 2**32)
    sandbox.close()


def test_poisonous_videos_cost_only_themselves(tmp_path):
    names = ["a.mp4", "aborts.mp4", "b.mp4", "eats.mp4", "hangs.mp4", "z.mp4"]
    for name in names:
        X264.write(tmp_path / name)
    settings = FrameSettings(per_video=2)
    sandbox = Sandbox("poison:read", 12, memory_mb=350)
    found = [Source(str(tmp_path / name), name, "video", name) for name in names]
    judged, frames = read_frames(found, settings, sandbox)
    sandbox.close()
    states = {source.uri: (source.status, source.reason) for source in judged}
    assert states == {
        "a.mp4": ("accepted", ""),
        "aborts.mp4": ("quarantined", "died"),
        "b.mp4": ("accepted", ""),
        "eats.mp4": ("quarantined", "memory"),
        "hangs.mp4": ("quarantined", "timeout"),
        "z.mp4": ("accepted", ""),
    }
    assert [frame.uri for frame in frames] == ["a.mp4", "a.mp4", "b.mp4", "b.mp4", "z.mp4", "z.mp4"]


def test_a_machine_that_stood_still_costs_no_clip(monkeypatch):
    """Of a virtual machine that was stopped: the clock of the other side of the pipe has jumped by an hour."""
    clock, began = time.monotonic, time.monotonic()
    monkeypatch.setattr("pipelines.sandbox.time.monotonic", lambda: clock() + 3600 * (clock() - began > 1))
    sandbox = Sandbox("time:sleep", 60)
    assert sandbox(2) is None
    sandbox.close()
