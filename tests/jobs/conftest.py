"""The HTTP application over an easel of one colour, and a picture to send to it."""

import base64
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from service import Stand, stand

from flexip.images import encode_png


@pytest.fixture
def service(tmp_path) -> Stand:
    return stand(tmp_path / "subjects")


@pytest.fixture
def client(service) -> Iterator[TestClient]:
    with TestClient(service.app) as client:
        yield client


@pytest.fixture(scope="module")
def png(reference) -> bytes:
    return encode_png(reference)


@pytest.fixture(scope="module")
def picture(png) -> str:
    return base64.b64encode(png).decode()
