"""What is in the requests and the answers of the service."""

from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from rarememory.classifier.labels import Label

MAX_BATCH = 256
"""Examples of one request."""
MAX_TEXT = 1000
"""Characters of a label or a ref."""

Input = TypeVar("Input")
Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e30, le=1e30)]
Vector = Annotated[list[Number], Field(min_length=1, max_length=2**16)]
Image = Annotated[str, Field(min_length=1, description="A file (PNG, JPEG, ...) in base64.")]
Name = Annotated[str, Field(max_length=MAX_TEXT)]
Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]
JsonLabel = Name | bool | Whole | Number | None
Once = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,100}$")]
AtLeast = Annotated[int, Field(ge=0, lt=2**62)]


class Body(BaseModel):
    """A request, which has no other parts."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Inputs(Body, Generic[Input]):
    """Examples to answer."""

    inputs: Annotated[list[Input], Field(min_length=1, max_length=MAX_BATCH)]
    at_least: AtLeast | None = None


class Explained(Body, Generic[Input]):
    """Examples to answer with the examples behind the answer."""

    inputs: Annotated[list[Input], Field(min_length=1, max_length=MAX_BATCH)]
    at_least: AtLeast | None = None
    k: Annotated[int, Field(ge=1, le=100)] = 5


class Labelled(Body, Generic[Input]):
    """Examples to learn; with `once`, requests of the same id learn once."""

    inputs: Annotated[list[Input], Field(min_length=1, max_length=MAX_BATCH)]
    labels: Annotated[list[JsonLabel], Field(min_length=1, max_length=MAX_BATCH)]
    refs: Annotated[list[JsonLabel], Field(max_length=MAX_BATCH)] | None = None
    once: Once | None = None


class Gone(Body):
    """Classes to forget; with `once`, requests of the same id forget once."""

    labels: Annotated[list[JsonLabel], Field(min_length=1, max_length=MAX_BATCH)]
    once: Once | None = None


class Learned(BaseModel):
    """What was learnt is durable, and known from this version on."""

    version: int
    slots: list[int]
    hits: list[bool]
    lost: list[Any]


class Answers(BaseModel):
    """The likeliest class of each example, or the label for what is unknown."""

    version: int
    labels: list[Any]
    confidences: list[float]


class Reasons(BaseModel):
    """The remembered examples behind each answer, those with the greatest weight first."""

    version: int
    examples: list[list[dict[str, Any]]]


class Emptied(BaseModel):
    """How many examples were forgotten; no worker knows them from this version on."""

    version: int
    count: int


class Health(BaseModel):
    """Whether this worker follows the store; if not, it answers from what it knows."""

    version: int
    following: bool
    trouble: str | None


class Problem(BaseModel):
    """Why a request was not answered, in one sentence."""

    detail: str


def json_label(label: Label) -> Any:
    """A label in an answer: a tuple is a list, and what JSON has no word for is a text."""
    if isinstance(label, tuple):
        return [json_label(part) for part in label]
    return label if label is None or isinstance(label, str | int | float) else str(label)
