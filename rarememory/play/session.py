"""All that can be done by hand with a memory of drawings; the page only shows it."""

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
from rarememory.play.unknown import draw_line

ENCODER = "omniglot"
SLOTS = 1024
LONGEST_NAME = 40
UNDOABLE = 50


class Session:
    """A memory of drawings, that learns, answers, forgets, and takes back what was done.

    Every drawing has a slot of its own, so that each answers for itself; and the drawing itself is
    the ref of its slot. So it is saved with the memory, shown when it answers, and gone from the
    file once it is forgotten, by whatever program.

    Args:
        file: where it is saved, and where it begins if there is one.

    Raises:
        ValueError: the file is no memory, or one of another encoder.

    Example:
        >>> session = Session(Path("letters.safetensors"))
        >>> session.learn("M60 20L60 200L160 200", "L")
        'learnt L'
        >>> answer = session.ask("M66 30L64 190L150 196")
        >>> answer["label"], answer["because"][0]["drawings"]
        ('L', ['M60 20L60 200L160 200'])
        >>> session.undo(), session.ask("M66 30L64 190L150 196")["label"]
        ('took back: learn L', None)
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._eyes = omniglot_encoder()
        self._before: list[tuple[str, MemoryClassifier]] = []
        self._classifier = self._read() if file.exists() else self._new()
        self.saved = True

    # Asking

    def ask(self, path: str, k: int = 4) -> dict[str, Any]:
        """What a drawing is: its label (None if unknown), and the k nearest remembered drawings."""
        picture = ink(path).unsqueeze(0)
        (label,) = self._classifier.predict(picture)
        return {
            "label": None if label == self._classifier.unknown else str(label),
            "threshold": self._classifier.threshold.item(),
            "because": [
                {"label": str(one.label), "score": one.score, **_shown(one.refs)}
                for one in self._classifier.explain(picture, k)[0]
            ],
        }

    def state(self) -> dict[str, Any]:
        """What is known: every class with its drawings; what undo would take back; the file."""
        classes: dict[str, Any] = {
            name: {"label": name, "slots": 0, "drawings": [], "files": []} for name in self._known()
        }
        state = self._classifier.memory.state
        for slot in state.occupied.nonzero().squeeze(1).tolist():
            one = classes[str(self._classifier._names.label(int(state.values[slot])))]
            one["slots"] += 1
            for kind, refs in _shown(self._classifier._refs.of(slot)).items():
                one[kind] += refs
        return {
            "classes": list(classes.values()),
            "undo": self._before[-1][0] if self._before else None,
            "file": str(self.file),
            "on_disk": self.file.exists(),
            "saved": self.saved,
        }

    # Changing; each answers with a sentence

    def learn(self, path: str, name: str) -> str:
        """Remember a drawing under a name.

        Raises:
            ValueError: there is no drawing, or no name that can be one.
        """
        picture, name = ink(path), proper(name)
        label = self._known().get(name, name)
        with self._undoable(f"learn {name}"):
            lost = self._classifier.learn(picture.unsqueeze(0), [label], [path]).lost
            draw_line(self._classifier)
        if lost:
            return (
                f"learnt {name}; the memory was full, and gave up its oldest drawing, a {lost[0]}"
            )
        return f"learnt {name}"

    def forget(self, name: str) -> str:
        """Forget a class, its drawings with it.

        Raises:
            ValueError: it is not known.
        """
        known = self._known()
        if name not in known:
            raise ValueError(f"{name[:LONGEST_NAME]!r} is not known, and cannot be forgotten")
        with self._undoable(f"forget {name}"):
            self._classifier.forget(known[name])
            draw_line(self._classifier)
        return f"forgot {name}"

    def undo(self) -> str:
        """Take back the last change.

        Raises:
            ValueError: there is none.
        """
        if not self._before:
            raise ValueError("there is nothing to take back")
        what, self._classifier = self._before.pop()
        self.saved = False
        return f"took back: {what}"

    def save(self) -> str:
        """Write the memory to its file.

        Raises:
            OSError: it cannot be written.
        """
        self._classifier.save(self.file)
        self.saved = True
        return f"saved to {self.file}"

    def load(self) -> str:
        """Read the memory from its file, in place of what is known now.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is no memory, or one of another encoder.
        """
        with self._undoable("load"):
            self._classifier = self._read()
        self.saved = True
        return f"loaded {self.file}"

    @contextmanager
    def _undoable(self, what: str) -> Iterator[None]:
        """Keep how it was before something was done, around the same encoder."""
        before = deepcopy(self._classifier, {id(self._eyes): self._eyes})
        yield
        self._before = [*self._before, (what, before)][-UNDOABLE:]
        self.saved = False

    def _known(self) -> dict[str, Label]:
        """The classes, by what they are called on the page."""
        return {str(label): label for label in self._classifier.classes}

    def _new(self) -> MemoryClassifier:
        memory = Memory(128, SLOTS, update=FirstInFirstOut())
        classifier = MemoryClassifier(self._eyes, host=False, memory=memory)
        classifier.about["encoder"] = ENCODER
        draw_line(classifier)
        return classifier

    def _read(self) -> MemoryClassifier:
        made_with = MemoryClassifier.load(self.file, None).about.get("encoder")
        if made_with != ENCODER:
            raise ValueError(
                f"{str(self.file)!r} was learnt with the encoder {made_with}, and drawings need "
                f"{ENCODER}: choose another file with --memory"
            )
        classifier = MemoryClassifier.load(self.file, self._eyes)
        draw_line(classifier)
        return classifier


def proper(name: str) -> str:
    """The name without spaces around it.

    Raises:
        ValueError: it cannot be one.

    Example:
        >>> proper("  kea ")
        'kea'
    """
    name = " ".join(name.split())
    if not name:
        raise ValueError("it has no name yet: type one, then press Enter")
    if len(name) > LONGEST_NAME:
        raise ValueError(
            f"a name has at most {LONGEST_NAME} characters, and this one has {len(name):,}: "
            "shorten it"
        )
    if not name.isprintable():
        raise ValueError("a name is made of characters that can be seen: type another")
    if name.lower() == "unknown":
        raise ValueError("unknown is what is said of what is not known: choose another name")
    return name


def _shown(refs: tuple[Any, ...]) -> dict[str, list[str]]:
    """What to show of a slot: its drawings, and the files of what was learnt from files."""
    return {
        "drawings": [ref for ref in refs if is_drawing(ref)],
        "files": [str(ref) for ref in refs if not is_drawing(ref)],
    }
