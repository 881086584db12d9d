"""Drawn stories of people, places and things, which stand in for bAbI where there is none."""

import torch
from torch import Generator

from rarememory.base.validation import check_count, check_seed
from rarememory.data.babi import StoryQuestion

PEOPLE = ("Daniel", "John", "Mary", "Sandra")
PLACES = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
THINGS = ("apple", "football", "milk")
_GO = ("went", "moved", "journeyed", "travelled", "went back")
_TAKE = ("took", "got", "grabbed", "picked up")
_DROP = ("dropped", "left", "discarded", "put down")


def draw_stories(n: int, *, sentences: int = 8, seed: int = 0) -> list[StoryQuestion]:
    """Questions about where people and things are, each about a story of its own.

    People go to places, take things and drop them; a thing is where its bearer is. The words are
    those of bAbI's tasks 1 and 2; every sentence and every question is drawn anew.

    Args:
        n: how many questions.
        sentences: of the longest story; the shortest has two.
        seed: of the drawing.

    Raises:
        ValueError: a number is wrong, or a story may have fewer than two sentences.

    Example:
        >>> question = draw_stories(1)[0]
        >>> question.question.startswith("Where is"), len(question.story) <= 8
        (True, True)
    """
    check_count("n", n)
    check_seed(seed)
    if sentences < 2:
        raise ValueError(f"a story has at least 2 sentences, not {sentences}")
    generator = Generator().manual_seed(seed)
    return [_drawn(generator, sentences) for _ in range(n)]


def _drawn(generator: Generator, sentences: int) -> StoryQuestion:
    """A story that somewhere says where something is, and the question where."""

    def pick(things: list[str] | tuple[str, ...]) -> str:
        return things[int(torch.randint(len(things), (), generator=generator))]

    length = int(torch.randint(2, sentences + 1, (), generator=generator))
    story: list[str] = []
    # Of each person and thing, where it is and the sentences that say so.
    where: dict[str, tuple[str, tuple[int, ...]]] = {}
    bearer: dict[str, tuple[str, int]] = {}
    while len(story) < length:
        who, chance, at = pick(PEOPLE), float(torch.rand((), generator=generator)), len(story)
        carried = [thing for thing, (one, _) in bearer.items() if one == who]
        free = [thing for thing in THINGS if thing not in bearer]
        if chance < 0.25 and free:
            thing = pick(free)
            bearer[thing] = (who, at)
            where.pop(thing, None)
            if who in where:
                where[thing] = (where[who][0], (at, *where[who][1]))
            story.append(f"{who} {pick(_TAKE)} the {thing}.")
        elif chance < 0.4 and carried:
            thing = pick(carried)
            del bearer[thing]
            story.append(f"{who} {pick(_DROP)} the {thing}.")
        else:
            place = pick(PLACES)
            where[who] = (place, (at,))
            for thing in carried:
                where[thing] = (place, (bearer[thing][1], at))
            story.append(f"{who} {pick(_GO)} to the {place}.")
    if not where:
        return _drawn(generator, sentences)
    # Things are asked for more often, since they need two sentences.
    things = [name for name in where if name in THINGS]
    asked = pick(things) if things and len(story) % 3 else pick(list(where))
    place, support = where[asked]
    subject = f"the {asked}" if asked in THINGS else asked
    return StoryQuestion(tuple(story), f"Where is {subject}?", place, support)
