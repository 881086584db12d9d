"""The worlds: public data sets, read from a folder or downloaded, and encoded once.

Each reader gives the examples as its encoder takes them. The features are kept in
`runs/worlds/<world>.npz`, which has the fields of `World`.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torchvision.datasets.utils import download_and_extract_archive, download_url

from rarememory.base.files import write_atomically

Array = NDArray[Any]


class World(NamedTuple):
    """Features of a data set; the label -1 is of no class.

    Attributes:
        split: train, val or test; or a name of the data's own.
        logits: of the encoder's own classes, if it is a classifier.
        track: a number within a class; rows of one track are near copies.
    """

    features: Array
    labels: Array
    names: Array
    split: Array
    logits: Array | None = None
    track: Array | None = None


class Raw(NamedTuple):
    """Examples as the encoder takes them, with the name of the class of each."""

    inputs: Sequence[Any] | Array
    names: Sequence[str]
    split: Sequence[str]
    track: Sequence[int] | None = None


class Source(NamedTuple):
    """Where a world comes from.

    Attributes:
        encoder: its name in `benchmarks.worlds.encoders`.
        files: a pattern of the files that are read.
        urls: where they are, if they are not in the folder; zip files are unpacked.
        n_old: classes that a host is trained on; 0 for a world without a host.
    """

    read: Callable[[list[Path]], Raw]
    encoder: str
    files: str
    urls: tuple[str, ...]
    n_old: int = 0


OTHERS = ("oos_train", "oos_val", "oos_test")
"""Parts of CLINC150 whose sentences are of none of its classes."""


def clinc150(files: list[Path]) -> Raw:
    """One JSON object: for each part a list of pairs of sentence and intent."""
    parts = json.loads(files[0].read_text(encoding="utf-8"))
    rows = [
        (text, "" if part in OTHERS else intent, part)
        for part in ("train", "val", "test", *OTHERS)
        for text, intent in parts[part]
    ]
    return Raw(*zip(*rows, strict=True))


def banking77(files: list[Path]) -> Raw:
    """train.csv and test.csv, with the columns text and category."""
    rows = [
        (row["text"], row["category"], path.stem) for path in files for row in _table(path, ",")
    ]
    return Raw(*zip(*rows, strict=True))


def hwu64(files: list[Path]) -> Raw:
    """A table for each intent and part, of fold 1; the intent is the name of the file."""
    rows = [
        (row["answer_from_anno"], path.stem, "train" if "trainset" in path.parts else "test")
        for path in files
        for row in _table(path, ";")
    ]
    return Raw(*zip(*rows, strict=True))


def trec50(files: list[Path]) -> Raw:
    """Latin-1 lines "<coarse>:<fine> <question>"; TREC_10.label is the test.

    The 50 classes are of unequal size: 4 to 962 questions to learn, and none of some to ask.
    """
    rows = [
        (question, name, "test" if path.stem == "TREC_10" else "train")
        for path in files
        for line in path.read_text(encoding="latin-1").splitlines()
        for name, question in [line.split(" ", 1)]
    ]
    return Raw(*zip(*rows, strict=True))


def slots_and_intents(files: list[Path]) -> Raw:
    """seq.in and label: a line for each sentence. Those of two intents, "a#b", are left out.

    So are those of intents without a sentence to learn.
    """
    texts, intents = ([path for path in files if path.name == name] for name in ("seq.in", "label"))
    rows = [
        (text.strip(), intent.strip(), _PARTS[path.parent.name])
        for path, labels in zip(texts, intents, strict=True)
        for text, intent in zip(_lines(path), _lines(labels), strict=True)
    ]
    known = {intent for _, intent, part in rows if part == "train" and "#" not in intent}
    return Raw(*zip(*(row for row in rows if row[1] in known), strict=True))


def fsdd(files: list[Path], pairs: bool) -> Raw:
    """<digit>_<speaker>_<take>.wav; the takes 0 to 4 are the test."""
    parts = [path.stem.split("_") for path in files]
    names = [f"{speaker} says {digit}" if pairs else speaker for digit, speaker, _ in parts]
    return Raw(files, names, ["test" if int(take) < 5 else "train" for *_, take in parts])


def letter(files: list[Path]) -> Raw:
    """UCI: the letter, then 16 integers; the last 4,000 are the test."""
    rows = [line.split(",") for line in files[0].read_text(encoding="utf-8").split()]
    columns = np.array([row[1:] for row in rows], dtype=np.float32)
    split = np.where(np.arange(len(rows)) < 16_000, "train", "test")
    return Raw(columns, [row[0] for row in rows], split.tolist())


def pendigits(files: list[Path]) -> Raw:
    """UCI: 16 integers, then the digit; pendigits.tra and, of other writers, pendigits.tes."""
    rows, split = _numbers(files, ",", ".tes")
    return Raw(rows[:, :16], [str(int(digit)) for digit in rows[:, 16]], split)


def satimage(files: list[Path]) -> Raw:
    """UCI: 36 integers, then the kind of soil; sat.trn and sat.tst."""
    rows, split = _numbers(files, None, ".tst")
    return Raw(rows[:, :36], [f"soil {int(kind)}" for kind in rows[:, 36]], split)


def dry_bean(files: list[Path]) -> Raw:
    """UCI: 16 measures of unlike scale, then the kind of bean; a random 30 % are the test."""
    text = files[0].read_text(encoding="utf-8")
    rows = [line.split(",") for line in re.split("@data", text, flags=re.I)[1].split()]
    columns = np.array([row[:-1] for row in rows], dtype=np.float32)
    return Raw(columns, [row[-1] for row in rows], _random_parts(len(rows)))


def segmentation(files: list[Path]) -> Raw:
    """UCI: what an outdoor photo shows, then 19 measures; segmentation.data, and .test."""
    rows = [
        (line.split(","), "test" if path.suffix == ".test" else "train")
        for path in files
        for line in _lines(path)
        if line.count(",") == 19
    ]
    columns = np.array([row[1:] for row, _ in rows], dtype=np.float32)
    return Raw(columns, [row[0] for row, _ in rows], [part for _, part in rows])


def yeast(files: list[Path]) -> Raw:
    """UCI: a protein, 8 measures, where in the cell it is; a random 30 % are the test.

    The 10 classes are of unequal size: 5 to 463 proteins.
    """
    rows = [line.split() for line in _lines(files[0])]
    columns = np.array([row[1:9] for row in rows], dtype=np.float32)
    return Raw(columns, [row[9] for row in rows], _random_parts(len(rows)))


def avila(files: list[Path]) -> Raw:
    """UCI: 10 measures of a line of the Avila Bible, then who copied it; avila-tr.txt and -ts.txt.

    The 12 copyists wrote 10 to 8,572 of the lines.
    """
    rows = [
        (line.split(","), "test" if path.stem == "avila-ts" else "train")
        for path in files
        for line in path.read_text(encoding="utf-8").split()
    ]
    columns = np.array([row[:10] for row, _ in rows], dtype=np.float32)
    return Raw(columns, [f"copyist {row[10]}" for row, _ in rows], [part for _, part in rows])


def _random_parts(count: int) -> list[str]:
    parts: list[str] = np.where(
        np.random.default_rng(0).random(count) < 0.7, "train", "test"
    ).tolist()
    return parts


def cifar100(files: list[Path]) -> Raw:
    """The official pickles; of each class 100 photos of the train part and 50 of the test part."""
    from torchvision.datasets import CIFAR100

    images, names, split = [], [], []
    for part, count in (("train", 100), ("test", 50)):
        data = CIFAR100(str(files[0].parent.parent), train=part == "train")
        labels, rng = np.array(data.targets), np.random.default_rng(0)
        rows = [rng.permutation(np.flatnonzero(labels == label))[:count] for label in range(100)]
        for row in np.concatenate(rows):
            images.append(data.data[row])
            names.append(data.classes[labels[row]])
            split.append(part)
    return Raw(images, names, split)


def caltech101(files: list[Path]) -> Raw:
    """<class>/image_<number>.jpg; at most 60 of each class, and none of the background's."""
    names = [path.parent.name for path in files]
    return _some_photos(
        [pair for pair in zip(files, names, strict=True) if pair[1] != "BACKGROUND_Google"], 60
    )


