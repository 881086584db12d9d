"""Damaged files are loaded: bits, parts, texts and numbers of them are not what was saved.

Each must be refused by a documented error, in one line, or give a classifier that can have been
saved: whose invariants hold, which answers, learns, forgets and is saved, or says in a ValueError
that it is of another model.
"""

import json
import random
import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.soak.campaign import Campaign, Tries
from rarememory import FirstInFirstOut, MeanMemory, Memory, MemoryClassifier
from rarememory.base.tensor_files import encoded
from rarememory.classifier.persistence import read_file

KEY_DIM, SLOTS = 4, 6
LONGEST = 1000
"""Characters of an error: a sentence, and the name of the file."""

JUNK: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 7, 2**31, 2**62, 2**63, 2**80, -(2**63), 10**400, 0.5, -0.0, 1e308,
    float("inf"), float("-inf"), float("nan"), "", "x", "keys", "\ud800", "load", "é" * 100, [], {},
    [[]], [1, 2, 3], {"tuple": []}, {"tuple": 7}, {"a": {}}, {"self": 1}, [None] * 3, "forward",
    "a" + ".a" * 2000,
)  # fmt: skip
NUMBERS = (
    0.0, -1.0, 1.0, 2.0, 1e-30, 1e30, 2.0**62, -(2.0**62), float("inf"), float("-inf"), float("nan")
)  # fmt: skip
DTYPES = (torch.float16, torch.float64, torch.int32, torch.int64, torch.bool, torch.uint8)
Pair = tuple[dict[str, Tensor], dict[str, Any]]


def damaged(folder: Path, seed: int) -> Tries:
    """Load one damaged file after another."""
    rng, path = random.Random(seed), folder / "birds.safetensors"
    originals = [_original(memory, host, path) for memory, host in _KINDS]
    while True:
        model, content, pair = rng.choice(originals)
        damage = rng.choice(DAMAGES)
        path.write_bytes(damage(rng, content, pair))
        yield outcome(path, model, f"{damage.__name__}, seed {seed}")


def outcome(path: Path, model: nn.Module, what: str) -> str:
    """What comes of loading this file."""
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        try:
            # As it is inspected, and as it is used.
            MemoryClassifier.load(path, None)
            classifier = MemoryClassifier.load(path, model)
        except (ValueError, OSError) as error:
            text = str(error)
            if "\n" in text or len(text) > LONGEST or not text:
                return f"unreadable: {what}: {text[:200]!r}"
            return "refused"
        except Exception as error:
            return f"undocumented: {what}: {type(error).__name__}: {error}"
        try:
            wrong = broken(classifier)
            _use(classifier, path)
        except ValueError:
            # Such as another layer, or another part of what the model returns.
            return "other_model"
        except Exception as error:
            return f"unusable: {what}: {type(error).__name__}: {error}"
    return f"broken: {what}: {wrong}" if wrong else "accepted"


def broken(classifier: MemoryClassifier) -> str | None:
    """The invariant that does not hold, by a check in plain Python; None if all do."""
    state, labels = classifier.memory.state, {*map(_typed, classifier.classes)}
    clock = int(state.clock)
    columns = (state.keys.double(), state.values, state.written)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    for slot, (key, value, written) in enumerate(rows):
        length = sum(x * x for x in key) ** 0.5
        if not (abs(length - 1) < 0.02 if value >= 0 else length == 0):
            return f"the key of slot {slot} has length {length}, its value is {value}"
        if value < -1 or not 0 <= written <= clock:
            return f"slot {slot} has value {value}, written at {written} of {clock}"
    for one in classifier.examples():
        if _typed(one.label) not in labels or not 0 <= one.slot < len(state.values):
            return f"{one} is of no class"
    if not classifier.ensembler.weights[[0, 2, 3]].isfinite().all():
        return f"weights are {classifier.ensembler.weights}"
    return None


def _typed(label: Any) -> Any:
    return (type(label), label) if type(label) is not tuple else (*map(_typed, label),)


def _use(classifier: MemoryClassifier, path: Path) -> None:
    width = 3 if classifier.extractor.has_logits else KEY_DIM
    inputs = torch.rand(2, width, generator=torch.Generator().manual_seed(1))
    if not classifier.predict_proba(inputs).values.isfinite().all():
        raise ArithmeticError("probabilities are not finite")
    classifier.predict(inputs)
    classifier.explain(inputs)
    classifier.learn(inputs, ["new", "newer"], ["a", "b"])
    classifier.forget("new")
    classifier.save(path)
    MemoryClassifier.load(path, classifier.model)


# What is saved


def _host() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, KEY_DIM), nn.Tanh(), nn.Linear(KEY_DIM, 2))


_KINDS: tuple[tuple[Callable[[], Memory], bool], ...] = (
    (lambda: Memory(KEY_DIM, SLOTS, update=FirstInFirstOut()), False),
    (lambda: Memory(KEY_DIM, SLOTS, projection=True), True),
    (lambda: Memory(KEY_DIM, SLOTS, key_dtype=torch.float16), True),
    (lambda: MeanMemory(KEY_DIM, SLOTS), False),
)


