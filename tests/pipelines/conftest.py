"""A Ray for all curation runs of the session."""

import pytest


@pytest.fixture(scope="session")
def curation_ray():
    """A private Ray for every test that curates: starting one costs six seconds."""
    from jobs.cluster import ray_session
    from jobs.config import RayConfig

    with ray_session(RayConfig(num_cpus=4, object_store_mb=256)):
        yield
