"""The command line: a memory of images in one file, to learn, query, inspect and forget.

Every command prints text, or JSON with --json. The exit code is 0 on success; 1 if the command
failed (a sentence says why), if some of its images could not be read (the others are answered or
learnt) or if `doctor` found a problem; 2 if the arguments are wrong; 130 after Ctrl-C.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from rarememory.classifier import MemoryClassifier
from rarememory.classifier.answers import Learnt
from rarememory.classifier.labels import label_to_json
from rarememory.commands.ask import ask_command
from rarememory.commands.babi import babi
from rarememory.commands.encoders import Encoder, encoder_by_name
from rarememory.commands.images import batches, labelled_files, read_image
from rarememory.commands.info import print_facts
from rarememory.commands.known import Known
from rarememory.commands.language_model import language_model
from rarememory.commands.omniglot import omniglot
from rarememory.commands.output import AsJson, errors_as_text, print_note, print_text
from rarememory.commands.play import play
from rarememory.commands.serve import serve
from rarememory.commands.tables import export, import_table
from rarememory.play.drawing import is_drawing

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    help="A memory of images: learn classes from one example each, predict, explain, forget. "
    "Begin with: rarememory learn birds/ --memory birds.safetensors",
)

MemoryFile = Annotated[Path, typer.Argument(help="The file of the memory.")]
MemoryOption = Annotated[Path, typer.Option("--memory", "-m", help="The file of the memory.")]
DEFAULT = Path("memory.safetensors")


def _checked_rate(rate: float | None) -> float | None:
    if rate is not None and not 0 < rate < 1:
        raise typer.BadParameter(f"it must be between 0 and 1, not {rate}")
    return rate


@app.command()
def learn(
    folder: Annotated[Path, typer.Argument(help="A folder with one folder of images per class.")],
    memory: MemoryOption = DEFAULT,
    encoder: Annotated[
        str | None,
        typer.Option(help="omniglot (drawings) or one of torchvision; resnet18 for a new memory."),
    ] = None,
    slots: Annotated[int, typer.Option(min=1, help="Size of a new memory.")] = 8192,
    false_accept_rate: Annotated[
        float,
        typer.Option(
            help="Rate at which an image of a typical unknown class may be accepted as known.",
            callback=_checked_rate,
        ),
    ] = 0.05,
    far: Annotated[float | None, typer.Option(hidden=True, callback=_checked_rate)] = None,
    as_json: AsJson = False,
) -> None:
    """Learn the images of a folder; FOLDER/kea/1.jpg is a kea. One image per class is enough.

    If the memory file exists already, the images are added to it, but for those that it knows.
    """
    if far is not None:
        print_note("--far is called --false-accept-rate now, and will go with the next release")
        false_accept_rate = far
    with errors_as_text():
        images, skipped = labelled_files(folder)
        classifier, used_encoder = _load_or_create(memory, encoder, slots)
        failed: dict[Path, str] = {}
        learnt, known = _learnt(classifier, batches(images, used_encoder, failed))
        _print_left_out(skipped, failed)
        if len(failed) == len(images):
            raise ValueError(f"nothing is learnt: none of the {len(images)} images can be used")
        if len(classifier.classes) > 1:
            classifier.fit_threshold(false_accept_rate=false_accept_rate)
        classifier.save(memory)
    counts = Counter(
        label for path, label in images if path not in failed and path.as_posix() not in known
    )
    if as_json:
        report = {
            "learnt": counts,
            "known": len(known),
            "classes": [label_to_json(label) for label in classifier.classes],
            "lost": len(learnt.lost),
            "failed": {path.as_posix(): sentence for path, sentence in failed.items()},
            "skipped": [path.as_posix() for path in skipped],
        }
        print(json.dumps(report))
    else:
        _print_learnt(classifier, learnt, counts, len(known), memory)
    if failed:
        raise typer.Exit(1)


def _learnt(
    classifier: MemoryClassifier, parts: Iterator[tuple[Tensor, list[str], list[str]]]
) -> tuple[Learnt, set[str]]:
    """What was learnt, and the paths of what was known before."""
    before, learnt, known = Known(classifier), [], set()
    for images, labels, paths in parts:
        rows = before.rows(images, labels, paths)
        known |= {path for path, old in zip(paths, rows, strict=True) if old}
        new = [row for row, old in enumerate(rows) if not old]
        if new:
            part = ([labels[row] for row in new], [paths[row] for row in new])
            learnt.append(classifier.learn(images[new], *part))
    return Learnt.joined(learnt), known


def _print_left_out(skipped: list[Path], failed: dict[Path, str]) -> None:
    for sentence in failed.values():
        print_note(sentence)
    if skipped:
        some = ", ".join(repr(str(path)) for path in skipped[:5])
        more = f" and {len(skipped) - 5} more" if len(skipped) > 5 else ""
        print_note(f"skipped, since it is no image of a class: {some}{more}")


def _print_learnt(
    classifier: MemoryClassifier, learnt: Learnt, counts: Counter[str], known: int, memory: Path
) -> None:
    if known:
        print_text(f"{known} images were known already, and are not learnt again")
    print_text(f"learnt {counts.total()} images of {len(counts)} classes into {memory}")
    print_text(f"it has {len(classifier.memory)} examples of {len(classifier.classes)} classes now")
    if learnt.lost:
        print_text(f"it was full and lost its {len(learnt.lost)} oldest: learn with more --slots")


@app.command()
def predict(
    pictures: Annotated[list[Path], typer.Argument(help="Images to classify.")],
    memory: MemoryOption = DEFAULT,
    k: Annotated[int, typer.Option("-k", min=1, help="Remembered examples to list.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Classify images: print the class, the confidence and the images that count most."""
    with errors_as_text():
        classifier, encoder = _load_with_encoder(memory)
        answers = [_answer(classifier, encoder, path, k) for path in pictures]
    failed = [answer for answer in answers if "error" in answer]
    for answer in failed:
        print_note(answer["error"])
    if as_json:
        print(json.dumps(answers))
    elif len(failed) < len(answers):
        _print_answers([answer for answer in answers if "error" not in answer])
    if failed:
        raise typer.Exit(1)


