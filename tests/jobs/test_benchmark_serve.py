"""The counts of the serving benchmark, on pictures of one colour, and the least that they are measured against."""

import dataclasses

import numpy as np
from service import LIMITS, listening, stand

from benchmarks.load import Asked, Trace, arrivals, equal_trace, least_calls_closed, least_calls_open, mixed_trace
from benchmarks.peers import draw_groups, load
from benchmarks.serve import Plan, closed, opened, to_request
from flexip.sampler import sample
from jobs.serving.requests import GenerationRequest

PLAN = Plan(rows=2, steps=(4, 6, 10), per_client=3, references=3, rounds=1)


def of_steps(*steps: int) -> Trace:
    return Trace(tuple(Asked("a", 0, 0.5, 1.0, number, i) for i, number in enumerate(steps)), ())


def test_the_least_calls_are_those_of_a_batcher_that_loses_no_time():
    assert least_calls_closed(of_steps(5, 3), clients=1, max_rows=8) == 8
    assert least_calls_closed(of_steps(5, 3), clients=2, max_rows=8) == 5
    assert least_calls_closed(of_steps(5, 3, 2, 4), clients=2, max_rows=8) == 7  # 5 + 2 beside 3 + 4
    assert least_calls_closed(of_steps(4, 4, 4, 4), clients=4, max_rows=2) == 8
    assert least_calls_open(of_steps(3, 3), [0.0, 1.0], 8, lambda images: 1.0) == 4
    assert least_calls_open(of_steps(3, 3), [0.0, 9.0], 8, lambda images: 1.0) == 6
    assert least_calls_open(of_steps(3, 3), [0.0, 0.0], 1, lambda images: 1.0) == 6
    assert least_calls_open(of_steps(3, 3), [0.0, 3.0], 8, lambda images: 2.0 * images) == 5


def test_a_trace_and_its_arrivals_are_the_same_every_time_and_its_subjects_are_new_to_others():
    first, again, other = (mixed_trace(12, (2, 4), 3, seed) for seed in (1, 1, 2))
    assert first.requests == again.requests
    assert [picture.tobytes() for picture in first.references] == [picture.tobytes() for picture in again.references]
    assert len({picture.tobytes() for trace in (first, other) for picture in trace.references}) == 6
    assert len({(asked.gate, asked.guidance, asked.steps) for asked in first.requests}) > 6
    assert arrivals(5, 2.0, 0) == arrivals(5, 2.0, 0) == sorted(arrivals(5, 2.0, 0))


def test_a_crowd_costs_hardly_more_calls_than_the_least_and_each_reference_is_encoded_once(tmp_path):
    with listening(stand(tmp_path, limits=LIMITS, pause=0.02).app) as url:
        counts, outcome = closed(url, PLAN, clients=8, seed=1)
        late, _ = opened(url, PLAN, per_second=1000, seconds=(0.02, 0.0), seed=2)
    assert counts.passed, counts
    assert counts.fill > 0.85
    assert (len(outcome.latencies), outcome.refused) == (24, 0)
    assert late.encoded <= late.new  # a burst beyond the queue is refused in part


def test_the_batching_peer_puts_equal_requests_together_and_draws_what_we_draw(untrained_checkpoint, monkeypatch):
    engine, trace = load(untrained_checkpoint), equal_trace(3, 2, 2, seed=1)
    first, second, third = trace.requests
    asked = [first, dataclasses.replace(second, steps=3), dataclasses.replace(third, gate=0.9)]
    calls = []
    condition = engine.model.condition

    def counted(pipe, prompt, **more):
        calls.append(len(prompt))
        return condition(pipe, prompt=prompt, **more)

    monkeypatch.setattr(engine.model, "condition", counted)
    drawn = draw_groups(engine, [GenerationRequest.model_validate(trace.body(it)) for it in asked])
    assert calls == [2, 1]
    for picture, ours in zip(drawn, sample(engine, [to_request(it, trace) for it in asked]), strict=True):
        assert np.abs(picture.astype(int) - ours).max() <= 1
