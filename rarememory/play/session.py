"""The actions on a memory of drawings that the page offers."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

from rarememory.backbones import omniglot_encoder
from rarememory.classifier import MemoryClassifier
from rarememory.classifier.labels import Label
from rarememory.memory import Memory
from rarememory.memory.updates import FirstInFirstOut
from rarememory.play.drawing import ink, is_drawing
from rarememory.play.unknown import set_threshold

ENCODER = "omniglot"
SLOTS = 1024
LONGEST_NAME = 40
MAX_UNDO = 50


class Session:
    """A memory of drawings that learns, predicts, forgets, and undoes changes.

    Every drawing has a slot of its own, and the drawing, an SVG path, is the ref of that slot. So
    it is saved with the memory, and any program that forgets its class removes it from the file.

    Args:
        file: the file of the memory, loaded if it exists.

    Raises:
        ValueError: the file is no memory, or was made with another encoder.

    Example:
        >>> session = Session(Path("drawings.safetensors"))
        >>> session.learn("M60 20L60 200L160 200", "L")
        'learnt L'
        >>> answer = session.ask("M66 30L64 190L150 196")
        >>> answer["label"], answer["because"][0]["drawings"]
        ('L', ['M60 20L60 200L160 200'])
        >>> session.undo(), session.ask("M66 30L64 190L150 196")["label"]
        ('undid: learn L', None)
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._encoder = omniglot_encoder()
        self._history: list[tuple[str, MemoryClassifier]] = []
        self._classifier = self._read() if file.exists() else self._new()
        self.saved = True

    # Reading

    def ask(self, path: str, k: int = 4) -> dict[str, Any]:
        """The label of a drawing (None if unknown), and the k nearest remembered drawings."""
        image = ink(path).unsqueeze(0)
        (label,) = self._classifier.predict(image)
        return {
            "label": None if label == self._classifier.unknown else str(label),
            "threshold": self._classifier.threshold.item(),
            "because": [
                {"label": str(one.label), "score": one.score, **_split_refs(one.refs)}
                for one in self._classifier.explain(image, k)[0]
            ],
        }

    def state(self) -> dict[str, Any]:
        """Every class with its drawings, the change that undo would undo, and the file."""
        classes: dict[str, Any] = {
            name: {"label": name, "slots": 0, "drawings": [], "files": []}
            for name in self._labels()
        }
        for example in self._classifier.examples():
            of_class = classes[str(example.label)]
            of_class["slots"] += 1
            for kind, refs in _split_refs(example.refs).items():
                of_class[kind] += refs
        return {
            "classes": list(classes.values()),
            "undo": self._history[-1][0] if self._history else None,
            "file": str(self.file),
            "on_disk": self.file.exists(),
            "saved": self.saved,
        }

    # Changing; each returns a sentence

    def learn(self, path: str, name: str) -> str:
        """Remember a drawing under a name.

        Raises:
            ValueError: the path is no drawing, or the name is not valid.
        """
        image, name = ink(path), valid_name(name)
        label = self._labels().get(name, name)
        with self._undoable(f"learn {name}"):
            lost = self._classifier.learn(image.unsqueeze(0), [label], [path]).lost
            set_threshold(self._classifier)
        if lost:
            return f"learnt {name}; the memory was full and lost its oldest drawing, a {lost[0]}"
        return f"learnt {name}"

    def forget(self, name: str) -> str:
        """Forget a class and its drawings.

        Raises:
            ValueError: there is no such class.
        """
        labels = self._labels()
        if name not in labels:
            raise ValueError(f"{name[:LONGEST_NAME]!r} is not known, and cannot be forgotten")
        with self._undoable(f"forget {name}"):
            self._classifier.forget(labels[name])
            set_threshold(self._classifier)
        return f"forgot {name}"

    def undo(self) -> str:
        """Undo the last change.

        Raises:
            ValueError: there is none.
        """
        if not self._history:
            raise ValueError("there is nothing to undo")
        what, self._classifier = self._history.pop()
        self.saved = False
        return f"undid: {what}"

    def save(self) -> str:
        """Write the memory to its file.

        Raises:
            OSError: it cannot be written.
        """
        self._classifier.save(self.file)
        self.saved = True
        return f"saved to {self.file}"

    def load(self) -> str:
        """Replace the memory by the one in the file.

        Raises:
            FileNotFoundError: there is no file.
            ValueError: the file is no memory, or was made with another encoder.
        """
        with self._undoable("load"):
            self._classifier = self._read()
        self.saved = True
        return f"loaded {self.file}"

    @contextmanager
    def _undoable(self, what: str) -> Iterator[None]:
        """Keep a copy of the classifier from before a change; the encoder is not copied."""
        before = deepcopy(self._classifier, {id(self._encoder): self._encoder})
        yield
        self._history = [*self._history, (what, before)][-MAX_UNDO:]
        self.saved = False

    def _labels(self) -> dict[str, Label]:
        """The label of each class, by its text on the page."""
        return {str(label): label for label in self._classifier.classes}

    def _new(self) -> MemoryClassifier:
        memory = Memory(128, SLOTS, update=FirstInFirstOut())
        # The prior of the threshold is a cosine of the nearest drawing.
        classifier = MemoryClassifier(self._encoder, host=False, memory=memory, reader="nearest")
        classifier.about["encoder"] = ENCODER
        set_threshold(classifier)
        return classifier

    def _read(self) -> MemoryClassifier:
        made_with = MemoryClassifier.load(self.file, None).about.get("encoder")
        if made_with != ENCODER:
            raise ValueError(
                f"{str(self.file)!r} was learnt with the encoder {made_with}, and drawings need "
                f"{ENCODER}: choose another file with --memory"
            )
        classifier = MemoryClassifier.load(self.file, self._encoder)
        set_threshold(classifier)
        return classifier


def valid_name(name: str) -> str:
    """The name without surplus spaces.

    Raises:
        ValueError: it is empty, too long, not printable, or "unknown".

    Example:
        >>> valid_name("  kea ")
        'kea'
    """
    name = " ".join(name.split())
    if not name:
        raise ValueError("the name is empty: type one, then press Enter")
    if len(name) > LONGEST_NAME:
        raise ValueError(
            f"a name has at most {LONGEST_NAME} characters, and this one has {len(name):,}: "
            "shorten it"
        )
    if not name.isprintable():
        raise ValueError("a name must have visible characters only: type another")
    if name.lower() == "unknown":
        raise ValueError("unknown is the answer for an unknown drawing: choose another name")
    return name


def _split_refs(refs: tuple[Any, ...]) -> dict[str, list[str]]:
    """The refs of a slot: its drawings, and the files of images learnt from files."""
    return {
        "drawings": [ref for ref in refs if is_drawing(ref)],
        "files": [str(ref) for ref in refs if not is_drawing(ref)],
    }
