"""The head of a classifier: the layer whose output are the logits."""

from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from rarememory.classifier.wrappers import scripted_parts

MAX_NAMED = 5
"""So many candidates are named in an error."""


class Widths(NamedTuple):
    """The numbers that a layer takes and gives for each example."""

    features: int
    outputs: int


def widths(layer: nn.Module) -> Widths | None:
    """The widths of a Linear, or of a layer of LoRA that says as much; otherwise None.

    A convolution of 1x1 is a Linear at each place, so it has widths too.

    Example:
        >>> widths(nn.Linear(4, 3)), widths(nn.Conv2d(4, 3, 1)), widths(nn.Conv2d(4, 3, 2))
        (Widths(features=4, outputs=3), Widths(features=4, outputs=3), None)
    """
    names = ("in_features", "out_features")
    if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1:
        names = ("in_channels", "out_channels")
    found: list[Any] = [getattr(layer, name, None) for name in names]
    # Attention calls its last Linear by its weight alone, and the layer itself never runs.
    if isinstance(layer, NonDynamicallyQuantizableLinear):
        return None
    return Widths(*found) if all(isinstance(n, int) and n > 0 for n in found) else None


def last_linear(model: nn.Module) -> tuple[str, nn.Module] | None:
    """Name and layer of the last Linear: the head, in most classifiers of torchvision and timm.

    A Linear inside of a layer of LoRA is a part of that layer.

    Example:
        >>> last_linear(nn.Sequential(nn.Linear(4, 3), nn.ReLU()))
        ('0', Linear(in_features=4, out_features=3, bias=True))
    """
    last: tuple[str, nn.Module] | None = None
    for name, layer in model.named_modules():
        inside = last is not None and name.startswith(f"{last[0]}.")
        if widths(layer) and not isinstance(layer, nn.Conv2d) and not inside:
            last = name, layer
    return last


def likely_head(model: nn.Module) -> tuple[str, nn.Module] | None:
    """The last Linear, or the last 1x1 convolution where there is no Linear; for a first guess."""
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and widths(m)]
    return last_linear(model) or (layers[-1] if layers else None)


class Call(NamedTuple):
    """A layer that ran: its input, its output, and a copy of that, a row for each example."""

    name: str
    features: Tensor
    output: Tensor
    copy: Tensor


class HeadSearch:
    """Notes which layers could have made a model's logits, while the model runs.

    Args:
        model: whose layers are looked at.

    Attributes:
        layers: those to look at, by name: each that has weights of its own, and each with widths;
            and the model itself, "".

    Raises:
        ValueError: there is no such layer but in parts that are scripted.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
        >>> search, x = HeadSearch(model), torch.ones(1, 4)
        >>> for name in ("0", "1"):
        ...     search.before(name, x)
        ...     search.after(name, x := model.get_submodule(name)(x))
        >>> [call.name for call in search.with_output(x)]
        ['1']
    """

    def __init__(self, model: nn.Module) -> None:
        self.scripted = scripted_parts(model)
        unseen = tuple(f"{name}." if name else "" for name in self.scripted)
        self._heads = {
            name: layer
            for name, layer in model.named_modules()
            if (widths(layer) or _has_matrix(layer)) and not f"{name}.".startswith(unseen)
        }
        if self.scripted and not self._heads:
            raise ValueError(refusal_of_scripted(self.scripted))
        # The model itself, to see all that it returns.
        self.layers = {**self._heads, "": model} if self._heads else {}
        self.calls: list[Call] = []
        self._entered: dict[str, Any] = {}
        self._returned: Any = None

    def before(self, name: str, value: Any) -> None:
        """Note the input of a layer."""
        self._entered[name] = value

    def after(self, name: str, value: Any) -> None:
        """Note the output of a layer, if it has a row of numbers for each example."""
        features = self._entered.pop(name, None)
        if not name:
            self._returned = value
        if name in self._heads and isinstance(features, Tensor) and _is_row_each(value):
            # A copy, because what follows may change it in place.
            copy = value.detach().flatten(1).clone()
            self.calls.append(Call(name, features, value, copy))

    def with_output(self, logits: Tensor) -> list[Call]:
        """The layers whose output is the model's, or becomes it by a softmax or a sigmoid.

        Raises:
            ValueError: no layer that is seen gives as many numbers, and others are scripted; or
                another part of what the model returned comes from a later layer, and these
                numbers may be its features.
        """
        same = self._making(logits)
        self._check_no_features(logits, same)
        if not same and self.scripted and not self.with_width_of(logits):
            raise ValueError(refusal_of_scripted(self.scripted))
        # Layers that are all zero before training give the same numbers: one of them is the output.
        itself = [call for call in same if call.output.data_ptr() == logits.data_ptr()]
        return itself or same

    def _making(self, logits: Tensor, first: int = 0) -> list[Call]:
        rows = logits.detach().flatten(1)
        return [call for call in self.calls[first:] if _makes(call.copy, rows)]

    def _check_no_features(self, logits: Tensor, makers: list[Call]) -> None:
        """Refuse what enters a layer as features, where the model returns that layer's output too.

        An auxiliary output has a layer of its own too, but takes what the head takes.
        """
        parts = self._returned if isinstance(self._returned, list | tuple) else ()
        made = {id(call) for call in makers}
        later = max((n for n, call in enumerate(self.calls) if id(call) in made), default=-1) + 1
        for place, part in enumerate(parts):
            if part is logits or not _is_row_each(part):
                continue
            for call in self._making(part, later):
                if call.features.shape == logits.shape:
                    raise ValueError(_beside(logits, makers, place, part, call))

    def with_width_of(self, logits: Tensor) -> list[str]:
        """Names of the layers with as many outputs as the model."""
        width = logits.flatten(1).shape[1]
        return list(dict.fromkeys(c.name for c in self.calls if c.copy.shape[1] == width))


