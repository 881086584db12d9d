"""Keys as parameters for a while: what they answer, what comes back; forgetting stays exact."""

import math
import pickle
from copy import deepcopy

import pytest
import torch
from classifiers import at, everything
from memories import LOOKUPS
from torch import nn
from torch.func import functional_call
from torch.nn.functional import normalize

from rarememory import FirstInFirstOut, Memory, MemoryClassifier
from rarememory.base.state import EMPTY
from rarememory.classifier import finetuning
from rarememory.classifier.persistence import read_file, write_file
from rarememory.classifier.tuned_keys import check_untuned
from tests import oracle

LABELS = ["kea", "kea", "weka", "weka", "takahe", "takahe", "sparrow"]
QUERIES = torch.randn(9, 5, generator=torch.Generator().manual_seed(1))


def rows(count, seed=0, key_dim=5):
    return torch.randn(count, key_dim, generator=torch.Generator().manual_seed(seed))


def birds(host=True, reader="nearest", memory=None, labels=LABELS, **options):
    """A classifier that has learnt a row under each label; a host knows sparrow and finch."""
    memory = memory or Memory(5, 16, update=FirstInFirstOut(), **options)
    model = nn.Identity()
    if host:
        model = nn.Linear(5, 2)
        model.load_state_dict({"weight": rows(2, 7), "bias": torch.tensor([0.5, -0.5])})
    classes = ["sparrow", "finch"] if host else None
    made = MemoryClassifier(model, host=host, memory=memory, reader=reader, classes=classes)
    # A class after the other, so that each is in the slots that it has without the next.
    for label in dict.fromkeys(labels):
        own = [place for place, one in enumerate(labels) if one == label]
        made.learn(rows(7)[own], [label] * len(own), own)
    return made


def tune(classifier, labels=LABELS, steps=3, lr=0.3):
    """Some steps of gradient descent."""
    with classifier.tunable_keys() as keys:
        optimizer = torch.optim.SGD(keys.parameters(), lr=lr)
        for _ in range(steps):
            optimizer.zero_grad()
            keys.loss(rows(len(labels), 3), labels).backward()
            optimizer.step()
    return classifier


def tuned(classifier):
    return hasattr(classifier.memory, "untuned")


def answers(classifier):
    classes, values = classifier.predict_proba(QUERIES)
    return classes, values.numpy().tobytes(), classifier.predict(QUERIES)


@pytest.mark.parametrize("k", [3, 256])
@pytest.mark.parametrize("host", [True, False], ids=["host", "no host"])
def test_the_logits_are_those_of_the_loops(host, k):
    classifier = birds(host, k=k, temperature=0.2)
    raw = classifier.model(QUERIES).log_softmax(1).tolist() if host else [None] * len(QUERIES)
    with classifier.tunable_keys() as keys:
        keys.keys.data.copy_(rows(len(LABELS), 5))
        found = keys(QUERIES).tolist()
        wanted = [
            oracle.tuned_logits(
                query, keys.keys.tolist(), keys.values.tolist(), k, 0.2, logits, 0.8, len(found[0])
            )
            for query, logits in zip(QUERIES.tolist(), raw, strict=True)
        ]
    for one, loops in zip(found, wanted, strict=True):
        for z, by_loops in zip(one, loops, strict=True):
            assert z < -1e29 if by_loops is None else z == pytest.approx(by_loops, abs=1e-4)


@pytest.mark.parametrize("host", [True, False], ids=["host", "no host"])
def test_gradients_of_logits_and_loss_are_right(host):
    classifier = birds(host, memory=Memory(5, 16, temperature=0.5, k=4).double())
    with classifier.tunable_keys() as keys:
        start = keys.keys.detach().clone().requires_grad_()
        # A class without any neighbour has a constant in place of a logit.
        ask = (QUERIES[:3],)
        assert torch.autograd.gradcheck(
            lambda own: functional_call(keys, {"keys": own}, ask).clamp(min=-1e3), start
        )
        losses = classifier.memory.keys.new_zeros(0)
        assert torch.autograd.gradcheck(lambda own: _losses(keys, own, losses), start)
        keys.keys.data.copy_(start.detach())


