"""Stories and questions as tensors."""

import pytest

from rarememory.data.babi import StoryQuestion
from rarememory.readers import Vocabulary, encode_questions
from rarememory.readers.questions import UNKNOWN

QUESTIONS = [
    StoryQuestion(("Mary went home.", "Bob sat.", "Mary went home."), "Where is Mary?", "home"),
    StoryQuestion(("Bob sat.",), "Where is Bob?", "nowhere"),
]


def test_stories_are_held_latest_first_and_each_sentence_once():
    vocabulary = Vocabulary.of(QUESTIONS)
    numbers = encode_questions(QUESTIONS, vocabulary, 50)
    first, second = (
        [[vocabulary.words[word] for word in numbers.sentences[row] if word] for row in story]
        for story in numbers.stories.tolist()
    )
    assert first == [["mary", "went", "home"], ["bob", "sat"], ["mary", "went", "home"]]
    assert second == [["bob", "sat"], [], []]
    # Two sentences, two questions, and the empty one.
    assert len(numbers.sentences) == 5
    assert numbers.lengths.tolist() == [3, 1]


def test_of_a_long_story_the_last_sentences_are_kept():
    vocabulary = Vocabulary.of(QUESTIONS)
    numbers = encode_questions(QUESTIONS, vocabulary, 2)
    whole = encode_questions([QUESTIONS[0]._replace(story=QUESTIONS[0].story[-2:])], vocabulary, 2)
    assert numbers.lengths.tolist() == [2, 1]
    assert numbers.stories[0].tolist() == whole.stories[0].tolist()


def test_a_word_unseen_in_training_is_refused_and_an_unseen_answer_counts_as_wrong():
    vocabulary = Vocabulary.of(QUESTIONS)
    odd = QUESTIONS[0]._replace(question="Where is Zoe?")
    with pytest.raises(ValueError, match="the word 'zoe' was not in training"):
        encode_questions([odd], vocabulary, 50)
    odd = QUESTIONS[0]._replace(answer="moon")
    assert encode_questions([odd], vocabulary, 50).answers.tolist() == [UNKNOWN]


@pytest.mark.parametrize(
    "change", [{"question": "?"}, {"story": ("Bob sat.", "...")}, {"story": ("",)}]
)
def test_what_has_no_word_is_refused(change):
    vocabulary = Vocabulary.of(QUESTIONS)
    with pytest.raises(ValueError, match="there is no word in"):
        encode_questions([QUESTIONS[0]._replace(**change)], vocabulary, 50)


def test_an_empty_story_and_no_questions_are_refused():
    vocabulary = Vocabulary.of(QUESTIONS)
    with pytest.raises(ValueError, match="the story of question 1 is empty: 'Where is Mary"):
        encode_questions([QUESTIONS[0]._replace(story=())], vocabulary, 50)
    with pytest.raises(ValueError, match="there are no questions to answer"):
        encode_questions([], vocabulary, 50)