def scenes15(files: list[Path]) -> Raw:
    """<class>/image_<number>.jpg in train and test, spelt unlike; at most 150 of each class."""
    return _some_photos([(path, path.parent.name.lower()) for path in files], 150)


def gtsrb(files: list[Path]) -> Raw:
    """<class>/<track>_<frame>.ppm; every fifth of a track's 30 frames, which are near copies."""
    files = [path for path in files if int(path.stem.split("_")[1]) % 5 == 4]
    tracks = [int(path.stem.split("_")[0]) for path in files]
    return Raw(
        files, [f"sign {int(path.parent.name)}" for path in files], ["all"] * len(files), tracks
    )


_GITHUB = "https://raw.githubusercontent.com"
_UCI = "https://archive.ics.uci.edu/static/public"
_FSDD = ("https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/heads/master.zip",)
_SCENES = (
    "https://github.com/jaaumeadrover/Landscape-Image-Classification/archive/refs/heads/main.zip"
)
_SLOTS = "https://github.com/MiuLab/SlotGated-SLU/archive/refs/heads/master.zip"
_PARTS = {"train": "train", "valid": "val", "test": "test"}
_BANKING = f"{_GITHUB}/PolyAI-LDN/task-specific-datasets/master/banking_data"

SOURCES = {
    "cifar100": Source(
        cifar100,
        "small_photos",
        "cifar-100-python/meta",
        ("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",),
        60,
    ),
    "caltech101": Source(
        caltech101,
        "photos",
        "101_ObjectCategories/*/image_*.jpg",
        ("torchvision.datasets.Caltech101",),
        60,
    ),
    "gtsrb": Source(gtsrb, "small_photos", "Training/*/*.ppm", ("torchvision.datasets.GTSRB",), 25),
    # Made for research (Lazebnik, Schmid and Ponce, CVPR 2006); no licence is stated.
    "scenes15": Source(scenes15, "photos", "data/t*/*/image_*.jpg", (_SCENES,), 9),
    "clinc150": Source(
        clinc150,
        "sentences",
        "data_full.json",
        (f"{_GITHUB}/clinc/oos-eval/master/data/data_full.json",),
    ),
    "banking77": Source(
        banking77, "sentences", "t*.csv", (f"{_BANKING}/train.csv", f"{_BANKING}/test.csv")
    ),
    "hwu64": Source(
        hwu64,
        "sentences",
        "KFold_1/t*set/**/*.csv",
        ("https://github.com/xliuhw/NLU-Evaluation-Data/archive/refs/heads/master.zip",),
    ),
    # Li and Roth, COLING 2002; no licence is stated.
    "trec50": Source(
        trec50,
        "sentences",
        "[tT]*_*0.label",
        (
            "http://cogcomp.org/Data/QA/QC/train_5500.label",
            "http://cogcomp.org/Data/QA/QC/TREC_10.label",
        ),
    ),
    # Of ATIS (Hemphill et al. 1990) three of four sentences ask for flights. No licence is stated.
    "atis": Source(slots_and_intents, "sentences", "data/atis/*/*", (_SLOTS,)),
    "snips": Source(slots_and_intents, "sentences", "data/snips/*/*", (_SLOTS,)),
    "fsdd_pairs": Source(lambda files: fsdd(files, True), "log_mels", "recordings/*.wav", _FSDD),
    "fsdd_speakers": Source(lambda files: fsdd(files, False), "voices", "recordings/*.wav", _FSDD),
    "letter": Source(
        letter, "columns", "letter-recognition.data", (f"{_UCI}/59/letter+recognition.zip",)
    ),
    "pendigits": Source(
        pendigits,
        "columns",
        "pendigits.t[er][as]",
        (f"{_UCI}/81/pen+based+recognition+of+handwritten+digits.zip",),
    ),
    # UCI's tables are CC BY 4.0.
    "satimage": Source(
        satimage, "columns", "sat.t[rs][nt]", (f"{_UCI}/146/statlog+landsat+satellite.zip",)
    ),
    "yeast": Source(yeast, "columns", "yeast.data", (f"{_UCI}/110/yeast.zip",)),
    "avila": Source(avila, "columns", "avila-t[rs].txt", (f"{_UCI}/459/avila.zip",)),
    "segmentation": Source(
        segmentation,
        "columns",
        "segmentation.[dt]*[at]",
        (f"{_UCI}/50/image+segmentation.zip",),
    ),
    "dry_bean": Source(
        dry_bean, "columns", "Dry_Bean_Dataset.arff", (f"{_UCI}/602/dry+bean+dataset.zip",)
    ),
}


