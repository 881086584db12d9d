"""The reader's logits and the blend in C++: what torch gives, on every instruction set."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from rarememory import EMPTY, Memory, MemoryClassifier, native, wrap
from rarememory.classifier import blend
from rarememory.classifier.blend import (
    EXCLUDED,
    FOUND,
    BlendWeights,
    Classes,
    Evidence,
)
from rarememory.classifier.discriminant import Discriminant, fit_discriminant
from rarememory.classifier.ensembler import Ensembler
from rarememory.classifier.few_queries import FewQueries
from rarememory.classifier.fitted_reader import FittedReader
from rarememory.classifier.label_book import LabelBook

pytestmark = pytest.mark.usefixtures("instruction_set")


def evidence(seed: int, batch: int, k: int, n_host: int, one_row: bool) -> tuple[Evidence, Classes]:
    """Neighbours of classes 0 to 9, some of none, beside a host of some of these classes."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(EMPTY, 10, (1 if one_row else batch, k), generator=generator)
    scores = torch.randn(batch, k, generator=generator)
    scores[torch.rand(batch, k, generator=generator) < 0.1] = -torch.inf
    host_ids = torch.randperm(10, generator=generator)[:n_host]
    logits = 9 * torch.randn(batch, n_host, generator=generator) if n_host else None
    if logits is not None and seed % 3 == 0:
        host_ids[0], logits[:, 0] = EMPTY, EXCLUDED
    ids = torch.cat([values.flatten(), host_ids]).unique()
    found = Evidence(scores, values.expand(batch, k), logits, host_score=0.7)
    if seed % 2:
        found = found._replace(host_terms=9 * torch.randn(batch, generator=generator))
    return found, Classes(ids[ids != EMPTY], host_ids)


def in_doubles(found: Evidence, weights: BlendWeights) -> tuple[Evidence, BlendWeights]:
    """The same for torch: the library reads floats."""
    logits, terms = (None if one is None else one.double() for one in (found.logits, found[-1]))
    wide = found._replace(scores=found.scores.double(), logits=logits, host_terms=terms)
    return wide, BlendWeights(*(weight.double() for weight in weights))


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**20),
    batch=st.integers(0, 5),
    k=st.integers(0, 12),
    n_host=st.integers(0, 8),
    one_row=st.booleans(),
    host_score=st.sampled_from([FOUND, 0.4]),
)
def test_the_blend_is_that_of_torch(seed, batch, k, n_host, one_row, host_score):
    found, classes = evidence(seed, batch, k, n_host, one_row)
    weights = BlendWeights(*torch.tensor([0.1, host_score, 1.3, 0.2]))
    z, best = blend.likeliest(found, weights, classes)
    assert z.dtype == torch.float32 and torch.equal(z, blend.class_logits(found, weights, classes))
    wide, _ = blend.likeliest(*in_doubles(found, weights), classes)
    assert torch.allclose(z.double(), wide, rtol=1e-5, atol=1e-4)
    highest = z.max(1)
    assert torch.equal(best, highest.indices.where(highest.values > EXCLUDED / 2, len(classes.ids)))


def test_of_equal_classes_the_first_is_likeliest():
    found = Evidence(torch.tensor([[0.5, 0.5]]), torch.tensor([[7, 3]]), None)
    classes = Classes(torch.tensor([3, 7]), torch.arange(0))
    weights = BlendWeights(*torch.tensor([0.1, 0.5, 1.0, 0.0]))
    assert blend.likeliest(found, weights, classes)[1].tolist() == [0]


@pytest.mark.parametrize("bad", ["score", "logit"])
def test_what_is_not_a_number_is_evidence_for_nothing(bad):
    found, classes = evidence(1, 3, 6, 4, one_row=True)
    assert found.logits is not None
    part = found.scores if bad == "score" else found.logits
    part[1, 0] = torch.nan
    # A number of the same class that comes later does not hide it.
    values = found.values.clone()
    values[:, :2] = classes.ids[0]
    found.scores[:, 1] = 0.3
    found = found._replace(values=values)
    weights = BlendWeights(*torch.tensor([0.1, 0.5, 1.0, 0.0]))
    mine = blend.likeliest(found, weights, classes)
    theirs = blend.likeliest(*in_doubles(found, weights), classes)
    assert torch.equal(mine[1], theirs[1])
    assert torch.allclose(mine[0].double(), theirs[0], rtol=1e-5, atol=1e-4, equal_nan=True)


