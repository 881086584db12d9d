"""Codes of the keys: the same answers as without, whatever the keys are and however they change."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings

from rarememory import EMPTY, Memory
from rarememory.lookup import AutoLookup, NativeLookup
from rarememory.lookup import native as native_file
from rarememory.lookup import native_codes as codes_file
from tests.lookup.histories import STEPS
from tests.lookup.histories import change as change_memory
from tests.lookup.test_nearest import KEYS, strided, units
from tests.memories import bits
from tests.native.test_native import nearly_equal


@pytest.fixture
def always(monkeypatch):
    """Keys are coded when they are asked for the second time, and for good."""
    monkeypatch.setattr(codes_file, "worth_coding", lambda queries, slots, k: True)
    monkeypatch.setattr(codes_file, "_QUERIES_BEFORE_CODING", 0)
    monkeypatch.setattr(codes_file, "_MISSES_ALLOWED", 10**9)


def codes_of(lookup: NativeLookup) -> codes_file.Codes | None:
    return lookup._codes._seen.codes


def check(queries, keys, occupied=None, ks=(1, 7, 100, 300)) -> None:
    """With codes slots and reads are those without, and so are pairs, with few labels and many."""
    occupied = torch.ones(len(keys), dtype=torch.bool) if occupied is None else occupied
    coded, plain = NativeLookup(), NativeLookup(codes=False)
    coded.nearest(queries, keys, occupied, 1)
    for k in ks:
        found = coded.nearest(queries, keys, occupied, k).sort().values
        expected = plain.nearest(queries, keys, occupied, k).sort().values
        assert torch.equal(found, expected)
        values = torch.arange(len(keys)).where(occupied, EMPTY)
        reads = [lookup.read(queries, keys, values, k) for lookup in (coded, plain)]
        assert (reads[0] is None) == (reads[1] is None)
        assert all(map(torch.equal, reads[0] or (), reads[1] or ()))
    for classes in (1, 3, len(keys)):
        # Labels that differ in their upper halves alone are others.
        values = torch.randint(0, classes, (len(keys),)) * 2**32 + 5
        labels = values[torch.randint(0, len(keys), (len(queries),))].clone()
        labels[1::3] += 2**33
        labels[2::5] = EMPTY
        values = values.where(occupied, EMPTY)
        pairs = [lookup.nearest_pair(queries, keys, values, labels) for lookup in (coded, plain)]
        assert torch.equal(torch.stack(pairs[0]), torch.stack(pairs[1]))
    assert codes_of(coded) is not None


# The answers


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("kind", [*KEYS, "nearly equal"])
@pytest.mark.parametrize(
    ("slots", "key_dim"), [(1, 1), (7, 3), (129, 33), (1003, 5), (4097, 64), (9001, 24)]
)
@pytest.mark.parametrize("batch", [1, 17])
def test_codes_change_no_answer(kind, slots, key_dim, batch):
    keys = {**KEYS, "nearly equal": nearly_equal}[kind](slots, key_dim)
    queries = torch.cat([units(batch, key_dim), keys[:1]])[-batch:]
    for holes in (0, slots // 3):
        occupied = torch.ones(slots, dtype=torch.bool)
        occupied[torch.randperm(slots)[:holes]] = False
        check(queries, keys.masked_fill(~occupied.unsqueeze(1), 0.0), occupied)


def test_slots_that_are_not_contiguous_are_coded_again():
    keys, slots = units(129, 5), torch.tensor([3, 90, 7])
    codes = codes_file.Codes(keys)
    keys[slots] = units(3, 5)
    codes.update(keys, strided(slots))
    assert torch.equal(codes.bytes, codes_file.Codes(keys).bytes)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("key_dim", [*range(1, 20), 127, 130, 517, 600, 1100, 2050])
@pytest.mark.parametrize("batch", [1, 5])
def test_every_width_is_coded(key_dim, batch):
    keys = units(700, key_dim)
    check(torch.cat([units(batch, key_dim), keys[:1]])[-batch:], keys, ks=(1, 9, 200))


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("batch", [1, 40])
def test_where_codes_mislead_their_bounds_do_not(batch):
    # On a circle a code is off in the very direction of the query, and neighbours are very near.
    angles = torch.rand(30_000) * 6.3
    keys = torch.stack([angles.cos(), angles.sin()], 1)
    queries = units(batch, 2)
    for query in queries:
        # Only where the score falls quickly with the angle.
        occupied = ((keys @ query).abs() < 0.8).contiguous()
        check(query.unsqueeze(0), keys, occupied, ks=(1, 20, 200))
    check(queries, keys, ks=(1, 20, 100, 200))


@pytest.mark.usefixtures("always")
def test_keys_that_differ_by_less_than_their_codes_are_told_apart():
    for spread in (1e-4, 1e-3, 1e-2):
        keys = torch.nn.functional.normalize(units(1, 40) + spread * torch.randn(5000, 40), dim=1)
        check(torch.cat([keys[:1], units(4, 40)]), keys)
        check(keys[:1].clone(), keys)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("batch", [1, 9])
@pytest.mark.parametrize(
    "odd", [0.0, 1e-45, 1e-38, 1e-20, 0.1, 1.005, 3.0, 1e4, 1e30, torch.inf, torch.nan]
)
def test_keys_that_no_code_holds_are_found_as_ever(odd, batch):
    keys = units(2000, 9)
    keys[5::97] *= odd
    keys[11, 3] = odd
    check(torch.cat([units(batch, 9), keys[:1]])[-batch:], keys, ks=(1, 30, 2000))


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("length", [0.99, 3.0])
def test_what_the_code_of_a_query_is_off_by_is_reckoned_with(length):
    # In bytes a query has 127 steps to its largest number, which twelve of these are. The others
    # are off by nearly half a step, and all in the direction of the second key.
    step = 0.2 / 127
    query = torch.tensor([0.2] * 12 + [93.45 * step] * 24)
    ones = torch.ones(36)
    first, second = ones.where(query == 0.2, 0.0), ones.where(query != 0.2, 0.0)
    second *= (query @ first) / (query @ second) * (1 + 0.2 * step)
    keys = units(2000, 36) * 0.3
    keys[7], keys[9] = first, second
    keys[[7, 9]] *= length / 12**0.5 / (1.01 if length < 1 else 1)
    check(query.repeat(3, 1), keys, ks=(1,))
    check(query.unsqueeze(0), keys, ks=(1,))


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("key_dim", [500, 600, 1100, 5000])
def test_a_sum_as_large_as_can_be_has_room(key_dim):
    keys = units(300, key_dim)
    keys[9] = key_dim**-0.5
    check(keys[9:10].clone(), keys, ks=(1, 5))
    check(-keys[9:10].repeat(3, 1), keys, ks=(1, 299))


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("odd", [0.0, 1e-30, 0.5, 1.02, 3.0, 1e20, torch.inf, torch.nan])
def test_queries_that_no_code_holds_are_answered_as_ever(odd):
    keys, queries = units(2000, 9), units(20, 9)
    queries[3] *= odd
    queries[7, 2] = odd
    check(queries, keys)
    check(queries[3:4], keys)
    found = NativeLookup().nearest(queries, keys, torch.ones(2000, dtype=torch.bool), 5)
    assert found[3].eq(EMPTY).all() or queries[3].isfinite().all()


@pytest.mark.usefixtures("always")
def test_parts_of_the_slots_and_blocks_of_them_change_nothing():
    keys, threads = units(70_001, 16), torch.get_num_threads()
    for kind in ("sorted", "random"):
        if kind == "sorted":
            keys = keys[(keys @ keys[0]).argsort()]
        for batch in (1, 2, 70):
            queries = torch.cat([keys[-1:], units(batch - 1, 16)])
            for count in (1, 2, 5):
                torch.set_num_threads(count)
                check(queries, keys, ks=(1, 128, 129, 1000))
            torch.set_num_threads(threads)


@pytest.mark.usefixtures("always", "instruction_set")
def test_codes_are_the_same_with_every_instruction_set():
    for kind, make in KEYS.items():
        for slots, key_dim, batch in [(129, 33, 7), (1003, 5, 33), (5000, 64, 1), (9000, 600, 6)]:
            if kind in ("units", "clusters") or slots < 2000:
                check(units(batch, key_dim), make(slots, key_dim), ks=(1, 5, 100))


# Following the keys


@pytest.mark.usefixtures("always")
@settings(deadline=None, max_examples=20)
@given(steps=STEPS)
def test_a_memory_with_codes_answers_as_one_without_through_any_history(steps):
    torch.manual_seed(0)
    coded = Memory(6, 700, k=9, lookup="native")
    plain = Memory(6, 700, k=9, lookup=NativeLookup(codes=False))
    queries = torch.randn(3, 6)
    for verb, count, seed, reads in [("write", 60, 1, True), ("write", 60, 2, True), *steps]:
        for memory in (coded, plain):
            change_memory(memory, verb, count, seed)
        labels = torch.tensor([seed, 0, 1])
        for _ in range(2 * reads):
            for some in (queries, queries[:1]):
                assert torch.equal(coded(some).slots, plain(some).slots)
                pairs = [memory(some, labels[: len(some)]) for memory in (coded, plain)]
                assert torch.equal(pairs[0].slots, pairs[1].slots)
                assert torch.equal(pairs[0].loss, pairs[1].loss)
        if reads:
            assert codes_of(coded.lookup) is not None
    assert bits(coded) == bits(plain)


CHANGES = {
    "an edit": lambda memory: memory.keys.copy_(memory.keys.flip(0)),
    "a slot edited": lambda memory: memory.keys[3].neg_(),
    "a load": lambda memory: memory.load_state_dict(
        {**memory.state_dict(), "keys": memory.keys.flip(0)}
    ),
    "an assigned load": lambda memory: memory.load_state_dict(
        {**memory.state_dict(), "keys": memory.keys.flip(0).clone()}, assign=True
    ),
    "a resize": lambda memory: memory.resize(60),
    "a move": lambda memory: memory.double().float(),
    "a write": lambda memory: memory.write(-memory.keys[:5].clone(), torch.arange(5)),
    "a write under inference mode": torch.inference_mode()(
        lambda memory: memory.write(-memory.keys[:5].clone(), torch.arange(5))
    ),
    "an edit under inference mode": torch.inference_mode()(lambda memory: memory.keys[3].neg_()),
    "forgetting": lambda memory: memory.forget(slots=[3]),
    # Forgetting does not search first, which would see the edit.
    "an edit before forgetting": lambda memory: (
        memory.keys[3].neg_(),
        memory.forget(slots=[5]),
    ),
    "an edit before a write": lambda memory: (
        memory.keys[3].neg_(),
        memory.write(torch.randn(1, 8), torch.tensor([9])),
    ),
}


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("lookup", ["native", "auto"])
def test_after_any_change_the_keys_are_found_as_they_are(change, lookup):
    memory = Memory(8, 80, k=5, lookup=lookup)
    memory.write(units(80, 8), torch.arange(80))
    queries = torch.cat([memory.keys[3:4], -memory.keys[3:4], units(5, 8)])
    for _ in range(2):
        memory(queries)
    CHANGES[change](memory)
    for _ in range(2):
        twin = Memory(8, len(memory.keys), k=5, lookup="torch")
        twin.load_state_dict(memory.state_dict())
        labels = torch.arange(7)
        assert torch.equal(memory(queries, labels).slots, twin(queries, labels).slots)
        assert torch.equal(memory(queries).slots, twin(queries).slots)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("name", ["native", "auto"])
def test_a_program_searches_the_keys_as_they_are(name):
    # As a program changes them: behind the count of their changes.
    keys, queries, occupied = units(80, 8), units(3, 8), torch.ones(80, dtype=torch.bool)
    for _ in range(4):
        keys.data.copy_(units(80, 8))
        found = torch.ops.rarememory.nearest(queries, keys, occupied, 5, name, None)
        expected = NativeLookup(codes=False).nearest(queries, keys, occupied, 5)
        assert torch.equal(found.sort().values, expected.sort().values)
        asked = (queries, keys, torch.arange(80), torch.arange(3))
        pair = torch.ops.rarememory.nearest_pair(*asked, name, None)
        assert torch.equal(pair[1], NativeLookup(codes=False).nearest_pair(*asked)[1])


@pytest.mark.usefixtures("always")
def test_a_write_is_followed_at_the_cost_of_its_rows(monkeypatch):
    for lookup in (NativeLookup(), AutoLookup()):
        memory = Memory(8, 80, lookup=lookup)
        memory.write(units(80, 8), torch.arange(80))
        for _ in range(2):
            memory(units(1, 8), k=1)
        search = lookup if isinstance(lookup, NativeLookup) else lookup.first(*[memory.keys] * 2, 1)
        codes, coded = codes_of(search), []
        real = codes_file.Codes._code
        with monkeypatch.context() as watched:
            watched.setattr(
                codes_file.Codes,
                "_code",
                lambda *given, to=coded, real=real: to.append(given[3]) or real(*given),
            )
            memory.write(units(5, 8), torch.arange(5))
            memory.forget(slots=[1, 2])
            memory(units(1, 8), k=1)
        assert coded == [5, 2] and codes_of(search) is codes


@pytest.mark.usefixtures("always")
def test_a_pair_is_read_by_codes_that_hold():
    memory = Memory(8, 80, lookup="native")
    memory.write(units(80, 8), torch.arange(80))
    queries, labels = units(5, 8), torch.arange(5)
    for _ in range(2):
        memory(queries, labels)
    codes = codes_of(memory.lookup)
    assert codes is not None
    # Codes of other keys name other slots: they are looked at.
    codes.steps.zero_()
    codes.off.fill_(1e-3)
    with pytest.warns(UserWarning, match="changed in a way that torch does not count"):
        memory(queries, labels)
    assert codes_of(memory.lookup) is not codes


@pytest.mark.usefixtures("always")
def test_pairs_that_codes_cannot_tell_apart_are_missed_and_found_without():
    lookup, keys = NativeLookup(), units(1, 8).repeat(3000, 1)
    keys[7], values = units(1, 8), torch.arange(3000) % 2
    queries, labels = units(20, 8), torch.randint(0, 3, (20,))
    for _ in range(3):
        found = lookup.nearest_pair(queries, keys, values, labels)
    expected = NativeLookup(codes=False).nearest_pair(queries, keys, values, labels)
    assert torch.equal(torch.stack(found), torch.stack(expected))
    assert codes_of(lookup).missed > 0


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("batch", [1, 16])
def test_many_similar_keys_in_front_hide_no_others(batch):
    # Only the slots behind them show that they are far.
    lookup, keys, values = NativeLookup(), units(9000, 32), torch.arange(9000) % 40
    keys[:3000] = torch.nn.functional.normalize(keys[0] + 0.01 * units(3000, 32), dim=1)
    queries = torch.nn.functional.normalize(keys[-batch:] + 0.1 * units(batch, 32), dim=1)
    labels = values[-batch:].clone()
    for _ in range(3):
        found = lookup.nearest_pair(queries, keys, values, labels)
    expected = NativeLookup(codes=False).nearest_pair(queries, keys, values, labels)
    assert torch.equal(torch.stack(found), torch.stack(expected))
    assert codes_of(lookup).missed == 0


def test_codes_that_miss_one_row_of_some_are_given_up_too():
    lookup, keys, values = NativeLookup(), units(4096, 16), torch.arange(4096) % 400
    keys[:1500] = torch.nn.functional.normalize(keys[0] + 1e-4 * units(1500, 16), dim=1)
    queries = torch.cat([keys[:1], units(15, 16)])
    for _ in range(12):
        lookup.nearest_pair(queries, keys, values, torch.full((16,), 399))
    assert codes_of(lookup) is None


def test_pairs_of_many_queries_are_found_some_at_a_time(monkeypatch):
    keys, values, queries = units(500, 8), torch.arange(500) % 7, units(50, 8)
    labels = torch.arange(50) % 9
    expected = NativeLookup().nearest_pair(queries, keys, values, labels)
    monkeypatch.setattr(native_file, "_ROWS_AT_ONCE", 16)
    found = NativeLookup().nearest_pair(queries, keys, values, labels)
    assert torch.equal(torch.stack(found), torch.stack(expected))


def test_only_keys_that_are_asked_again_are_coded():
    lookup, keys, occupied = NativeLookup(), units(2048, 8), torch.ones(2048, dtype=torch.bool)
    for _ in range(16):
        lookup.nearest(units(1, 8), keys, occupied, 1)
        assert codes_of(lookup) is None
    lookup.nearest(units(1, 8), keys, occupied, 1)
    assert codes_of(lookup) is not None
    lookup.nearest(units(1, 8), keys.clone(), occupied, 1)
    assert codes_of(lookup) is None


@pytest.mark.parametrize(
    ("queries", "slots", "k"), [(1, 1000, 1), (20, 2000, 200), (1, 1500, 1000)]
)
def test_among_few_slots_there_are_no_codes(queries, slots, k):
    lookup, keys, occupied = NativeLookup(), units(slots, 8), torch.ones(slots, dtype=torch.bool)
    for _ in range(40):
        lookup.nearest(units(queries, 8), keys, occupied, k)
    assert codes_of(lookup) is None


@pytest.mark.usefixtures("always")
def test_memory_that_other_processes_may_write_is_not_coded():
    lookup, keys = NativeLookup(), units(2048, 8).share_memory_()
    for _ in range(3):
        lookup.nearest(units(1, 8), keys, torch.ones(2048, dtype=torch.bool), 1)
    assert codes_of(lookup) is None


@pytest.mark.usefixtures("always")
def test_codes_stay_behind_in_copies_and_pickles():
    memory = Memory(8, 80, lookup="native")
    memory.write(units(80, 8), torch.arange(80))
    for _ in range(2):
        memory(units(3, 8))
    assert codes_of(memory.lookup) is not None
    for twin in (copy.deepcopy(memory), pickle.loads(pickle.dumps(memory))):
        assert codes_of(twin.lookup) is None
        queries = units(9, 8)
        for _ in range(3):
            assert torch.equal(memory(queries).slots, twin(queries).slots)


def test_codes_that_answer_nothing_are_given_up_and_tried_again_later(monkeypatch):
    monkeypatch.setattr(codes_file, "_QUERIES_BEFORE_RETRY", 100)
    lookup, keys = NativeLookup(), units(1, 8).repeat(2048, 1)
    occupied = torch.ones(2048, dtype=torch.bool)
    coded = []
    for _ in range(400):
        lookup.nearest(units(1, 8), keys, occupied, 1)
        coded.append(codes_of(lookup) is not None)
    assert (
        coded
        == [False] * 16 + [True] * 65 + [False] * 116 + [True] * 65 + [False] * 116 + [True] * 22
    )
    good = units(2048, 8)
    for _ in range(400):
        lookup.nearest(units(1, 8), good, occupied, 1)
    assert codes_of(lookup).missed == 0


@pytest.mark.usefixtures("always")
def test_readers_of_several_memories_may_share_one_search():
    lookup, occupied = NativeLookup(), torch.ones(3000, dtype=torch.bool)
    memories, queries = [units(3000, 16) for _ in range(3)], units(20, 16)
    plain = NativeLookup(codes=False)
    truth = [plain.nearest(queries, keys, occupied, 30).sort().values for keys in memories]

    def read(turn: int) -> bool:
        # Now and then the same keys some times in a row, so that they are coded.
        keys = turn // 5 % 3
        found = lookup.nearest(queries, memories[keys], occupied, 30)
        return torch.equal(found.sort().values, truth[keys])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(200)))


@pytest.mark.usefixtures("always")
def test_rows_that_do_not_count_are_no_failure_of_the_codes():
    lookup, keys, queries = NativeLookup(), units(2048, 8), units(9, 8)
    queries[2:] = torch.nan
    for _ in range(3):
        lookup.nearest(queries, keys, torch.ones(2048, dtype=torch.bool), 1)
        lookup.nearest_pair(queries, keys, torch.arange(2048), torch.arange(9))
    assert codes_of(lookup).missed == 0


def test_a_search_without_codes_keeps_none():
    memory = Memory(8, 2048, lookup=NativeLookup(codes=False))
    memory.write(units(50, 8), torch.arange(50))
    for _ in range(40):
        memory(units(1, 8), k=1)
    assert memory.lookup._codes is None