def check_seen(model: nn.Module, at: str) -> None:
    """Refuse a layer that is scripted, or in what is scripted: no hook sees it.

    Raises:
        ValueError: it is.

    Example:
        >>> check_seen(nn.Sequential(nn.Linear(4, 3)), at="0")
    """
    for name in scripted_parts(model):
        if not name or f"{at}.".startswith(f"{name}."):
            raise ValueError(refusal_of_scripted([name]))


def refusal_of_scripted(names: list[str]) -> str:
    """Why no layer in these scripted parts of a model is seen, and what to write."""
    listed = ", ".join(map(repr, names[:MAX_NAMED]))
    where = f"the part {listed} is" if len(names) == 1 else f"the parts {listed} are"
    return (
        f"{'the model is' if '' in names else where} scripted, and no layer is seen to run in what "
        "is scripted: wrap the model that was given to torch.jit, or say host=False, without at=, "
        "to remember what the model returns as features"
    )


def _beside(logits: Tensor, makers: list[Call], place: int, part: Tensor, call: Call) -> str:
    """Why these are features that the model returns beside its logits, and what to write."""
    source = f"the output of {makers[-1].name!r}" if makers else "the output of no layer"
    right = f", or at={makers[-1].name!r} if these are the logits" if makers else ""
    return (
        f"what was taken as the model's logits, {list(logits.shape)}, is {source}, and as many "
        f"numbers enter {call.name!r}, whose output {list(part.shape)} the model returned too: say "
        f"output={place} if that is the logits{right}"
    )


def _has_matrix(layer: nn.Module) -> bool:
    """Whether a layer without parts could be a head of one's own: not one that normalises."""
    alone = next(layer.children(), None) is None
    return alone and any(weight.dim() > 1 for weight in layer.parameters(recurse=False))


def _is_row_each(value: Any) -> bool:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return False
    return value.dim() == 2 or (value.dim() == 4 and value.shape[2:] == (1, 1))


def _makes(output: Tensor, logits: Tensor) -> bool:
    """Whether the logits are the output, or its (logarithmic) softmax or sigmoid."""
    if output.shape != logits.shape:
        return False
    # As the model computes them, rounded as its logits are.
    output = output.to(logits.dtype)
    forms = (output, output.log_softmax(1), output.softmax(1), output.sigmoid())
    return any(_close(form.double(), logits.double()) for form in forms)


def _close(found: Tensor, wanted: Tensor) -> bool:
    """Whether two tensors are equal, but for rounding."""
    found, wanted = found.nan_to_num(), wanted.nan_to_num()
    spread = (wanted - wanted.mean()).abs().max()
    return bool((found - wanted).abs().max() <= 0.01 * spread)
