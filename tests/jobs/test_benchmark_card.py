"""The performance card: limits on what can be counted at full size, and a page that tells of this very code."""

import pytest

from benchmarks import card
from benchmarks.launches import Work


@pytest.fixture(scope="module")
def works() -> dict[str, Work]:
    return card.unet_calls()


def test_a_call_with_flexip_launches_and_computes_little_more_than_the_base_models(works):
    base, ours = works[card.BASE], works[card.OURS]
    assert ours.launches <= card.MOST_LAUNCHES * base.launches
    assert works[card.IMAGE_ALONE].flops <= ours.flops <= card.MOST_FLOPS * base.flops
    assert works[card.FIRST].operators["mm"] == base.operators["mm"]  # text is projected once, then never again
    assert ours.operators["mm"] == base.operators["mm"] - 2 * 16
    assert ours.operators["scaled_dot_product_attention"] == base.operators["scaled_dot_product_attention"] + 2 * 16
    assert base.flops == pytest.approx(803.3e9, rel=1e-3)


def test_diffusers_own_adapters_launch_more(works):
    launches = {name: work.launches for name, work in works.items()}
    assert launches[card.OURS] < launches["IP-Adapter"] < launches["IP-Adapter-Plus"] < launches["both IP-Adapters"]


def test_the_page_shows_these_counts(works):
    written = card.PAGE.read_text()
    assert card.calls_table(works) in written
    assert card.added_table(works) in written


def test_every_module_has_its_published_size():
    millions = {name: number / 1e6 for name, number in card.parameters().items()}
    published = {
        "UNet": 859.52,
        "VAE": 83.65,
        "CLIP ViT-L/14, text": 123.06,
        "OpenCLIP ViT-H/14, image": 632.08,
        "DINOv2-L": 304.37,
    }
    assert millions == pytest.approx(published, rel=1e-4)
    trained = card.training(256).parameters
    assert trained["attention"] / 1e6 == pytest.approx(19.17, abs=0.005)
    assert sum(trained.values()) / 1e6 == pytest.approx(111.26, abs=0.01)
