"""Drawn stories: the answer and its support are what the story says."""

import pytest

from rarememory.data.stories import PLACES, THINGS, draw_stories


def told(question):
    """Where everybody and everything is at the end, by reading sentence after sentence."""
    where, carried = {}, {}
    for sentence in question.story:
        words = sentence.rstrip(".").split()
        who, last = words[0], words[-1]
        if last in PLACES:
            where[who] = last
            where.update({thing: last for thing, one in carried.items() if one == who})
        elif last in THINGS and carried.get(last) == who:
            del carried[last]
        else:
            carried[last] = who
            where.pop(last, None)
            if who in where:
                where[last] = where[who]
    return where


def test_the_answer_is_where_the_story_says():
    questions = draw_stories(300)
    asked = [one.question.rstrip("?").split()[-1] for one in questions]
    for one, name in zip(questions, asked, strict=True):
        assert told(one)[name] == one.answer
    assert {"apple", "Mary"} <= set(asked)


def test_the_support_alone_says_it():
    for one in draw_stories(300, seed=1):
        name = one.question.rstrip("?").split()[-1]
        kept = one._replace(story=tuple(one.story[place] for place in sorted(one.support)))
        assert told(kept)[name] == one.answer


def test_the_seed_decides_and_short_stories_are_refused():
    assert draw_stories(5, seed=2) == draw_stories(5, seed=2) != draw_stories(5, seed=3)
    with pytest.raises(ValueError, match="a story has at least 2 sentences, not 1"):
        draw_stories(1, sentences=1)
