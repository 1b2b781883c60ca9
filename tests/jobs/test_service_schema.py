"""Whatever the OpenAPI document allows, and much that it does not, is answered without a fault of the server."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings, strategies
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from service import LIMITS, listening, stand

OPERATIONS = [
    ("post", "/v1/images/generations"),
    ("post", "/v1/images/edits"),
    ("post", "/v1/subjects"),
    ("get", "/v1/subjects"),
    ("get", "/v1/subjects/{subject_id}"),
    ("delete", "/v1/subjects/{subject_id}"),
    ("get", "/v1/models"),
    ("get", "/healthz"),
    ("get", "/metrics"),
]


@pytest.fixture(scope="module")
def document(tmp_path_factory) -> Iterator[Any]:
    limits = LIMITS.model_copy(update={"steps": 60})
    with listening(stand(tmp_path_factory.mktemp("subjects"), limits=limits).app) as url:
        yield schemathesis.openapi.from_url(f"{url}/openapi.json")


def test_every_operation_of_the_document_is_tried(document):
    found = {(method, path) for path, methods in document.raw_schema["paths"].items() for method in methods}
    assert found == set(OPERATIONS)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_no_request_makes_the_server_fail(document, method, path):
    operation = document[path][method]
    modes = [GenerationMode.POSITIVE]
    if operation.body or operation.path_parameters:
        modes.append(GenerationMode.NEGATIVE)

    @given(case=strategies.one_of(*(operation.as_strategy(generation_mode=mode) for mode in modes)))
    @settings(
        max_examples=40,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )
    def answered(case):
        case.call_and_validate(checks=[not_a_server_error])

    answered()