def load(name: str, folder: Path, kept: Path) -> World:
    """The world as it is kept, or read, encoded and kept now."""
    path = kept / f"{name}.npz"
    if not path.exists():
        world = encoded(
            SOURCES[name], folder / name.removesuffix("_speakers").removesuffix("_pairs")
        )
        fields = {key: field for key, field in world._asdict().items() if field is not None}
        buffer = io.BytesIO()
        np.savez(buffer, **fields)
        write_atomically(path, lambda draft: draft.write_bytes(buffer.getvalue()), parents=True)
    with np.load(path) as fields:
        return World(**{key: fields[key] for key in World._fields if key in fields})


def encoded(source: Source, folder: Path) -> World:
    """The features of the files in a folder, which are downloaded into it if there are none."""
    from benchmarks.worlds.encoders import ENCODERS

    raw = source.read(found(source, folder))
    names = sorted(set(raw.names) - {""})
    number = {"": -1} | {name: label for label, name in enumerate(names)}
    features, logits = ENCODERS[source.encoder](raw.inputs)
    labels = np.array([number[name] for name in raw.names])
    track = None if raw.track is None else np.array(raw.track)
    return World(features, labels, np.array(names), np.array(raw.split), logits, track)


def found(source: Source, folder: Path) -> list[Path]:
    """The files of a source, in the order of their paths.

    Raises:
        ValueError: they are neither in the folder nor in what was downloaded.
    """
    if not any(folder.rglob(source.files)):
        for url in source.urls:
            _download(url, folder)
    files = sorted(folder.rglob(source.files))
    if not files:
        raise ValueError(f"no {source.files} in {folder}, nor in what was downloaded into it")
    return files


