"""What each training process does: its share of every global batch, one step after the other."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import ray.train
import ray.train.torch
import torch
from diffusers.optimization import get_scheduler
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from flexip.checkpoint import load_tensors, load_training_state, take_snapshot
from flexip.dynamicid import DynamicID
from flexip.encoders import load_unet
from flexip.ip_adapter import begin_with_ip_adapter, is_ip_adapter, read_ip_adapter
from flexip.reduction import average_over_ranks, copy_from_first
from flexip.training import TrainState, new_state, train_step
from jobs.tracking import system_metrics
from jobs.training.assignment import Assignment, Place
from jobs.training.config import TrainConfig
from jobs.training.features import feature_source, open_data
from jobs.training.feeding import feed
from jobs.training.log import Asked, StepLog
from jobs.training.stages import stage_of
from jobs.training.store import CheckpointWriter, newest


def train_worker(settings: dict[str, Assignment]) -> None:
    """One rank under Ray Train, which starts it again after a failure or with another number of workers."""
    context, device = ray.train.get_context(), str(ray.train.torch.get_device())
    if device.startswith("cuda"):
        torch.cuda.set_device(device)  # NCCL sends objects by way of the current one
    place = Place(
        rank=context.get_world_rank(),
        world=context.get_world_size(),
        device=device,
        preempted=lambda: ray.train.get_preemption_info() is not None,
    )
    job = settings["assignment"]
    every = job.config.system_metrics_every if context.get_local_rank() == 0 else 0  # one speaks for its machine
    with system_metrics(job.tracking_uri, job.run_id, every, f"node_{context.get_node_rank()}"):
        train(job, place)


def train(job: Assignment, place: Place) -> TrainState:
    """The loop of one rank; all ranks have joined one `torch.distributed` group where there are several.

    Goes on from the newest whole checkpoint in the run's folder; ends at the last step or where a stop was asked for.
    """
    config = job.config
    state = prepare(job, place)
    schedule = learning_rate_schedule(config, state)
    reduce = gradient_reduction(config, place)
    writer = CheckpointWriter(job.folder) if place.rank == 0 else None
    log = StepLog(job, place, state.step)
    stage, source = stage_of(config), feature_source(config, open_data(config), job.names, place.device)
    batches = feed(partial(stage.parts, job, place, source, state.model), range(state.step, config.steps))
    warned = False
    while state.step < config.steps:
        began = time.perf_counter()
        parts = next(batches)
        log.waited += time.perf_counter() - began
        log.losses.append(train_step(state, parts, config.optimizer.grad_clip, reduce, config.precision, stage.loss))
        schedule.step()
        due = checkpoint_due(config, state.step)
        asked = log.flush(state.step) if due or state.step % config.log_every == 0 else Asked()
        if writer and (due or asked.to_stop or (asked.to_save and not warned)):
            log.stalled += save(job, state, writer, wait=asked.to_stop or asked.to_save or state.step == config.steps)
        warned = warned or asked.to_save
        if asked.to_stop:
            break
    batches.close()
    return state


def checkpoint_due(config: TrainConfig, step: int) -> bool:
    """Whether a checkpoint is written after this step whatever happens."""
    validated = config.validate_every and step % config.validate_every == 0
    return step == config.steps or step % config.checkpoint_every == 0 or bool(validated)


def save(job: Assignment, state: TrainState, writer: CheckpointWriter, wait: bool) -> float:
    """Write a checkpoint, behind the training's back unless the process may end soon; returns the seconds it took."""
    began = time.perf_counter()
    training = job.config.model_dump(mode="json")
    snapshot = take_snapshot(
        state.model, names=job.names, fingerprints=job.fingerprints, training=training, state=state
    )
    writer.save(snapshot)
    if wait:
        writer.finish()
    return time.perf_counter() - began


def checkpoint_to_resume(folder: Path, place: Place) -> Path | None:
    """The newest whole checkpoint, chosen by rank 0 for all."""
    chosen = [newest(folder).path if place.rank == 0 else None]
    if place.world > 1:
        torch.distributed.broadcast_object_list(chosen, 0)
    return chosen[0]


def prepare(job: Assignment, place: Place) -> TrainState:
    """The state to train: the model on its device, with the first weights, those of `start`, or a checkpoint's."""
    config = job.config
    unet = load_unet(job.names.base)
    with torch.random.fork_rng(devices=[]):  # the layers draw their first weights from the global generator
        torch.manual_seed(config.seed)
        model = stage_of(config).build(job, unet)
    model.to(place.device)
    if config.channels_last:
        unet.to(memory_format=torch.channels_last)
    if config.compiled:
        unet.compile(dynamic=False)
    settings = config.optimizer
    copy_from_first(list(model.trainable().values()))
    state = new_state(model, settings.learning_rate, settings.weight_decay, settings.ema)
    earlier = checkpoint_to_resume(job.folder, place)
    if earlier:
        load_training_state(state, earlier)
    elif config.start:
        begin_with(state, config.start)
    return state


def begin_with(state: TrainState, start: str) -> None:
    """What another run trained, for reconfiguration the stage before, or an IP-Adapter's file, as far as it goes.

    Step, optimiser and average are new.
    """
    model = state.model
    if isinstance(model, DynamicID):
        load_tensors(model.stored() if model.reconfigurator is None else model.anchored(), start)
    elif is_ip_adapter(start):
        begin_with_ip_adapter(model, read_ip_adapter(start))
    else:
        load_tensors(model.stored(), start)
    for name, parameter in model.trainable().items():
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