def _losses(keys, own, like):
    before, keys._parameters["keys"] = keys._parameters["keys"], own
    try:
        ids = torch.cat([keys.values, keys.values])
        inputs = torch.cat([rows(len(LABELS)), rows(len(LABELS), 3)])
        logits = rows(len(ids), 8, 2) if keys._host_logits(rows(1, 8, 2)) is not None else None
        return keys.losses(inputs, logits, ids).to(like.dtype)
    finally:
        keys._parameters["keys"] = before


@pytest.mark.parametrize("lookup", LOOKUPS)
@pytest.mark.parametrize("host", [True, False], ids=["host", "no host"])
def test_untouched_keys_answer_as_the_classifier_does(host, lookup):
    classifier = birds(host, lookup=lookup, k=4)
    before = everything(classifier)
    with classifier.tunable_keys() as keys:
        torch.testing.assert_close(
            keys(QUERIES).softmax(1), classifier.predict_proba(QUERIES).values
        )
        assert keys(QUERIES[0]).shape == (len(classifier.classes),)
    assert everything(classifier) == before


def test_every_lookup_answers_the_same_by_tuned_keys():
    assert len({str(answers(tune(birds(lookup=lookup)))) for lookup in LOOKUPS}) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_keys_come_back_at_unit_length_and_nothing_else_changes(dtype):
    classifier = birds(memory=Memory(5, 16, key_dtype=dtype, count_usage=True))
    memory, examples = classifier.memory, classifier.examples()
    before = {name: part.clone() for name, part in memory.state_dict().items()}
    with classifier.tunable_keys() as keys:
        assert [name for name, _ in keys.named_parameters()] == ["keys"]
        wanted = rows(len(LABELS), 4) * 3
        wanted[2] = keys.keys[2].detach()
        keys.keys.data.copy_(wanted)
    torch.testing.assert_close(memory.keys[:7], normalize(wanted).to(dtype))
    assert torch.equal(memory.keys[2], before["keys"][2])
    assert (memory.keys[7:] == 0).all() and memory.untuned.dtype == memory.keys.dtype
    assert not memory.untuned[2].any() and not memory.untuned[7:].any()
    assert classifier.examples() == examples
    for name in before.keys() - {"keys"}:
        assert torch.equal(memory.get_buffer(name), before[name]), name
    classifier.untune()
    assert {*memory.state_dict()} == {*before}
    assert torch.equal(memory.keys, before["keys"])


def test_a_projection_is_not_tuned_and_queries_go_through_it():
    classifier = birds(memory=Memory(5, 16, projection=True, k=4))
    weight = classifier.memory.projection.weight.clone()
    with classifier.tunable_keys() as keys:
        assert len([*keys.parameters()]) == 1
        wanted = classifier.predict_proba(QUERIES).values
        torch.testing.assert_close(keys(QUERIES).softmax(1), wanted)
    tune(classifier)
    assert torch.equal(classifier.memory.projection.weight, weight) and tuned(classifier)


def test_an_example_is_answered_without_its_own_key():
    classifier = birds(host=False, temperature=0.3)
    with classifier.tunable_keys() as keys:
        ids = keys.values
        # Two of each class but sparrow, whose only example is not asked about.
        losses = keys.losses(rows(7), None, ids)
        assert len(losses) == 6
        for row in range(6):
            others = [slot for slot in range(7) if slot != row]
            listed = [keys.keys[others].tolist(), ids[others].tolist()]
            z = oracle.tuned_logits(rows(7)[row].tolist(), *listed, 9, 0.3, None, 0.8, 4)
            there = [one for one in z if one is not None]
            assert losses[row].item() == pytest.approx(
                math.log(math.fsum(map(math.exp, there))) - z[int(ids[row])], abs=1e-4
            )
        # The same example under another label is not itself.
        assert not keys.own(rows(7)[6:], ids[:1]).any()
        assert len(keys.losses(rows(7)[6:], None, ids[:1])) == 1
        assert keys.loss(rows(7)[6:], ["sparrow"]).item() == 0
        keys.keys.data.copy_(rows(7, 9))
        # By what was learnt, however it is tuned.
        assert torch.equal(keys.own(rows(7), ids), torch.eye(7).bool())