def _print_answers(answers: list[dict[str, Any]]) -> None:
    table = Table("picture", "answer", "sure", "since it resembles")
    for answer in answers:
        because = [f"{_brief(one['ref'])} ({one['score']:.2f})" for one in answer["because"]]
        sure = "" if answer["confidence"] is None else f"{100 * answer['confidence']:.0f} %"
        table.add_row(*map(escape, (answer["picture"], str(answer["label"]), sure, *because[:1])))
        for one in because[1:]:
            table.add_row("", "", "", escape(one))
    Console().print(table)


def _answer(classifier: MemoryClassifier, encoder: Encoder, path: Path, k: int) -> dict[str, Any]:
    try:
        image = read_image(path, encoder).unsqueeze(0)
    except ValueError as error:
        nothing: dict[str, Any] = {"label": None, "confidence": None, "because": []}
        return {"picture": path.as_posix(), **nothing, "error": str(error)}
    label, because = classifier.predict(image)[0], classifier.explain(image, k)[0]
    # The probability of the likeliest known class does not apply to an unknown image.
    known = label != classifier.unknown
    return {
        "picture": path.as_posix(),
        "label": label_to_json(label),
        "confidence": classifier.predict_proba(image).confidence.item() if known else None,
        "because": [
            {"label": label_to_json(one.label), "score": one.score, "ref": label_to_json(one.ref)}
            for one in because
        ],
    }


