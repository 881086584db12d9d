"""The application: learn, predict, explain, forget, health and metrics over a stored memory."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

import torch
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from torch import Tensor

from rarememory.serve import metrics
from rarememory.serve.bodies import (
    Answers,
    Emptied,
    Explained,
    Gone,
    Health,
    Inputs,
    Labelled,
    Learned,
    Problem,
    Reasons,
    Vector,
    json_label,
)
from rarememory.serve.limits import Limits
from rarememory.store import StoredClassifier

MAX_BYTES = 16 << 20
PATIENCE = 10.0
WAIT = 2.0

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The request cannot be meant; a sentence says why."},
    401: {"model": Problem, "description": "The token is missing or wrong."},
    408: {"model": Problem, "description": "The request came too slowly."},
    409: {"model": Problem, "description": "This worker does not know that version yet."},
    413: {"model": Problem, "description": "The body is too large."},
    422: {"model": Problem, "description": "The body has parts that it must not have."},
    503: {"model": Problem, "description": "The store does not answer; nothing was changed."},
}


def application(
    classifier: StoredClassifier,
    token: str,
    *,
    kind: Any = Vector,
    read: Callable[[list[Any]], Tensor] = torch.tensor,
    max_bytes: int = MAX_BYTES,
    patience: float = PATIENCE,
    wait: float = WAIT,
) -> Limits:
    """The service as an ASGI application.

    Args:
        classifier: that answers.
        token: that every request must have, but for health.
        kind: of an input in JSON, a type that pydantic knows.
        read: makes a batch for the model of inputs, or raises a ValueError.
        max_bytes: of the body of a request.
        patience: seconds for it.
        wait: seconds that a request waits for the version it asks for.
    """
    app = FastAPI(title="rarememory", docs_url=None, redoc_url=None)
    app.exception_handler(RequestValidationError)(_invalid)
    app.exception_handler(ValueError)(_answered(400))
    app.exception_handler(TimeoutError)(_answered(409))
    app.exception_handler(ConnectionError)(_answered(503))
    app.middleware("http")(_counted)

    @app.post("/learn", responses=_PROBLEMS)
    def learn(body: Labelled[kind]) -> Learned:
        """Remember examples under their labels, known or new."""
        if len(body.inputs) != len(body.labels):
            raise ValueError(
                f"{len(body.labels)} labels for {len(body.inputs)} inputs: give as many"
            )
        learnt = classifier.learn(read(body.inputs), body.labels, body.refs, once=body.once)
        lost = [json_label(label) for label in learnt.lost]
        return Learned(
            version=classifier.version,
            slots=learnt.slots.tolist(),
            hits=learnt.hits.tolist(),
            lost=lost,
        )

    @app.post("/predict", responses=_PROBLEMS)
    def predict(body: Inputs[kind]) -> Answers:
        """The likeliest class of each example."""
        classifier.wait_for(body.at_least, wait)
        version, inputs = classifier.version, read(body.inputs)
        labels = [json_label(label) for label in classifier.predict(inputs)]
        confidences = classifier.predict_proba(inputs).confidence.tolist()
        return Answers(version=version, labels=labels, confidences=confidences)

    @app.post("/explain", responses=_PROBLEMS)
    def explain(body: Explained[kind]) -> Reasons:
        """The remembered examples behind each answer."""
        classifier.wait_for(body.at_least, wait)
        version = classifier.version
        rows = classifier.explain(read(body.inputs), body.k)
        examples = [[_reason(one) for one in row] for row in rows]
        return Reasons(version=version, examples=examples)

    @app.post("/forget", responses=_PROBLEMS)
    def forget(body: Gone) -> Emptied:
        """Forget classes."""
        count = classifier.forget(*body.labels, once=body.once)
        return Emptied(version=classifier.version, count=count)

    @app.get("/health")
    def health() -> Health:
        """Whether this worker follows the store."""
        trouble = classifier.trouble
        return Health(version=classifier.version, following=trouble is None, trouble=trouble)

    @app.get("/metrics", responses={401: _PROBLEMS[401]}, response_class=Response)
    def scrape() -> Response:
        """Counts for Prometheus."""
        metrics.VERSION.set(classifier.version)
        metrics.FOLLOWING.set(classifier.trouble is None)
        return Response(metrics.exposed(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return Limits(app, token, max_bytes, patience)


def _reason(one: Any) -> dict[str, Any]:
    return {
        "label": json_label(one.label),
        "ref": json_label(one.ref),
        "score": float(one.score),
        "weight": float(one.weight),
    }


def _answered(status: int) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def answer(_: Request, error: Exception) -> Response:
        return JSONResponse({"detail": str(error)}, status)

    return answer


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # Not the input itself, which may be anything.
    found = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:3]]
    detail = "; ".join(found).encode("ascii", "replace").decode()[:500]
    return JSONResponse({"detail": detail}, 422)


async def _counted(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
    begin = time.perf_counter()
    response = await call(request)
    route = request.scope.get("route")
    verb = getattr(route, "path", "other").strip("/")
    metrics.REQUESTS.labels(verb, response.status_code).inc()
    metrics.SECONDS.labels(verb).observe(time.perf_counter() - begin)
    return response
