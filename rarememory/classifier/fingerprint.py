"""A fingerprint of an encoder: its features of a made-up input, to know it again by."""

import warnings
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from rarememory.base.files import StrPath
from rarememory.classifier.feature_extractor import FeatureExtractor

TOLERANCE = 0.05
"""Features may differ by this part of their length: half precision and other devices do less."""

TEXT = (
    "The quick brown fox jumps over 13 lazy dogs. In the morning, two birds sang: was it a dream?"
)
"""The made-up text. A change of it makes every file of texts warn of another model."""

Form = dict[str, list[Any]] | Literal["text"]
"""Of an example: a text, or for each part its shape, its dtype, and the integer."""


class Fingerprint:
    """The features of one made-up example, of the form that was learnt first.

    Floats are drawn from [0, 1). Integers are 1, or 0 where only 0 was seen, because nothing says
    which others the model takes. A text is always the same two sentences. Inputs that are neither
    tensors nor texts have no fingerprint.

    Args:
        form: of an example; None before the first one. Tensors that are not in a dict are one part
            without a name.
        features: those of the encoder; None until they are taken.

    Example:
        >>> encoder = FeatureExtractor(torch.nn.Linear(2, 2), None, has_logits=False)
        >>> fingerprint = Fingerprint()
        >>> fingerprint.see(torch.rand(5, 2))
        >>> fingerprint.take(encoder, torch.zeros(0))
        >>> fingerprint.difference(encoder, torch.zeros(0))
        0.0
    """

    def __init__(self, form: Form | None = None, features: Tensor | None = None) -> None:
        self.form = form
        self.features = features

    def to_json(self) -> dict[str, Any]:
        """What the header of a file says of the form."""
        # Older versions refuse a file whose "example" is a text, and load it without a form.
        return {"example": None, "text": True} if self.form == "text" else {"example": self.form}

    @classmethod
    def from_json(cls, header: Mapping[str, Any], features: Tensor | None) -> "Fingerprint":
        """That of a file with this header and these features."""
        return cls("text" if header.get("text") else header.get("example"), features)

    def see(self, inputs: Any) -> None:
        """Note the form of a batch, unless there is one already."""
        if self.form is None:
            self.form = _form(inputs)

    def take(self, encoder: FeatureExtractor, like: Tensor) -> None:
        """Take the fingerprint, unless there is one, or the model cannot take such an input."""
        if self.features is None and self.form is not None:
            try:
                features = self._of(encoder, like)
            except Exception:
                # A model may refuse whatever it likes, and saving has to go on.
                return
            self.features = features if features.isfinite().all() and features.any() else None

    def difference(self, encoder: FeatureExtractor, like: Tensor) -> float:
        """The length of the difference of the features, as a part of their length; 0 for none."""
        if self.features is None or self.form is None:
            return 0.0
        found, stored = self._of(encoder, like), self.features.float()
        return _difference(found, stored)

    def _of(self, encoder: FeatureExtractor, like: Tensor) -> Tensor:
        assert self.form is not None
        inputs = [TEXT] if self.form == "text" else _made_up(self.form)
        return encoder.extract(inputs, 1, like)[0][0].float().cpu()


def check_encoder(
    stored: Fingerprint, encoder: FeatureExtractor, like: Tensor, path: StrPath, strict: bool
) -> None:
    """Warn, or refuse if strict, where this is not the encoder whose fingerprint was stored."""
    try:
        difference = stored.difference(encoder, like)
    except Exception as error:
        reason = " ".join(str(error).split())
        found = f"the model cannot take the input of the fingerprint ({reason})"
    else:
        if difference <= TOLERANCE:
            return
        found = (
            f"the model's features of the same input differ from those of the file by "
            f"{difference:.0%} of their length, and only {TOLERANCE:.0%} are usual"
        )
    said = (
        f"{str(path)!r} was saved around another model: {found}. Load it around the model that it "
        "was learnt with, or refresh() or learn() again"
    )
    if strict:
        raise ValueError(said)
    warnings.warn(said, stacklevel=3)


def check_one_encoder(
    ours: tuple[Fingerprint, FeatureExtractor, Tensor],
    theirs: tuple[Fingerprint, FeatureExtractor, Tensor],
) -> None:
    """Refuse two encoders whose features of one made-up input differ, if both can take it.

    Args:
        ours: the fingerprint of a classifier, its encoder, and a tensor of its device and dtype.
        theirs: those of another one.

    Raises:
        ValueError: they differ.
    """
    form = theirs[0].form if ours[0].form is None else ours[0].form
    one, other = (_features_now(form, *parts) for parts in (ours, theirs))
    if one is None or other is None:
        return
    if one.shape != other.shape:
        found = f"have width {len(one)} and {len(other)}"
    elif (difference := _difference(other, one)) > TOLERANCE:
        found = f"differ by {difference:.0%} of their length"
    else:
        return
    raise ValueError(
        f"the two have different models, whose features of the same input {found}: learn both with "
        "one model, or learn() the examples of the other one here"
    )


def _features_now(
    form: Form | None, stored: Fingerprint, encoder: FeatureExtractor, like: Tensor
) -> Tensor | None:
    """Features of such an example; those that were stored where there is no model any more."""
    found = Fingerprint(form)
    found.take(encoder, like)
    if found.features is None and stored.form == form:
        return None if stored.features is None else stored.features.float()
    return found.features


def _difference(found: Tensor, features: Tensor) -> float:
    return float((found - features).norm() / features.norm())


def _form(inputs: Any) -> Form | None:
    """The form of an example of a batch; None if it has none."""
    if isinstance(inputs, list | tuple):
        return "text" if inputs and all(isinstance(one, str) for one in inputs) else None
    parts = inputs if isinstance(inputs, Mapping) else {"": inputs}
    if not all(_is_plain(part) for part in parts.values()):
        return None
    return {name: _form_of_part(part) for name, part in parts.items()}


def _made_up(form: dict[str, list[Any]]) -> Any:
    """A batch of one pseudo-random example."""
    generator = torch.Generator().manual_seed(0)
    parts = {}
    for name, (shape, dtype, number) in form.items():
        part = torch.rand(1, *shape, generator=generator)
        part = part if number is None else part.fill_(number)
        parts[name] = part.to(getattr(torch, dtype))
    return parts.get("", parts)


def _is_plain(part: Any) -> bool:
    return isinstance(part, Tensor) and part.dim() > 0 and not part.is_complex() and len(part) > 0


def _form_of_part(part: Tensor) -> list[Any]:
    """The shape and the dtype of an example, and the integer that stands for all of its own."""
    number = None if part.is_floating_point() else min(1, int(part.max()))
    return [list(part.shape[1:]), str(part.dtype).removeprefix("torch."), number]