@pytest.mark.parametrize("raised", [RuntimeError, KeyboardInterrupt, "nan", "zero", "written"])
def test_nothing_is_written_back_after_an_error(raised):
    classifier = tune(birds())
    before = everything(classifier)
    wanted = {"nan": ValueError, "zero": ValueError, "written": RuntimeError}.get(raised, raised)
    said = {"nan": r"slots \[0", "zero": r"slots \[3\]", "written": "tune again"}.get(raised)
    with pytest.raises(wanted, match=said), classifier.tunable_keys() as keys:
        keys.keys.data.mul_(2).add_(1)
        if raised == "nan":
            keys.keys.data.fill_(torch.nan)
        elif raised == "zero":
            keys.keys.data[3] = 0
        elif raised == "written":
            classifier.learn(rows(1, 11), ["kea"])
            before = everything(classifier)
        else:
            raise raised
    assert everything(classifier) == before


@pytest.mark.parametrize("change", ["forgotten", "replaced", "relabelled"])
def test_keys_of_another_memory_are_not_written_back(change):
    classifier = birds()
    with pytest.raises(RuntimeError, match="tune again"), classifier.tunable_keys() as keys:
        keys.keys.data.mul_(-1)
        if change == "forgotten":
            classifier.forget("weka")
        elif change == "replaced":
            classifier.memory.keys[0] = classifier.memory.keys[1]
        else:
            classifier.memory.values[0] = classifier.memory.values[2]
        before = everything(classifier)
    assert everything(classifier) == before


def test_read_only_memories_and_empty_ones_are_not_tuned():
    classifier = birds()
    before = everything(classifier)
    with (
        pytest.raises(RuntimeError, match="read-only"),
        classifier.memory.read_only(),
        classifier.tunable_keys() as keys,
    ):
        keys.keys.data.mul_(-1)
    assert everything(classifier) == before
    empty = MemoryClassifier(nn.Identity(), host=False, memory=Memory(5, 4))
    with pytest.raises(ValueError, match="learn before"), empty.tunable_keys():
        pass


@pytest.mark.parametrize("reader", ["nearest", "fitted"])
@pytest.mark.parametrize("host", [True, False], ids=["host", "no host"])
def test_a_class_forgotten_after_tuning_is_as_if_never_learnt(host, reader):
    never = birds(host, reader, labels=LABELS[:4])
    classifier = tune(tune(birds(host, reader)))
    assert tuned(classifier)
    classifier.forget("takahe")
    classifier.forget_refs(6)
    assert not tuned(classifier)
    assert answers(classifier) == answers(never)
    assert torch.equal(classifier.memory.keys, never.memory.keys)


VERBS = {
    "forget": lambda one: one.forget("takahe"),
    "forget_refs": lambda one: one.forget_refs(0, 3),
    "learn": lambda one: one.learn(rows(2, 12), ["kea", "owl"], ["a", "b"]),
    "average": lambda one: one.learn(rows(2, 12), ["owl", "owl"], average=True),
    "merge": lambda one: one.merge(tune(birds(labels=[*LABELS[:6], "owl"]), ["owl"])),
    "refresh": lambda one: one.refresh([(rows(2, 13), [1, 4])]).cosine,
    "drift": lambda one: one.drift([(rows(2, 13), [1, 4])]).cosine,
}


@pytest.mark.filterwarnings("ignore:the 9 slots have no room")
@pytest.mark.parametrize("policy", ["fifo", "paper"])
@pytest.mark.parametrize("verb", VERBS)
def test_what_is_remembered_changes_as_if_nothing_had_been_tuned(verb, policy):
    one, other = (
        birds(memory=Memory(5, 9, update=FirstInFirstOut() if policy == "fifo" else None))
        for _ in range(2)
    )
    tune(one)
    assert str(VERBS[verb](one)) == str(VERBS[verb](other))
    one.untune()
    assert everything(one) == everything(other)


