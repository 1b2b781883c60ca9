"""A Ray for the curation runs of a file, and a server that speaks S3."""

import itertools
from dataclasses import dataclass
from typing import Any

import pytest

BUCKETS = (f"clips-{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def curation_ray():
    """A private Ray for the curation runs of a file: starting one costs six seconds, and other files need their own."""
    from jobs.cluster import ray_session
    from jobs.config import RayConfig

    with ray_session(RayConfig(num_cpus=4, object_store_mb=256)):
        yield


@dataclass(frozen=True)
class Bucket:
    """A bucket of its own for one test."""

    name: str
    client: Any

    @property
    def url(self) -> str:
        return f"s3://{self.name}"

    def put(self, key: str, data: bytes) -> str:
        """Stores an object; its URL."""
        self.client.put_object(Bucket=self.name, Key=key, Body=data)
        return f"{self.url}/{key}"


@pytest.fixture(scope="session")
def s3_client():
    """A client of an S3 server on this machine, which the environment names as every cluster's would."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    values = {"ENDPOINT_URL": address, "ACCESS_KEY_ID": "user", "SECRET_ACCESS_KEY": "word", "REGION": "us-east-1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**values, "EC2_METADATA_DISABLED": "true"}.items():
            patch.setenv(f"AWS_{name}", value)
        yield boto3.client("s3", endpoint_url=address, region_name="us-east-1")
    server.stop()


@pytest.fixture
def bucket(s3_client) -> Bucket:
    """An empty bucket."""
    name = next(BUCKETS)
    s3_client.create_bucket(Bucket=name)
    return Bucket(name, s3_client)