def test_logits_of_other_rows_or_classes_are_left_to_torch():
    found, classes = evidence(1, 3, 6, 4, one_row=True)
    assert found.logits is not None
    weights = BlendWeights(*torch.tensor([0.1, 0.5, 1.0, 0.0]))
    assert blend._natively(found, weights, classes) is not None
    for logits in (found.logits[:2], found.logits[:, :3].contiguous(), found.logits.long()):
        assert blend._natively(found._replace(logits=logits), weights, classes) is None


def test_a_gradient_of_the_blend_is_torchs():
    found, classes = evidence(1, 3, 6, 4, one_row=False)
    weights = torch.tensor([0.1, 0.5, 1.0, 0.0], requires_grad=True)
    blend.class_logits(found, BlendWeights(*weights), classes)[:, 0].sum().backward()
    assert weights.grad is not None and weights.grad.abs().sum() > 0


def fitted(classes: int, shots: int, dim: int) -> Discriminant:
    torch.manual_seed(dim)
    means = normalize(torch.randn(classes, dim), dim=1).repeat_interleave(shots, 0)
    keys = normalize(means + torch.randn(classes * shots, dim) / dim**0.5, dim=1)
    return fit_discriminant(keys, torch.arange(classes).repeat_interleave(shots))


@pytest.mark.parametrize(
    ("classes", "shots", "dim"), [(2, 1, 3), (5, 4, 33), (7, 20, 16), (3, 2, 100)]
)
def test_few_queries_are_read_as_many_are(classes, shots, dim):
    found = fitted(classes, shots, dim)
    queries = 5 * torch.randn(40, dim)
    many = found.logits(queries)
    for row in range(0, 40, 4):
        few = found.logits_of_few(queries[row : row + 1 + row % 4])
        assert few is not None
        assert torch.allclose(few, many[row : row + len(few)], rtol=1e-5, atol=1e-4)


def test_what_is_not_read_in_one_call_is_left_to_torch():
    found = fitted(5, 4, 8)
    for bad in (0.0, torch.nan, torch.inf, 1e-30, 1e30):
        assert found.logits_of_few(torch.full((1, 8), bad)) is None
    queries = torch.randn(5, 8)
    wrong = queries, queries[:1].double(), queries[:1, :7], queries[:, :1].T.expand(8, 5).T[:1]
    assert [found.logits_of_few(one) for one in wrong] == [None] * 4
    assert found.logits_of_few(queries[:0]) is not None
    few = queries[:1].clone().requires_grad_()
    assert found.logits_of_few(few) is None and found.logits(few).requires_grad
    with torch.no_grad():
        assert found.logits_of_few(few) is not None


def in_two_steps(classifier: MemoryClassifier, queries: Tensor) -> list[object]:
    """The answers to few queries by what the reader says and what the ensembler makes of it."""
    memory, ensembler, book = classifier.memory, classifier.ensembler, classifier._book
    ids = book.present(memory.values, ensembler.host_ids)
    classes, answers = Classes(ids, ensembler.host_ids), []
    for few in queries.split(4):
        evidence = classifier.reader.read(memory, ensembler, *classifier.extractor(few))
        z, best = blend.likeliest(evidence, ensembler.blend_weights, classes)
        assert torch.equal(z[:, :-1].argmax(1), best)
        answers += [book.label(number) for number in ids[best].tolist()]
    return answers


def refuse(*_: object) -> None:
    raise AssertionError("not in one call")