def narrow():
    """A classifier that has learnt features of another width."""
    classifier = MemoryClassifier(nn.Identity(), host=False, memory=Memory(3, 4))
    classifier.learn(torch.eye(3)[:1], ["moa"])
    return classifier


@pytest.mark.parametrize(
    "refused",
    [
        lambda one: one.forget("nobody"),
        lambda one: one.forget_refs("nowhere"),
        lambda one: one.learn(torch.zeros(1, 5), ["kea"]),
        lambda one: one.refresh([(rows(1), ["nowhere"])]),
        lambda one: one.merge(narrow()),
    ],
)
def test_a_refused_change_leaves_keys_tuned(refused):
    classifier = tune(birds())
    before = everything(classifier)
    with pytest.raises(ValueError):
        refused(classifier)
    assert everything(classifier) == before


@pytest.mark.parametrize("memory_size", [4, 40])
def test_learnt_keys_follow_their_slots_when_the_memory_is_resized(memory_size):
    one, other = tune(birds()), birds()
    for classifier in (one, other):
        classifier.resize(memory_size)
    assert not torch.equal(one.memory.keys, other.memory.keys)
    one.untune()
    assert everything(one) == everything(other)


def test_a_slot_written_anew_beside_the_classifier_is_not_tuned():
    classifier = tune(birds(memory=Memory(5, 7, update=FirstInFirstOut())))
    classifier.memory.write(rows(1, 20), torch.tensor([1]))
    written = classifier.memory.keys[0].clone()
    assert not classifier.memory.untuned[0].any() and classifier.memory.untuned[1].any()
    classifier.untune()
    assert torch.equal(classifier.memory.keys[0], written)


def through_file(classifier, path):
    classifier.save(path)
    return MemoryClassifier.load(path, classifier.model)


def through_state(classifier, _):
    again = birds(labels=["owl"])
    again.load_state_dict(classifier.state_dict())
    return again


@pytest.mark.parametrize(
    "copied",
    [
        through_file,
        through_state,
        lambda one, _: deepcopy(one),
        lambda one, _: pickle.loads(pickle.dumps(one)),
    ],
    ids=["file", "state_dict", "deepcopy", "pickle"],
)
def test_copies_are_tuned_and_go_back_alike(copied, tmp_path):
    classifier = tune(birds())
    again = copied(classifier, tmp_path / "birds.safetensors")
    assert everything(again) == everything(classifier) and answers(again) == answers(classifier)
    again.untune()
    assert everything(again) == everything(birds())
    assert tuned(classifier)
    # And once more, with the copy in between.
    assert everything(tune(again)) == everything(classifier)


def test_a_state_without_tuned_keys_loads_into_a_tuned_classifier():
    classifier = tune(birds())
    classifier.load_state_dict(birds().state_dict())
    assert answers(classifier) == answers(birds())
    classifier.untune()
    assert everything(classifier) == everything(birds())


@pytest.mark.parametrize("wrong", ["longer", "in an empty slot", "narrower", "integers", "nan"])
def test_a_damaged_file_or_state_is_refused(wrong, tmp_path):
    classifier, path = tune(birds()), tmp_path / "birds.safetensors"
    classifier.save(path)
    tensors, header = read_file(path)
    untuned = tensors["memory.untuned"]
    if wrong == "longer":
        untuned[0] *= 1.5
    elif wrong == "in an empty slot":
        untuned[9] = untuned[0]
    elif wrong == "nan":
        untuned[0] = torch.nan
    tensors["memory.untuned"] = {"narrower": untuned[:, :4], "integers": untuned.long()}.get(
        wrong, untuned
    ).contiguous()
    write_file(path, tensors, header)
    with pytest.raises(ValueError, match="untuned"):
        MemoryClassifier.load(path, classifier.model)
    state = classifier.state_dict()
    state["memory.untuned"] = tensors["memory.untuned"]
    plain = birds()
    before = everything(plain)
    with pytest.raises(RuntimeError, match="untuned"):
        plain.load_state_dict(state)
    assert everything(plain) == before