def _original(
    memory: Callable[[], Memory], host: bool, path: Path
) -> tuple[nn.Module, bytes, Pair]:
    """A model, and a classifier around it as bytes, and as tensors and header."""
    model = _host() if host else nn.Identity()
    classes = ["a", "b"] if host else None
    classifier = MemoryClassifier(
        model, at="2" if host else None, host=host, memory=memory(), classes=classes
    )
    inputs = torch.rand(4, 3 if host else KEY_DIM, generator=torch.Generator().manual_seed(0))
    classifier.learn(inputs, ["kea", ("weka", 2), 7, "kea"], ["1.png", None, ("p", 3), 4])
    classifier.save(path)
    return model, path.read_bytes(), read_file(path)


# Kinds of damage: each gives the bytes of a file


def bits(rng: random.Random, content: bytes, pair: Pair) -> bytes:
    """Some bits are turned."""
    spoilt = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        spoilt[rng.randrange(len(spoilt))] ^= 1 << rng.randrange(8)
    return bytes(spoilt)


def parts(rng: random.Random, content: bytes, pair: Pair) -> bytes:
    """A part is missing, twice there, or zero."""
    low, high = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    middle = rng.choice((b"", content[low:high] * 2, bytes(high - low)))
    return rng.choice((content[:low], content[:low] + middle + content[high:]))


def texts(rng: random.Random, content: bytes, pair: Pair) -> bytes:
    """A part of the header is something else; the digest is that of the spoilt file."""
    tensors, header = pair
    spoilt = json.loads(json.dumps(header))
    for _ in range(rng.choice((1, 1, 2))):
        spoilt = _spoil(rng, spoilt)
    return _file(tensors, spoilt)


def nested(rng: random.Random, content: bytes, pair: Pair) -> bytes:
    """The header is nested as deep as no parser follows."""
    depth, (opening, closing) = rng.choice((30, 2_000, 200_000)), rng.choice(("[]", ('{"a":', "}")))
    text = json.dumps(pair[1]).replace('"kea"', opening * depth + closing * depth, 1)
    metadata = {"format": "rarememory.classifier", "version": "2", "header": text}
    return encoded(pair[0], metadata)


def numbers(rng: random.Random, content: bytes, pair: Pair) -> bytes:
    """Some numbers of the tensors are others."""
    tensors = {name: tensor.clone() for name, tensor in pair[0].items()}
    for _ in range(rng.choice((1, 1, 3))):
        tensor = tensors[rng.choice([*tensors])]
        if tensor.numel():
            number = rng.choice(NUMBERS)
            whole = not tensor.is_floating_point()
            number = int(number) if whole and abs(number) < 2**63 else 0 if whole else number
            tensor.view(-1)[rng.randrange(tensor.numel())] = number
    return _file(tensors, pair[1])


def shapes(rng: random.Random, content: bytes, pair: Pair) -> bytes:
    """A tensor is missing, has another name, dtype or shape, or is one too many."""
    tensors = dict(pair[0])
    name = rng.choice([*tensors])
    tensor = tensors.pop(name)
    match rng.randrange(5):
        case 0:
            tensors[name] = tensor.nan_to_num().to(rng.choice(DTYPES))
        case 1:
            tensors[name] = tensor.reshape(-1)[: rng.randrange(tensor.numel() + 1)]
        case 2:
            tensors[name] = tensor.unsqueeze(rng.randrange(tensor.dim() + 1))
        case 3:
            tensors[name + rng.choice(("", "s", ".keys", "memory."))] = tensor
        case _:
            pass
    return _file(tensors, pair[1])


def offsets(rng: random.Random, content: bytes, pair: Pair) -> bytes:
    """A part of the file's own table of tensors is something else."""
    begin = 8 + int.from_bytes(content[:8], "little")
    table = _spoil(rng, json.loads(content[8:begin]))
    text = json.dumps(table).encode(errors="surrogatepass")
    return len(text).to_bytes(8, "little") + text + content[begin:]


DAMAGES = (bits, parts, texts, texts, nested, numbers, numbers, shapes, offsets)


def _file(tensors: dict[str, Tensor], header: Any) -> bytes:
    text = json.dumps(header)
    return encoded(tensors, {"format": "rarememory.classifier", "version": "2", "header": text})


def _spoil(rng: random.Random, node: Any) -> Any:
    """The JSON with something else at one place of it, or without that place."""
    if not isinstance(node, dict | list) or not node or rng.random() < 0.15:
        return deepcopy(rng.choice(JUNK))
    place = rng.choice([*node] if isinstance(node, dict) else range(len(node)))
    if rng.random() < 0.1:
        del node[place]
    else:
        node[place] = _spoil(rng, node[place])
    return node


CAMPAIGN = Campaign("damaged", 10_000, frozenset({"refused", "accepted", "other_model"}), damaged)
