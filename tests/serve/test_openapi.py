"""Requests that schemathesis makes of the service's OpenAPI never stop it."""

from contextlib import closing

import pytest
from hypothesis import HealthCheck, given, settings
from torch import nn

from rarememory import FirstInFirstOut, Memory
from rarememory.store import wrap

PATHS = ("/learn", "/predict", "/explain", "/forget", "/health", "/metrics")


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    service = pytest.importorskip("rarememory.serve.service", reason="FastAPI is not installed")
    memory = Memory(3, 8, update=FirstInFirstOut())
    url = f"sqlite:///{tmp_path_factory.mktemp('store')}/birds.db"
    with closing(wrap(nn.Identity(), host=False, memory=memory, store=url, poll=None)) as one:
        application = service.application(one, "of the birds", wait=0.01)
        yield schemathesis.openapi.from_asgi("/openapi.json", application)


@pytest.mark.parametrize("path", PATHS)
def test_every_request_is_answered_as_the_openapi_says(api, path):
    # No schema says how wide a vector is, and which classes there are to forget.
    checks = pytest.importorskip("schemathesis.specs.openapi.checks")
    (operation,) = api[path].values()

    @given(case=operation.as_strategy())
    @settings(max_examples=10, suppress_health_check=list(HealthCheck))
    def answered(case):
        case.call_and_validate(
            headers={"Authorization": "Bearer of the birds"},
            excluded_checks=[checks.positive_data_acceptance],
        )

    answered()


def test_all_paths_are_asked(api):
    assert {*api} == {*PATHS}