@pytest.mark.parametrize("wrong", [torch.ones(3, 1), torch.ones(2, 2), torch.ones(3, 2).long()])
def test_learnt_keys_are_floats_of_the_shape_of_the_keys(wrong):
    stored = {"keys": torch.eye(2)[[0, 1, 1]], "values": torch.tensor([1, 2, 3]), "untuned": wrong}
    with pytest.raises(ValueError, match="for each number of a key"):
        check_untuned(stored)


def test_a_snapshot_undoes_tuning_and_its_end():
    classifier = birds()
    before = everything(classifier)
    with classifier.snapshot():
        tune(classifier)
    assert everything(classifier) == before and not tuned(classifier)
    tune(classifier)
    before = everything(classifier)
    with classifier.snapshot():
        classifier.forget("kea")
        assert not tuned(classifier)
    assert everything(classifier) == before
    classifier.untune()
    assert everything(classifier) == everything(birds())


def test_what_is_left_out_is_asked_about_as_it_was_learnt():
    classifier = tune(birds(host=False))
    memory, reader = classifier.memory, classifier.reader
    found = reader.left_out(memory, classifier.ensembler.host_ids)
    # What is alone in its class is not left out.
    assert 0 < found.several.sum() < 7
    asked = memory(rows(7), exclude=torch.arange(7).where(found.several, EMPTY))
    torch.testing.assert_close(found.with_own.scores, asked.scores)


# Fine-tuning


def clouds(count, seed):
    """Examples of four classes: four numbers tell them apart, the others are louder and louder."""
    labels = [label for _ in range(count) for label in ("kea", "weka", "takahe", "owl")]
    corners = torch.eye(30)[:4].repeat(count, 1)
    return corners + torch.linspace(0.2, 0.8, 30) * rows(len(labels), seed, 30), labels


def learnt(reader="nearest", **options):
    memory = Memory(30, 64, update=FirstInFirstOut(), temperature=0.1, **options)
    classifier = MemoryClassifier(nn.Identity(), host=False, memory=memory, reader=reader)
    classifier.learn(*clouds(10, 0))
    return classifier


def accuracy(classifier, inputs, labels):
    right = zip(classifier.predict(inputs), labels, strict=True)
    return sum(found == label for found, label in right) / len(labels)


@pytest.mark.parametrize("reader", ["nearest", "fitted"])
def test_finetuning_says_how_well_the_classifier_answers_held_out_examples(reader):
    classifier, held_out = learnt(reader), clouds(30, 1)
    before = accuracy(classifier, *held_out)
    found = classifier.finetune(*clouds(10, 0), held_out=held_out, learning_rate=0.02)
    assert found.before == pytest.approx(before) and 0 <= found.best <= found.epochs <= 20
    assert found.after == pytest.approx(accuracy(classifier, *held_out))
    assert found.after >= found.before
    if reader == "nearest":
        assert found.after > found.before and accuracy(classifier, *clouds(99, 2)) > accuracy(
            learnt(), *clouds(99, 2)
        )
    again = learnt(reader)
    assert (
        again.finetune([clouds(10, 0)].__iter__(), held_out=held_out, learning_rate=0.02) == found
    )
    assert everything(again) == everything(classifier)


def test_without_gain_the_keys_stay_as_they_are(monkeypatch):
    classifier = learnt()
    before = everything(classifier)
    monkeypatch.setattr(finetuning.Judge, "__call__", lambda *_: finetuning.Merit(0.5, -1.0))
    found = classifier.finetune(*clouds(10, 0), patience=2)
    assert (found.epochs, found.best) == (2, 0) and found.before == found.after
    assert everything(classifier) == before


def test_the_keys_of_the_best_epoch_are_kept(monkeypatch):
    merits = iter([0.1, 0.3, 0.5, 0.5, 0.2, 0.4, 0.9])
    seen = []

    def judged(self, keys):
        seen.append(keys.detach().clone())
        return finetuning.Merit(next(merits), 0.0)

    monkeypatch.setattr(finetuning.Judge, "__call__", judged)
    classifier = learnt()
    found = classifier.finetune(*clouds(10, 0), patience=3, learning_rate=0.01)
    assert found == finetuning.Finetuned(epochs=5, best=2, before=0.1, after=0.5)
    torch.testing.assert_close(classifier.memory.keys[:40], normalize(seen[2]))


