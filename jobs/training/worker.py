"""What each training process does: its share of every global batch, one step after the other."""

import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial

import ray.train
import ray.train.torch
import torch
from diffusers.optimization import get_scheduler
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from evaluation.baselines import ADAPTERS
from flexip.checkpoint import load_adapters, load_training_state, save_checkpoint
from flexip.encoders import load_unet
from flexip.model import FlexIP, adapter_config
from flexip.reduction import average_over_ranks, copy_from_first
from flexip.training import TrainState, new_state, train_step
from jobs.training.assignment import Assignment, Place
from jobs.training.config import TrainConfig
from jobs.training.feeding import feed
from jobs.training.log import StepLog
from pipelines.shards import open_dataset


def train_worker(settings: dict[str, Assignment]) -> None:
    """One rank under Ray Train. Starts from the newest checkpoint that Ray Train knows, else from the seed."""
    context = ray.train.get_context()
    device = str(ray.train.torch.get_device())
    train(settings["assignment"], Place(context.get_world_rank(), context.get_world_size(), device))


def train(job: Assignment, place: Place) -> TrainState:
    """The loop of one rank; all ranks have joined one `torch.distributed` group where there are several."""
    config = job.config
    state = prepare(job, place)
    schedule = learning_rate_schedule(config, state)
    reduce = gradient_reduction(config, place)
    log = StepLog(job, place, state.step)
    batches = feed(job, place, open_dataset(config.dataset), state.step)
    while state.step < config.steps:
        began = time.perf_counter()
        parts = next(batches)
        log.waited += time.perf_counter() - began
        log.losses.append(train_step(state, parts, config.optimizer.grad_clip, reduce, config.precision))
        schedule.step()
        save = state.step % config.checkpoint_every == 0 or state.step == config.steps
        if save or state.step % config.log_every == 0:
            log.flush(state.step)
        if save:
            _report(job, state, place.rank)
    return state


def prepare(job: Assignment, place: Place) -> TrainState:
    """The state to train: the model on its device, with the first weights, those of `start`, or a checkpoint's."""
    config = job.config
    unet = load_unet(job.names.base)
    with torch.random.fork_rng(devices=[]):  # the layers draw their first weights from the global generator
        torch.manual_seed(config.seed)
        sizes = config.adapter.model_dump()
        architecture = adapter_config(unet, job.shapes, config.adapter.detail, **sizes)
        model = FlexIP(unet, architecture, ADAPTERS[config.adapter.method])
    model.to(place.device)
    if config.channels_last:
        unet.to(memory_format=torch.channels_last)
    if config.compiled:
        unet.compile(dynamic=False)
    settings = config.optimizer
    copy_from_first(list(model.trainable().values()))
    state = new_state(model, settings.learning_rate, settings.weight_decay, settings.ema)
    newest = ray.train.get_checkpoint()
    if newest is None and config.start:
        begin_with(state, config.start)
    if newest is not None:
        with newest.as_directory() as folder:
            load_training_state(state, folder)
    return state


def begin_with(state: TrainState, start: str) -> None:
    """Adapters of another run; the step, the optimiser and the average are new."""
    load_adapters(state.model, start)
    for name, parameter in state.model.trainable().items():
        if state.average:
            state.average[name].copy_(parameter.detach())


def learning_rate_schedule(config: TrainConfig, state: TrainState) -> LambdaLR:
    """The learning rate as a function of the step alone, taken up at the state's step."""
    settings = config.optimizer
    for group in state.optimizer.param_groups:
        group["initial_lr"] = settings.learning_rate
    name = "cosine" if settings.schedule == "cosine" else "constant_with_warmup"
    return get_scheduler(
        name,
        state.optimizer,
        num_warmup_steps=settings.warmup,
        num_training_steps=config.steps,
        last_epoch=state.step - 1,
    )


def gradient_reduction(config: TrainConfig, place: Place) -> Callable[[Sequence[Tensor]], None] | None:
    """The mean over all workers, in one buffer; in the order of ranks where that is asked for."""
    return partial(average_over_ranks, ordered=is_ordered(config, place)) if place.world > 1 else None


def is_ordered(config: TrainConfig, place: Place) -> bool:
    return place.on_cpu if config.deterministic is None else config.deterministic


def _report(job: Assignment, state: TrainState, rank: int) -> None:
    """Hand a checkpoint to Ray Train; every rank has to come here, rank 0 writes."""
    name, metrics = f"step-{state.step:08d}", {"step": state.step}
    if rank:
        ray.train.report(metrics, checkpoint_dir_name=name)
        return
    with tempfile.TemporaryDirectory() as folder:
        training = job.config.model_dump(mode="json")
        save_checkpoint(
            folder, state.model, names=job.names, fingerprints=job.fingerprints, training=training, state=state
        )
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder), checkpoint_dir_name=name)