@app.command()
def inspect(file: MemoryFile, as_json: AsJson = False) -> None:
    """List the classes of a memory, and how many slots each has."""
    with errors_as_text():
        classifier = MemoryClassifier.load(file, None)
    counts = Counter(json.dumps(label_to_json(one.label)) for one in classifier.examples())
    labels = [label_to_json(label) for label in classifier.classes]
    classes = [{"label": label, "slots": counts[json.dumps(label)]} for label in labels]
    slots, width = classifier.memory.keys.shape
    about = {
        "slots": slots,
        "occupied": len(classifier.memory),
        "width": width,
        "threshold": classifier.threshold.item() if classifier.threshold.isfinite() else None,
        **classifier.about,
    }
    if as_json:
        print(json.dumps({**about, "classes": classes}))
        return
    table = Table("class", "slots", title=escape(str(file)))
    for one in classes:
        table.add_row(escape(str(one["label"])), str(one["slots"]))
    Console().print(table)
    numbers = {name: f"{v:.3f}" if isinstance(v, float) else v for name, v in about.items()}
    print_text(", ".join(f"{name} {value}" for name, value in numbers.items()))


@app.command()
def doctor(file: MemoryFile, as_json: AsJson = False) -> None:
    """Look for problems that cause wrong answers, and how to solve them; exits with 1 if any."""
    with errors_as_text():
        report = MemoryClassifier.load(file, None).doctor()
    if as_json:
        print(json.dumps(report.as_json(), default=str))
    else:
        print_text(str(report))
    if not report.well:
        raise typer.Exit(1)


@app.command()
def forget(
    file: MemoryFile,
    labels: Annotated[list[str], typer.Argument(help="Classes to forget.")],
    as_json: AsJson = False,
) -> None:
    """Forget classes; nothing of them remains in the file."""
    with errors_as_text():
        classifier = MemoryClassifier.load(file, None)
        by_text = {str(label): label for label in classifier.classes}
        slots = classifier.forget(*(by_text.get(label, label) for label in labels))
        classifier.save(file)
    if as_json:
        classes = [label_to_json(label) for label in classifier.classes]
        print(json.dumps({"slots": slots, "classes": classes}))
        return
    print_text(f"forgot {slots} examples; {len(classifier.classes)} classes are left")


@app.command()
def info(as_json: AsJson = False) -> None:
    """Say which versions, searches and instruction sets there are: for a report of a fault."""
    print_facts(as_json)


app.command()(play)
app.command()(serve)
app.command()(omniglot)
app.command()(babi)
app.command("ask")(ask_command)
app.command("lm")(language_model)
app.command()(export)
app.command("import")(import_table)


@app.command()
def demo() -> None:
    """See what a memory does, offline, in under three minutes."""
    with errors_as_text():
        try:
            from rarememory.commands.demo import demo as run
        except ModuleNotFoundError as error:
            sys.exit(f'the demo needs {error.name}: pip install "rarememory[bench]"')
        run()


def _brief(ref: Any) -> str:
    """A ref as text for a table; the SVG path of a drawing of `rarememory play` is too long."""
    return "a drawing" if is_drawing(ref) else str(ref)


def _load_with_encoder(file: Path) -> tuple[MemoryClassifier, Encoder]:
    name = MemoryClassifier.load(file, None).about.get("encoder")
    if name is None:
        raise ValueError(
            f"{str(file)!r} was not made by `rarememory learn`, and does not name the encoder that "
            "it needs: load it in Python, with its model"
        )
    encoder = encoder_by_name(name)
    return MemoryClassifier.load(file, encoder.model), encoder


def _load_or_create(
    file: Path, encoder: str | None, slots: int
) -> tuple[MemoryClassifier, Encoder]:
    if file.exists():
        classifier, used = _load_with_encoder(file)
        name = classifier.about["encoder"]
        if encoder not in (None, name):
            raise ValueError(
                f"{str(file)!r} was learnt with the encoder {name}, and cannot go on with "
                f"{encoder}: choose another file with --memory"
            )
        return classifier, used
    name = encoder or "resnet18"
    used = encoder_by_name(name)
    classifier = MemoryClassifier(
        used.model, at=used.at, host=False, memory_size=slots, reader=used.reader
    )
    classifier.about["encoder"] = name
    return classifier, used


def main() -> None:
    """Run the command that was given."""
    # A name that the terminal has no characters for is printed with escapes in their place.
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    app(prog_name="rarememory")