def test_an_epoch_is_steps_of_adam_over_all_examples_in_its_own_order():
    one, other = learnt(), learnt()
    one.batch_size = 7
    held_out = (clouds(30, 1)[0], clouds(30, 1)[1])
    assert one.finetune(*clouds(10, 0), held_out=held_out, epochs=1, learning_rate=0.05).best == 1
    inputs, labels = clouds(10, 0)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    with other.tunable_keys() as keys:
        optimizer = torch.optim.Adam(keys.parameters(), lr=0.05)
        for some in order.split(7):
            optimizer.zero_grad()
            keys.loss(inputs[some], [labels[row] for row in some.tolist()]).backward()
            optimizer.step()
    torch.testing.assert_close(one.memory.keys, other.memory.keys)


def test_a_fifth_of_each_class_is_held_out_and_its_own_slots_are_not_asked(monkeypatch):
    judges = []
    start = finetuning.Judge.__init__

    def watched(self, *args):
        start(self, *args)
        judges.append(self)

    monkeypatch.setattr(finetuning.Judge, "__init__", watched)
    classifier = learnt()
    classifier.finetune(*clouds(10, 0), epochs=1)
    rows_of_class = [[r for r in range(40) if r % 4 == label] for label in range(4)]
    held = clouds(10, 0)[0][sorted(own[place] for own in rows_of_class for place in (4, 9))]
    assert torch.equal(judges[0]._examples.features, held)
    gone = learnt().memory.keys[:40][judges[0]._answerer.memory.values[:40] == -1]
    assert len(gone) == 8 and ((gone @ normalize(held).T) > 1 - 1e-6).any(1).all()


def test_ctrl_c_leaves_everything_as_it_was(monkeypatch):
    classifier, calls = learnt(), []
    before = everything(classifier)
    judge = finetuning.Judge.__call__

    def interrupted(self, keys):
        calls.append(keys)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return judge(self, keys)

    monkeypatch.setattr(finetuning.Judge, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        classifier.finetune(*clouds(10, 0), learning_rate=0.05)
    assert len(calls) == 3 and everything(classifier) == before


def test_finetuning_works_without_gradients_around_it_and_draws_nothing_of_torch():
    one, other = learnt(), learnt()
    state = torch.get_rng_state()
    found = one.finetune(*clouds(10, 0), epochs=2, learning_rate=0.02)
    for around in (torch.no_grad, torch.inference_mode):
        with around():
            assert other.finetune(*clouds(10, 0), epochs=2, learning_rate=0.02) == found
        assert everything(other) == everything(one)
        other.untune()
    assert torch.equal(torch.get_rng_state(), state)


def test_each_lookup_finetunes_the_same():
    found = set()
    for lookup in LOOKUPS:
        classifier = learnt(lookup=lookup)
        classifier.finetune(*clouds(10, 0), epochs=3, learning_rate=0.02)
        found.add(str((everything(classifier), classifier.predict(clouds(20, 4)[0]))))
    assert len(found) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"epochs": 0}, "epochs"),
        ({"patience": 0}, "patience"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"held_out": (at(0), ["nobody"])}, "nobody|dimensions|features"),
        ({"held_out": iter([])}, "yields none"),
    ],
)
def test_finetuning_refuses_what_it_cannot_do(options, said):
    classifier = learnt()
    before = everything(classifier)
    with pytest.raises((ValueError, RuntimeError), match=said):
        classifier.finetune(*clouds(10, 0), **options)
    assert everything(classifier) == before


def test_finetuning_needs_examples_and_some_to_hold_out():
    classifier = learnt()
    with pytest.raises(ValueError, match="yields none"):
        classifier.finetune(iter([]))
    with pytest.raises(ValueError, match="give held_out"):
        classifier.finetune(*clouds(4, 0))
