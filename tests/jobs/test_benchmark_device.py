"""The measurements of a device, and the whole chain at full size, on narrow models: they run, whatever they measure."""

import json

from benchmarks import card, full_size
from benchmarks.device import DeviceConfig, run
from jobs.config import ModelsConfig
from jobs.training.config import AdapterSizes


def test_the_card_shows_what_a_device_has_measured(paper_models, tmp_path):
    config = DeviceConfig(
        output=tmp_path / "device.json",
        device="cpu",
        full_size=False,
        models=ModelsConfig(**vars(paper_models)),
        adapter=AdapterSizes(queries=2, cls_tokens=2, depth=1, heads=2, dim_head=16),
        batches=[1],
        rounds=2,
        compiled=False,  # minutes on a CPU
        training_rows=2,
        requests=2,
        steps=2,
    )
    report = json.loads(run(config, "this test").read_text())
    calls, training, serving = report["tables"]
    assert [row[0] for row in calls["rows"]] == [
        f"{name}, eager"
        for name in (card.BASE, card.OURS, card.IMAGE_ALONE, "IP-Adapter", "IP-Adapter-Plus", "both IP-Adapters")
    ]
    assert [row[0] for row in training["rows"]] == ["cached", "online"]
    assert [row[0] for row in serving["rows"]] == ["one by one", "together"]
    shown = card.measured([config.output])
    assert "`this test`, torch " in shown
    assert shown.count("| base, eager | 1 |") == 1


def test_the_chain_of_the_full_size_trains_saves_loads_and_draws(paper_models, tmp_path, capsys):
    picture = full_size.run(paper_models, tmp_path)
    assert picture.shape == (64, 64, 3)
    assert (tmp_path / "checkpoint" / "adapters.safetensors").is_file()
    assert capsys.readouterr().out.count("GB at most so far") == 3
