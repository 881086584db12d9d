"""The command line: a memory of pictures in one file, learnt, asked, looked at and forgotten from.

Every command answers in words, or with --json in JSON. It ends with 0 if all is well, with 1 if
something could not be done (a sentence says why) or the doctor found something, with 2 if it was
called wrongly.
"""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rarememory.classifier import MemoryClassifier
from rarememory.classifier.labels import encoded
from rarememory.commands.images import Encoder, batches, encoder_called, labelled_files, opened
from rarememory.commands.omniglot import omniglot
from rarememory.commands.output import AsJson, one_sentence, say
from rarememory.commands.play import play
from rarememory.play.drawing import is_drawing

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    help="A memory of pictures: learn classes from one example each, ask, explain, forget. "
    "Begin with: rarememory learn birds/ --memory birds.safetensors",
)

MemoryFile = Annotated[Path, typer.Argument(help="The file of the memory.")]
MemoryOption = Annotated[Path, typer.Option("--memory", "-m", help="The file of the memory.")]
DEFAULT = Path("memory.safetensors")


@app.command()
def learn(
    folder: Annotated[Path, typer.Argument(help="A folder of pictures for each class.")],
    memory: MemoryOption = DEFAULT,
    encoder: Annotated[
        str | None,
        typer.Option(help="omniglot (drawings) or one of torchvision; resnet18 for a new memory."),
    ] = None,
    slots: Annotated[int, typer.Option(help="Size of a new memory.")] = 8192,
    far: Annotated[
        float, typer.Option(help="How often something unknown may be taken for known.")
    ] = 0.05,
    as_json: AsJson = False,
) -> None:
    """Learn the pictures of a folder; FOLDER/kea/1.jpg is a kea. One picture of each is enough.

    A memory that is there already learns them beside what it knows.
    """
    with one_sentence():
        files = labelled_files(folder)
        classifier, eyes = _opened_or_new(memory, encoder, slots)
        learnt = classifier.learn(batches(files, eyes))
        if len(classifier.classes) > 1:
            classifier.fit_threshold(far=far)
        classifier.save(memory)
    counts = Counter(label for _, label in files)
    if as_json:
        known = [encoded(label) for label in classifier.classes]
        print(json.dumps({"learnt": counts, "classes": known, "lost": len(learnt.lost)}))
        return
    say(f"learnt {len(files)} pictures of {len(counts)} classes into {memory}")
    say(f"it knows {len(classifier.classes)} classes from {len(classifier.memory)} examples")
    if learnt.lost:
        say(f"it was full, and gave up its {len(learnt.lost)} oldest: learn with more --slots")


