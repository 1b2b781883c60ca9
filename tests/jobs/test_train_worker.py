"""The workers' loop in plain processes over gloo: any number of workers, stopped, warned and continued."""

from pathlib import Path

import pytest
import torch
from gang import run_gang
from safetensors.torch import load_file
from training_data import write_dataset
from training_job import job_of

from jobs.console import UserError
from jobs.tracking import history, open_client
from jobs.training import store
from jobs.training.assignment import Assignment, Place
from jobs.training.config import AdapterSizes, OptimizerConfig, TrainConfig
from jobs.training.setup import check_start
from jobs.training.stopping import stop_file

STEPS = 4


@pytest.fixture(scope="module")
def dataset(pocket_encoders, tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("dataset"), pocket_encoders)


@pytest.fixture
def job(dataset, pocket_encoders, tmp_path):
    def build(name: str, **changes) -> Assignment:
        settings = {
            "dataset": dataset,
            "output": tmp_path,
            "name": name,
            "adapter": AdapterSizes(queries=2, cls_tokens=2, depth=1, heads=2, dim_head=16),
            "optimizer": OptimizerConfig(learning_rate=1e-3, schedule="cosine", warmup=2),
            "steps": STEPS,
            "batch_size": 6,
            "log_every": 2,
            "checkpoint_every": 100,
            "seed": 3,
        }
        return job_of(TrainConfig(**(settings | changes)), pocket_encoders)

    return build


def undisturbed(rank: int, world: int, *jobs: Assignment) -> None:
    from jobs.training.worker import train

    for job in jobs:
        assert train(job, Place(rank, world, "cpu")).step == STEPS


def disturbed(rank: int, world: int, quiet: Assignment, stopped: Assignment, warned: Assignment) -> None:
    """One run is asked to stop before its first log and then continued; another is warned of a preemption."""
    from jobs.training.worker import train

    undisturbed(rank, world, quiet)

    stop_file(stopped.folder).touch()
    torch.distributed.barrier()
    assert train(stopped, Place(rank, world, "cpu")).step == 2
    torch.distributed.barrier()
    stop_file(stopped.folder).unlink(missing_ok=True)
    torch.distributed.barrier()
    assert train(stopped, Place(rank, world, "cpu")).step == STEPS
    notices = iter([rank == 1, rank == 1])
    assert train(warned, Place(rank, world, "cpu", preempted=lambda: next(notices))).step == STEPS


def losses(job: Assignment) -> list[float]:
    pairs = history(open_client(job.tracking_uri), job.run_id, "loss")
    assert [step for step, _ in pairs] == list(range(1, STEPS + 1))
    return [value for _, value in pairs]


def tensors(job: Assignment) -> dict[str, torch.Tensor]:
    found = store.newest(job.folder).path
    assert found is not None
    assert store.step_of(found) == STEPS
    return load_file(found / "adapters.safetensors") | load_file(found / "training_state.safetensors")


def test_three_workers_resume_bit_for_bit_and_two_follow_the_same_curve(job, tmp_path):
    quiet, stopped, warned, two = (job(name) for name in ("quiet", "stopped", "warned", "two"))
    parts = job("parts", accumulate=3, deterministic=False)
    run_gang(3, tmp_path, disturbed, quiet, stopped, warned)
    run_gang(2, tmp_path, undisturbed, two, parts)
    expected = tensors(quiet)
    for other in (stopped, warned):
        assert losses(other) == losses(quiet)
        found = tensors(other)
        assert found.keys() == expected.keys()
        assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    assert [store.step_of(path) for path in store.stored(stopped.folder)] == [4, 2]
    assert [store.step_of(path) for path in store.stored(warned.folder)] == [4, 2]
    for other in (two, parts):
        assert losses(other) == pytest.approx(losses(quiet), abs=1e-5)


def test_one_worker_goes_on_past_a_damaged_checkpoint(job, tmp_path):
    from jobs.training.worker import train

    quiet, cut = job("quiet", batch_size=2, workers=1), job("cut", batch_size=2, workers=1, checkpoint_every=1)
    for each in (quiet, cut):
        train(each, Place(0, 1, "cpu"))
    (cut.folder / "step-00000004" / "adapters.safetensors").write_bytes(b"")
    (cut.folder / "step-00000003" / store.MARK).unlink()
    train(cut, Place(0, 1, "cpu"))
    ours, theirs = (load_file(each.folder / "step-00000004" / "adapters.safetensors") for each in (cut, quiet))
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []


def test_a_run_begins_with_an_ip_adapter_where_it_fits(job, pocket_encoders, tmp_path, capsys):
    from flexip.encoders import load_unet
    from flexip.ip_adapter import save_ip_adapter
    from flexip.model import FlexIP, adapter_config
    from jobs.training.worker import prepare

    sizes = AdapterSizes(queries=2, depth=4, heads=2, dim_head=64)
    unet = load_unet()
    theirs = FlexIP(unet, adapter_config(unet, pocket_encoders.shapes, **sizes.model_dump()))
    path = save_ip_adapter(tmp_path / "plus.safetensors", theirs)
    begun = job("begun", adapter=sizes, start=str(path))
    check_start(begun.config, pocket_encoders)
    assert f"tensors begin as those of {path}" in capsys.readouterr().out
    state = prepare(begun, Place(0, 1, "cpu"))
    taken = "adapters.preservation.detail.latents", "adapters.personalization.edits.proj_in.weight"
    same = [torch.equal(state.model.trainable()[name], theirs.trainable()[name]) for name in taken]
    assert same == [True, False]
    assert torch.equal(state.average[taken[0]], theirs.trainable()[taken[0]])
    with pytest.raises(UserError, match=r"start = .*: IP-Adapter: does not fit this model: .*latents is \(1, 2"):
        check_start(
            job("other", adapter=sizes.model_copy(update={"queries": 3}), start=str(path)).config, pocket_encoders
        )