def _download(url: str, folder: Path) -> None:
    if url.startswith("torchvision"):
        from torchvision import datasets

        kind = url.rpartition(".")[2]
        getattr(datasets, kind)(str(folder), download=True)
    elif url.endswith((".zip", ".tar.gz")):
        download_and_extract_archive(url, str(folder))
    else:
        download_url(url, str(folder))


def _numbers(files: list[Path], delimiter: str | None, test: str) -> tuple[Array, list[str]]:
    """The rows of all files, and whether each is of the file with the suffix of the test."""
    tables = [np.loadtxt(path, np.float32, delimiter=delimiter, ndmin=2) for path in files]
    parts = [
        "test" if path.suffix == test else "train"
        for path, table in zip(files, tables, strict=True)
        for _ in table
    ]
    return np.concatenate(tables), parts


def _some_photos(photos: Sequence[tuple[Path, str]], most: int) -> Raw:
    """At most so many of each class, drawn at random; there are no published parts."""
    rng = np.random.default_rng(0)
    rows: list[tuple[Path, str]] = []
    for name in sorted({name for _, name in photos}):
        own = [photo for photo in photos if photo[1] == name]
        rows += [own[place] for place in rng.permutation(len(own))[:most]]
    paths, names = zip(*rows, strict=True)
    return Raw(paths, names, ["all"] * len(rows))


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def _table(path: Path, delimiter: str) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from csv.DictReader(file, delimiter=delimiter)
