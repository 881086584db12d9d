"""One store is of one encoder: another is refused until it has encoded the memory again."""

from contextlib import closing
from copy import deepcopy

import pytest
import torch
from torch import nn

import rarememory
from rarememory import FirstInFirstOut, Memory
from rarememory.store import wrap

IMAGES, REFS = torch.eye(4), [f"{n}.png" for n in range(4)]


def encoder(scale: float = 1.0, width: int = 3) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Linear(4, width)
    model.weight.data *= scale
    return model


@pytest.fixture
def store(tmp_path):
    return f"sqlite:///{tmp_path}/birds.db"


def opened(model, store, **options):
    return closing(wrap(model, host=False, store=store, poll=None, patience=0.5, **options))


def test_another_encoder_is_refused(store):
    with opened(encoder(), store) as one:
        one.learn(IMAGES, ["kea", "weka", "kea", "weka"], REFS)
        for model, check, sentence in (
            (encoder(2.0), True, "weights have the hash"),
            (encoder(width=5), True, "weights have the hash"),
            (encoder(width=5), False, "features of width 3, and this model's have 5"),
        ):
            with pytest.raises(ValueError, match=sentence):
                opened(model, store, check_encoder=check, memory=Memory(len(model.weight), 8))
        options = {"memory": Memory(3, 8, update=FirstInFirstOut(), temperature=0.5)}
        with pytest.raises(ValueError, match=r"was made with .*open it with those"):
            opened(encoder(), store, **options)
        with opened(nn.Sequential(encoder(), nn.Identity())[0], store) as other:
            assert other.predict(IMAGES) == one.predict(IMAGES)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        (
            {"memory_size": 9},
            r"memory_size=8, and memory_size=9 was given: open it without .* resize\(9\) it$",
        ),
        ({"reader": "nearest"}, r"reader='fitted', and reader='nearest' was given: .*that$"),
        ({"unknown": "?"}, r"unknown='unknown', and unknown='\?' was given"),
        ({"classes": ["kea", "tui"]}, "output 1 .* is called 'weka' in the store, and 'tui' in"),
    ],
    ids=lambda given: str(given)[:20],
)
def test_a_store_is_not_opened_with_another_option_than_that_of_its_memory(store, option, sentence):
    own = {"memory_size": 8, "reader": "fitted", "unknown": "unknown", "classes": ["kea", "weka"]}
    place = {"store": store, "poll": None, "patience": 0.5}
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    with closing(wrap(model, **own, **place)) as one:
        assert one.learn(IMAGES, ["kea", "weka", "tui", "tui"]).lost == []
        with pytest.raises(ValueError, match=sentence):
            wrap(model, **option, **place)
        with closing(wrap(model, **own, **place)) as other, closing(wrap(model, **place)) as third:
            assert len(other.memory.values) == len(third.memory.values) == 8
            assert other.classes == third.classes == ["kea", "weka", "tui"]
            # What a worker was opened with says nothing of later changes.
            one.resize(9)
            one.forget("weka")
            assert other.catch_up() == third.catch_up() == 3
            assert len(other.memory.values) == 9
        if "classes" not in option:
            with closing(wrap(model, classes=["kea", "weka"], **place)) as later:
                assert later.classes == ["kea", "tui"]


def test_a_memory_of_ones_own_gives_way_to_that_in_the_store(store):
    with opened(nn.Identity(), store, memory=Memory(4, 8), reader="fitted") as one:
        one.learn(IMAGES[:1], ["kea"])
        with opened(nn.Identity(), store, memory=Memory(4, 9), reader="nearest") as other:
            assert len(other.memory.values) == 8 and other.reader.name == "fitted"


def test_a_model_that_is_trained_on_may_not_learn_before_it_refreshes(store):
    model = encoder()
    with opened(model, store) as one:
        one.learn(IMAGES[:2], ["kea", "weka"], REFS[:2])
        with torch.no_grad():
            model.weight.mul_(2.0)
        with pytest.raises(ValueError, match=r"or refresh\(\) it with this one"):
            one.learn(IMAGES[2:], ["kea", "weka"])
        assert len(one.memory) == 2


def test_a_refresh_is_a_generation_that_copies_take_whole(store):
    old = encoder()
    new = deepcopy(old)
    with torch.no_grad():
        new.weight.add_(torch.eye(3, 4))
    with opened(old, store) as one, opened(new, store, check_encoder=False) as other:
        one.learn(IMAGES, ["kea", "weka", "kea", "weka"], REFS)
        other.catch_up()
        with pytest.raises(ValueError, match="weights have the hash"):
            other.learn(IMAGES[:1], ["kea"])
        drift = other.refresh([(IMAGES, REFS)])
        assert drift.slots == 4 and (other.generation, one.generation) == (1, 0)
        before = one.memory.keys.clone()
        # What was encoded before the refresh is not written after it.
        with pytest.raises(ValueError, match="weights have the hash"):
            one.learn(IMAGES[:1], ["kea"])
        one.look()
        assert "weights have the hash" in one.trouble and one.version == 1
        assert torch.equal(one.memory.keys, before) and one.predict(IMAGES[:1]) == ["kea"]
        old.load_state_dict(new.state_dict())
        one.catch_up()
        assert (one.version, one.generation) == (2, 1)
        assert torch.equal(one.memory.keys, other.memory.keys)


def test_a_classifier_with_classes_of_its_own_is_shared_whole(store):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    made = [wrap(model, classes=["sparrow", "finch"], store=store, poll=None) for _ in range(2)]
    with closing(made[0]) as one, closing(made[1]) as other:
        one.learn(IMAGES[:1], ["kea"])
        other.forget("sparrow")
        one.catch_up()
        assert one.classes == other.classes == ["finch", "kea"]
        assert torch.equal(one(IMAGES), other(IMAGES))


def test_what_was_learnt_apart_is_merged_into_a_store_and_every_worker_sees_it(store):
    apart = rarememory.wrap(nn.Flatten(), host=False)
    apart.learn(IMAGES[:2], ["kea", "weka"], REFS[:2])
    strange = rarememory.wrap(nn.Flatten(), host=False, unknown="nothing")
    strange.learn(IMAGES[:2], ["kea", "unknown"])
    with opened(nn.Flatten(), store) as one, opened(nn.Flatten(), store) as other:
        with pytest.raises(ValueError, match="no class can be called that"):
            one.merge(strange)
        assert one.merge(apart) == 2
        other.catch_up()
        assert one.predict(IMAGES[:2]) == other.predict(IMAGES[:2]) == ["kea", "weka"]
        assert one.examples() == other.examples() == apart.examples()
        other.learn(IMAGES[2:], ["tui", "kea"], REFS[2:])
        apart.forget("weka")
        assert one.merge(apart) == 1 and len(one.memory) == 5