@settings(deadline=None, max_examples=12)
@given(
    seed=st.integers(0, 2**20),
    n_host=st.sampled_from([0, 2, 6]),
    shots=st.integers(1, 3),
    host_bias=st.sampled_from([0.0, 2.0, -2.0]),
)
@torch.no_grad()
def test_few_queries_are_decided_in_one_call(seed, n_host, shots, host_bias):
    torch.manual_seed(seed)
    model = torch.nn.Linear(6, n_host) if n_host else torch.nn.Identity()
    classifier = wrap(model, host=n_host > 0, memory=Memory(6, 64))
    learnt = torch.randn(4 * shots, 6)
    classifier.learn(learnt, ["kea", "weka", 0 if seed % 2 else "7", 1] * shots)
    classifier.ensembler.weights[3] = host_bias
    queries = learnt.repeat(3, 1) + torch.randn(12 * shots, 6)
    expected = in_two_steps(classifier, queries)
    assert classifier.predict(queries[0]) == expected[0]
    fitted = classifier.reader._of(classifier.memory, classifier.ensembler.host_ids)
    with pytest.MonkeyPatch.context() as patch:
        if isinstance(fitted.discriminant, Discriminant):
            patch.setattr(Ensembler, "decide", refuse)
            patch.setattr(LabelBook, "present", refuse)
        assert [classifier.predict(query) for query in queries] == expected
        assert classifier.predict(queries[:4]) == expected[:4]
    # Weights are read at each question, also where torch does not count their change.
    classifier.ensembler.weights.data[3] = 30.0
    answers = [classifier.predict(query) for query in queries]
    assert answers == in_two_steps(classifier, queries)
    assert not n_host or {*answers} <= {*range(n_host)}


@torch.no_grad()
def test_what_one_call_cannot_decide_is_decided_in_two_steps():
    torch.manual_seed(0)
    classifier = wrap(torch.nn.Linear(6, 5), memory=Memory(6, 64))
    learnt = torch.randn(40, 6)
    classifier.learn(learnt, ["kea", "weka", 0, 1] * 10)
    answers = [classifier.predict(query) for query in learnt]
    # More rows than are few, and a threshold that not all reach.
    assert {*answers} >= {"kea", "weka", 1} and classifier.predict(learnt) == answers
    familiar = classifier.familiarity(learnt)
    classifier.ensembler.threshold.copy_(familiar.median())
    known = [classifier.predict(query) != classifier.unknown for query in learnt]
    assert known == (familiar > familiar.median()).tolist()
    classifier.ensembler.threshold.fill_(-torch.inf)
    classifier.forget(1)
    answers = [classifier.predict(query) for query in learnt]
    assert 1 not in answers and answers == in_two_steps(classifier, learnt)


def test_one_call_decides_about_few_rows_of_floats_only():
    classes = Classes(torch.tensor([0, 3, 7]), torch.tensor([3, 0]))
    found = fit_discriminant(torch.eye(4), torch.tensor([3, 3, 7, 7]))
    few, weights = FewQueries(found, torch.zeros(2), classes, 0.8), torch.tensor([1.0, 9.0, 1, 0])
    features, outputs = torch.eye(4)[:1], torch.ones(1, 2)
    assert few.can_read(features, outputs, weights) and few.can_read(features, None, weights)
    assert few.decide(features, outputs, weights) in ([0], [3])
    strided, other_rows, flat = torch.ones(1, 4)[:, ::2], torch.ones(2, 2), torch.ones(2)
    for bad in (outputs.double(), outputs.long(), outputs.bool(), strided, other_rows, flat):
        assert not few.can_read(features, bad, weights)
    for bad in (features.double(), features.long(), features.repeat(5, 1), features[0]):
        assert not few.can_read(bad, outputs, weights)
    assert not few.can_read(features, outputs, weights.double())
    for bad in (None, outputs[:, :1].contiguous()):
        assert few.decide(features, bad, weights) is None
    for bad in (features[:, :3].contiguous(), 0 * features):
        assert few.decide(bad, torch.ones(len(bad), 2), weights) is None


