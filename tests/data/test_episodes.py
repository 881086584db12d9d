"""Episodes: indices that keep the protocols of the paper and of the field."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rarememory.data import sighting_episode, support_query_episode
from rarememory.data.episodes import sightings_of

SEEDS = st.integers(0, 2**32)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@st.composite
def sightings(draw):
    """Classes and drawings to choose from, what is asked for, and such an episode."""
    whole = draw(st.integers(1, 33)), draw(st.integers(1, 21))
    asked = dict(n_way=draw(st.integers(1, whole[0])), n_sightings=draw(st.integers(1, whole[1])))
    return whole, asked, sighting_episode(*whole, **asked, generator=generator(draw(SEEDS)))


@st.composite
def supports_and_queries(draw):
    whole = draw(st.integers(1, 33)), draw(st.integers(2, 21))
    n_way, n_shot = draw(st.integers(1, whole[0])), draw(st.integers(1, whole[1] - 1))
    asked = dict(n_way=n_way, n_shot=n_shot, n_query=draw(st.integers(1, whole[1] - n_shot)))
    return whole, asked, support_query_episode(*whole, **asked, generator=generator(draw(SEEDS)))


def pairs(left, right):
    return list(zip(left.flatten().tolist(), right.flatten().tolist(), strict=True))


def shown(episode):
    """Every (class, drawing) that an episode shows."""
    return pairs(episode.classes, episode.drawings)


def naming(*episodes):
    """The pairs (class, label) that occur."""
    return {pair for episode in episodes for pair in pairs(episode.classes, episode.labels)}


def assert_distinct_and_in_range(whole, count, *episodes):
    """So many drawings, each of them once."""
    pairs = [pair for episode in episodes for pair in shown(episode)]
    assert len(set(pairs)) == len(pairs) == count
    assert all(0 <= index < whole[0] and 0 <= drawing < whole[1] for index, drawing in pairs)


@given(sightings())
def test_each_row_shows_every_class_once_under_one_label_and_no_drawing_twice(case):
    whole, asked, episode = case
    for field in episode:
        assert field.dtype == torch.int64
        assert field.shape == (asked["n_sightings"], asked["n_way"])
    every_label = torch.arange(asked["n_way"]).expand_as(episode.labels)
    assert torch.equal(episode.labels.sort(dim=1).values, every_label)
    assert all(len(set(row)) == asked["n_way"] for row in episode.classes.tolist())
    assert len(naming(episode)) == asked["n_way"]
    assert_distinct_and_in_range(whole, asked["n_way"] * asked["n_sightings"], episode)


@given(supports_and_queries())
def test_support_and_query_are_of_the_same_classes_under_the_same_labels(case):
    whole, asked, (support, query) = case
    for episode, columns in ((support, asked["n_shot"]), (query, asked["n_query"])):
        for field in episode:
            assert field.dtype == torch.int64
            assert field.shape == (asked["n_way"], columns)
    assert naming(support) == naming(query)
    named = naming(support, query)
    assert len({name for name, _ in named}) == len(named) == asked["n_way"]
    assert {label for _, label in named} == set(range(asked["n_way"]))
    count = asked["n_way"] * (asked["n_shot"] + asked["n_query"])
    assert_distinct_and_in_range(whole, count, support, query)


def test_rows_of_support_and_query_belong_to_one_label_each():
    support, query = support_query_episode(
        9, 7, n_way=5, n_shot=3, n_query=4, generator=generator()
    )
    for episode in (support, query):
        assert torch.equal(episode.labels, torch.arange(5)[:, None].expand_as(episode.labels))


def draw_each(rng):
    sighting = sighting_episode(33, 20, n_way=7, n_sightings=5, generator=rng)
    support, query = support_query_episode(33, 20, n_way=7, n_shot=1, n_query=3, generator=rng)
    return [*sighting, *support, *query]


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_the_same_seed_draws_the_same_episodes_and_the_next_draw_differs():
    rng = generator(7)
    first = draw_each(rng)
    assert same(first, draw_each(generator(7)))
    assert not same(first, draw_each(rng))


def test_the_global_random_state_is_neither_used_nor_changed():
    before = torch.get_rng_state()
    first = draw_each(generator())
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(123)
    assert same(first, draw_each(generator()))


def test_every_order_of_a_row_and_every_class_comes_up():
    rng = generator()
    rows, classes, drawings = set(), set(), set()
    for _ in range(300):
        episode = sighting_episode(5, 3, n_way=3, n_sightings=2, generator=rng)
        rows |= {(row, tuple(labels)) for row, labels in enumerate(episode.labels.tolist())}
        classes |= naming(episode)
        drawings |= {(row, *d) for row, d in enumerate(episode.drawings[:, :1].tolist())}
    assert len(rows) == 2 * 6
    assert len(classes) == 5 * 3
    assert len(drawings) == 2 * 3


def test_every_drawing_comes_up_in_support_and_in_query():
    rng = generator()
    drawn = [
        support_query_episode(4, 3, n_way=2, n_shot=1, n_query=1, generator=rng) for _ in range(200)
    ]
    for side in range(2):
        assert len({pair for episodes in drawn for pair in shown(episodes[side])}) == 4 * 3


def test_fields_can_be_written_without_one_label_changing_another():
    support, query = support_query_episode(
        4, 5, n_way=2, n_shot=2, n_query=2, generator=generator()
    )
    support.labels[0, 0] = 9
    support.classes[0, 0] = 9
    assert (support.labels == 9).sum() == (support.classes == 9).sum() == 1
    assert not (query.labels == 9).any()


@pytest.mark.parametrize(
    ("whole", "asked", "message"),
    [
        ((4, 20), dict(n_way=5, n_sightings=1), "n_way is 5, but there are 4 classes"),
        ((4, 20), dict(n_way=0, n_sightings=1), "n_way must be .* not 0"),
        ((0, 20), dict(n_way=1, n_sightings=1), "n_way is 1, but there are 0 classes"),
        ((4, 3), dict(n_way=2, n_sightings=4), "n_sightings is 4, but a class has 3 drawings"),
        ((4, 3), dict(n_way=2, n_sightings=0), "n_sightings must be .* not 0"),
        ((4, 20), dict(n_way=5, n_shot=1, n_query=1), "n_way is 5, but there are 4 classes"),
        ((4, 20), dict(n_way=-1, n_shot=1, n_query=1), "n_way must be .* not -1"),
        ((4, 20), dict(n_way=2, n_shot=0, n_query=1), "n_shot must be .* not 0"),
        ((4, 20), dict(n_way=2, n_shot=1, n_query=0), "n_query must be .* not 0"),
        ((4, 20), dict(n_way=2, n_shot=5, n_query=16), r"5 \+ n_query 16 = 21, but .* 20 drawings"),
    ],
)
def test_episodes_that_cannot_be_are_refused_with_the_numbers(whole, asked, message):
    draw = sighting_episode if "n_sightings" in asked else support_query_episode
    with pytest.raises(ValueError, match=message):
        draw(*whole, **asked, generator=generator())


def test_an_episode_of_given_classes_shows_each_of_them_at_every_sighting():
    classes = torch.tensor([30, 7, 12, 8])
    episode = sightings_of(classes, 9, n_sightings=5, generator=generator(2))
    for row, labels in zip(episode.classes, episode.labels, strict=True):
        assert sorted(row.tolist()) == [7, 8, 12, 30]
        assert torch.equal(row, classes[labels])
    assert len(set(pairs(episode.classes, episode.drawings))) == 20


def test_more_sightings_than_drawings_are_refused_of_given_classes_too():
    with pytest.raises(ValueError, match="n_sightings is 3, but a class has 2 drawings"):
        sightings_of(torch.arange(4), 2, n_sightings=3, generator=generator())
