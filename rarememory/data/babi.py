"""Reading bAbI: 20 tasks of stories, questions and answers (Weston et al. 2015, arXiv:1502.05698).

A file has one line for each sentence, "ID text", and one for each question, "ID question<TAB>
answer<TAB>IDs of the supporting sentences"; an ID of 1 begins a new story.
"""

import lzma
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import NamedTuple

SIZES = ("en", "en-10k")
"""1,000 or 10,000 training questions of each task."""
N_TASKS = 20

_FILE = re.compile(r"(?:^|/)(en|en-10k)/qa(\d+)_([\w-]+)_(train|test)\.txt$")
_LINE = re.compile(r"(\d+) (.+)")
_WORD = re.compile(r"[\w'-]+")


class StoryQuestion(NamedTuple):
    """A question about a story.

    Attributes:
        story: its sentences, the oldest first.
        question: the question.
        answer: a word, or for lists and paths several, joined by commas.
        support: positions in `story` of the sentences that the answer rests on.

    Example:
        >>> StoryQuestion(("Mary took the apple.",), "Who took the apple?", "Mary", (0,)).answer
        'Mary'
    """

    story: tuple[str, ...]
    question: str
    answer: str
    support: tuple[int, ...] = ()


class BabiTask(NamedTuple):
    """One of the 20 tasks.

    Attributes:
        number: from 1 to 20.
        name: as its file has it, such as "single-supporting-fact".
        train: the training questions, in the order of the file.
        test: the test questions.

    Example:
        >>> question = StoryQuestion(("Mary is here.",), "Where is Mary?", "here")
        >>> BabiTask(1, "single-supporting-fact", (question,), (question,)).number
        1
    """

    number: int
    name: str
    train: tuple[StoryQuestion, ...]
    test: tuple[StoryQuestion, ...]


def words_of(sentence: str) -> tuple[str, ...]:
    """The words of a sentence, in lower case and without its punctuation marks.

    >>> words_of("Where is Mary?")
    ('where', 'is', 'mary')
    """
    return tuple(_WORD.findall(sentence.lower()))


def parse_babi(lines: Iterable[str], name: str = "the text") -> Iterator[StoryQuestion]:
    """The questions of a file of bAbI, each with the sentences before it.

    Args:
        lines: of the file.
        name: of the file, for error messages.

    Raises:
        ValueError: a line is not "ID text" or "ID question<TAB>answer<TAB>IDs" (a text with "?" is
            a question), the IDs do not count up from 1, or a supporting ID is of no sentence before
            the question.

    Example:
        >>> text = ["1 Mary took the apple.", "2 Who took the apple?\\tMary\\t1"]
        >>> next(parse_babi(text)).support
        (0,)
    """
    story: list[str] = []
    # Of each sentence of the story, by the ID of its line; questions have IDs too.
    position: dict[int, int] = {}
    expected = 1
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"line {number} of {name}"
        found = _LINE.fullmatch(line.strip())
        if found is None:
            raise ValueError(f"{where} is not an ID and a text: {line.strip()!r}")
        index, text = int(found[1]), found[2]
        if index == 1:
            story, position = [], {}
        elif index != expected:
            raise ValueError(f"{where} has the ID {index}, not 1 or {expected}")
        expected = index + 1
        # A question that lost its tabs or its answer is no sentence.
        if "\t" in text or "?" in text:
            yield _question(text, tuple(story), position, where)
        else:
            position[index] = len(story)
            story.append(text.strip())


def _question(
    text: str, story: tuple[str, ...], position: dict[int, int], where: str
) -> StoryQuestion:
    question, *rest = (part.strip() for part in text.split("\t"))
    if not question or len(rest) not in (1, 2) or not rest[0]:
        raise ValueError(f"{where} is not a question, a tab, an answer, a tab and IDs: {text!r}")
    answer, ids = rest[0], " ".join(rest[1:]).split()
    unknown = [one for one in ids if not one.isdecimal() or int(one) not in position]
    if unknown:
        raise ValueError(
            f"{where} rests on the sentence {unknown[0]}, and the sentences before it have the IDs "
            f"{sorted(position)}"
        )
    return StoryQuestion(story, question, answer.lower(), tuple(position[int(one)] for one in ids))


def read_babi(
    source: str | PathLike[str], size: str = "en", tasks: Iterable[int] | None = None
) -> tuple[BabiTask, ...]:
    """The tasks in a folder or an archive, sorted by number.

    Args:
        source: the archive `tasks_1-20_v1-2.tar.gz`, its folder unpacked, or a folder with an
            archive of bAbI's files (such as `babi_v1-2_en.tar.xz`) for each size.
        size: "en" has 1,000 training questions of each task, "en-10k" has 10,000.
        tasks: numbers of tasks; None for all that have a training file.

    Raises:
        FileNotFoundError: there is no bAbI, or it lacks a file of a task that was asked for.
        ValueError: a file is damaged, or there is no such size or task.

    Example:
        >>> read_babi("nowhere")
        Traceback (most recent call last):
        FileNotFoundError: there is no bAbI of size 'en' in 'nowhere'
    """
    if size not in SIZES:
        raise ValueError(f"the size of bAbI is {' or '.join(SIZES)}, not {size!r}")
    wanted = set(range(1, N_TASKS + 1) if tasks is None else tasks)
    wrong = sorted(number for number in wanted if not 1 <= number <= N_TASKS)
    if wrong:
        raise ValueError(f"bAbI has the tasks 1 to {N_TASKS}, and not {wrong[0]}")
    texts = {
        (int(match[2]), match[4]): (match[3], name, text)
        for name, text in _texts(Path(source), size)
        if (match := _FILE.search(name)) is not None
    }
    if not texts:
        raise FileNotFoundError(f"there is no bAbI of size {size!r} in {str(source)!r}")
    found = []
    for number in sorted(wanted):
        missing = [part for part in ("train", "test") if (number, part) not in texts]
        if missing and tasks is not None:
            raise FileNotFoundError(
                f"the bAbI of size {size!r} in {str(source)!r} has no file qa{number}_*_"
                f"{missing[0]}.txt"
            )
        if not missing:
            found.append(_task(number, texts))
    return tuple(found)


def _task(number: int, texts: dict[tuple[int, str], tuple[str, str, str]]) -> BabiTask:
    def questions(part: str) -> tuple[StoryQuestion, ...]:
        _, name, text = texts[number, part]
        found = tuple(parse_babi(text.splitlines(), Path(name).name))
        if not found:
            raise ValueError(f"there is no question in {Path(name).name}")
        return found

    return BabiTask(number, texts[number, "train"][0], questions("train"), questions("test"))


def _texts(source: Path, size: str) -> Iterator[tuple[str, str]]:
    """The text of each file of bAbI of this size, with its name."""
    if source.is_file():
        yield from _archived(source, size)
        return
    files = [path for path in sorted(source.rglob("qa*.txt")) if path.parent.name == size]
    for path in files:
        try:
            yield path.as_posix(), path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{str(path)!r} is no text in UTF-8: {error}") from error
    if not files:
        for path in sorted(source.glob("*.tar.*")):
            yield from _archived(path, size)


def _archived(path: Path, size: str) -> Iterator[tuple[str, str]]:
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                found = _FILE.search(member.name)
                if found is not None and found[1] == size:
                    file = archive.extractfile(member)
                    if file is not None:
                        yield member.name, file.read().decode("utf-8")
    except (tarfile.TarError, EOFError, UnicodeDecodeError, lzma.LZMAError, zlib.error) as error:
        raise ValueError(f"{str(path)!r} is no archive of bAbI: {error}") from error