class Votes(torch.nn.Linear):
    """A host whose logits are of another dtype, or of another shape."""

    def __init__(self, form: str) -> None:
        super().__init__(6, 5)
        self.form = form

    def forward(self, input: Tensor) -> Tensor:
        logits = super().forward(input)
        if self.form == "map":
            return logits.view(-1, 5, 1, 1).expand(-1, 5, 2, 2).contiguous()
        return (20 * logits).long() if self.form == "int64" else logits > 0


@pytest.mark.parametrize("form", ["int64", "bool"])
def test_logits_that_are_no_floats_are_read_as_in_a_batch(form):
    torch.manual_seed(0)
    classifier = wrap(torch.nn.Sequential(torch.nn.Identity(), Votes(form)), at="1")
    classifier.learn(torch.randn(20, 6), ["kea", "weka", "moa", 1] * 5)
    queries = torch.randn(30, 6)
    assert [classifier.predict(query) for query in queries] == classifier.predict(queries)


def test_logits_that_are_no_rows_are_refused_of_one_example_too():
    classifier = wrap(torch.nn.Sequential(torch.nn.Identity(), Votes("map")), at="1")
    classifier.learn(torch.randn(20, 6), ["kea", "weka", "moa", "kiwi"] * 5)
    for count in (1, 3, 6):
        with pytest.raises(ValueError, match="the model answers with"):
            classifier.predict(torch.randn(count, 6))


@torch.no_grad()
def test_a_change_of_the_hosts_classes_that_torch_does_not_count_is_seen_at_once():
    torch.manual_seed(0)
    classifier = wrap(torch.nn.Linear(6, 5), memory=Memory(6, 64), host_score=40.0)
    classifier.learn(torch.randn(40, 6), ["kea", "weka"] * 20)
    queries = torch.randn(40, 6)
    gone = next(label for label in map(classifier.predict, queries) if isinstance(label, int))
    classifier.ensembler.host_ids.data[gone] = EMPTY
    assert gone not in [classifier.predict(query) for query in queries]


def test_a_readers_own_evidence_is_asked_for_of_one_example_too():
    class Other(FittedReader):
        def evidence(self, *given: object) -> Evidence:
            found = super().evidence(*given)
            return found._replace(scores=-found.scores)

    torch.manual_seed(0)
    classifier = wrap(torch.nn.Linear(6, 2), memory=Memory(6, 64))
    classifier.learn(torch.randn(40, 6), ["kea", "weka", "moa", "kiwi"] * 10)
    classifier.reader = Other()
    queries = torch.randn(20, 6)
    assert [classifier.predict(query) for query in queries] == classifier.predict(queries)


def test_features_in_columns_are_returned_in_rows():
    class Turned(torch.nn.Module):
        def forward(self, inputs):
            return inputs.T.contiguous().T

    classifier = wrap(Turned(), host=False, memory=Memory(6, 64))
    features, _ = classifier.extractor.extract(torch.randn(3, 6), 8, torch.zeros(1))
    assert features.is_contiguous()


@pytest.mark.parametrize("labels", [["kea", "weka", 7, 8, 9], ["kea", 0, 1, "weka", "7"]])
@pytest.mark.parametrize("projected", [False, True])
def test_a_classifier_answers_alike_with_and_without_the_library(projected, labels, monkeypatch):
    torch.manual_seed(0)
    memory = Memory(12, 64, projection=projected)
    # Some of the labels are classes of the model too.
    classifier = wrap(torch.nn.Linear(12, 6), memory=memory)
    classifier.learn(torch.randn(20, 12), labels * 4)
    queries = torch.randn(50, 12)
    one_by_one = [classifier.predict(query) for query in queries]
    assert len({*one_by_one}) > 2
    assert classifier.predict(queries) == one_by_one
    mine = classifier.predict_proba(queries)
    few = classifier.predict_proba(queries[:4])
    assert torch.allclose(few.values, mine.values[:4], atol=1e-5)
    monkeypatch.setattr(native, "_made", lambda: "masked")
    assert classifier.predict(queries) == one_by_one
    assert torch.allclose(mine.values, classifier.predict_proba(queries).values, atol=1e-5)