@app.command()
def predict(
    pictures: Annotated[list[Path], typer.Argument(help="Pictures to ask about.")],
    memory: MemoryOption = DEFAULT,
    k: Annotated[int, typer.Option("-k", min=1, help="Remembered examples to name.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Say what each picture shows, how sure that is, and which remembered pictures say so."""
    with one_sentence():
        classifier, eyes = _opened(memory)
        answers = [_answer(classifier, eyes, path, k) for path in pictures]
    if as_json:
        print(json.dumps(answers))
        return
    table = Table("picture", "answer", "sure", "since it resembles")
    for answer in answers:
        because = [f"{_brief(one['ref'])} ({one['score']:.2f})" for one in answer["because"]]
        sure = "" if answer["confidence"] is None else f"{100 * answer['confidence']:.0f} %"
        table.add_row(*map(escape, (answer["picture"], str(answer["label"]), sure, *because[:1])))
        for one in because[1:]:
            table.add_row("", "", "", escape(one))
    Console().print(table)


def _answer(classifier: MemoryClassifier, eyes: Encoder, path: Path, k: int) -> dict[str, Any]:
    picture = eyes.prepare(opened(path)).unsqueeze(0)
    label, because = classifier.predict(picture)[0], classifier.explain(picture, k)[0]
    # How sure the likeliest class is says nothing of an example that is of none.
    known = label != classifier.unknown
    return {
        "picture": path.as_posix(),
        "label": encoded(label),
        "confidence": classifier.predict_proba(picture).confidence.item() if known else None,
        "because": [
            {"label": encoded(one.label), "score": one.score, "ref": encoded(one.ref)}
            for one in because
        ],
    }


@app.command()
def inspect(file: MemoryFile, as_json: AsJson = False) -> None:
    """List what a memory knows: its classes, and how many examples each rests on."""
    with one_sentence():
        classifier = MemoryClassifier.load(file, None)
    state = classifier.memory.state
    counts = Counter(state.values[state.occupied].tolist())
    classes = [
        {"label": encoded(label), "slots": counts[number]}
        for label, number in zip(classifier.classes, classifier._names.numbers, strict=True)
    ]
    about = {
        "slots": len(state.values),
        "occupied": len(classifier.memory),
        "width": state.keys.shape[1],
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
    say(", ".join(f"{name} {value}" for name, value in numbers.items()))


@app.command()
def doctor(file: MemoryFile, as_json: AsJson = False) -> None:
    """Look for what will answer badly, and say what to do; ends with 1 if there is something."""
    with one_sentence():
        report = MemoryClassifier.load(file, None).doctor()
    if as_json:
        print(json.dumps(report.as_json(), default=str))
    else:
        say(str(report))
    if not report.well:
        raise typer.Exit(1)


@app.command()
def forget(
    file: MemoryFile,
    labels: Annotated[list[str], typer.Argument(help="Classes to forget.")],
    as_json: AsJson = False,
) -> None:
    """Forget classes; nothing of them remains in the file."""
    with one_sentence():
        classifier = MemoryClassifier.load(file, None)
        known = {str(label): label for label in classifier.classes}
        gone = classifier.forget(*(known.get(label, label) for label in labels))
        classifier.save(file)
    if as_json:
        print(json.dumps({"slots": gone, "classes": [encoded(one) for one in classifier.classes]}))
        return
    say(f"forgot {gone} examples; it knows {len(classifier.classes)} classes")


app.command()(play)
app.command()(omniglot)


@app.command()
def demo() -> None:
    """See what a memory is, offline, in under three minutes."""
    try:
        from rarememory.commands.demo import demo as show
    except ModuleNotFoundError as error:
        sys.exit(f'the demo needs {error.name}: pip install "rarememory[bench]"')
    show()


def _brief(ref: Any) -> str:
    """A ref in a cell of a table: a drawing of `rarememory play`, whose ref it is, is long."""
    return "a drawing" if is_drawing(ref) else str(ref)


def _opened(file: Path) -> tuple[MemoryClassifier, Encoder]:
    name = MemoryClassifier.load(file, None).about.get("encoder")
    if name is None:
        raise ValueError(
            f"{str(file)!r} was not made by `rarememory learn`, and does not say which encoder it "
            "needs: load it in Python, with its model"
        )
    eyes = encoder_called(name)
    return MemoryClassifier.load(file, eyes.model), eyes


def _opened_or_new(file: Path, encoder: str | None, slots: int) -> tuple[MemoryClassifier, Encoder]:
    if file.exists():
        classifier, eyes = _opened(file)
        name = classifier.about["encoder"]
        if encoder not in (None, name):
            raise ValueError(
                f"{str(file)!r} was learnt with the encoder {name}, and cannot go on with "
                f"{encoder}: choose another file with --memory"
            )
        return classifier, eyes
    name = encoder or "resnet18"
    eyes = encoder_called(name)
    classifier = MemoryClassifier(eyes.model, at=eyes.at, host=False, memory_size=slots)
    classifier.about["encoder"] = name
    return classifier, eyes


def main() -> None:
    """Run the command that was given."""
    app(prog_name="rarememory")
