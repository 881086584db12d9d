"""Memory Networks against the loops of tests/reader_oracle.py, and what each component does."""

import pytest
import torch

from rarememory.data.babi import StoryQuestion
from rarememory.readers.features import InputFeatures
from rarememory.readers.memnn import MemNN
from rarememory.readers.memnn_training import SupportedRecipe, SupportedTraining, supported_error
from rarememory.readers.response import SentenceResponse, WordResponse, ranking_loss
from rarememory.readers.slots import ClusterHash, StorySlots, k_means, word_hash
from rarememory.readers.supporting import ALWAYS, NONE, SupportScorer
from tests import reader_oracle as oracle

FEATURES = 6
MARGIN = 0.3


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def story():
    """Bags of five sentences and two questions, and two stories with the latest first."""
    bags = (drawn(8, FEATURES) > 0).float()
    stories, lengths = torch.tensor([[1, 2, 3, 4], [5, 1, 0, 0]]), torch.tensor([4, 2])
    return bags, bags[6:], stories, lengths


def vectors(tensor):
    return [list(row) for row in tensor]


def loops(scorer):
    """The weights of a scorer as the oracle takes them, in a copy whose gradients it can have."""
    weights = {
        name: one.detach().double().requires_grad_() for name, one in scorer.named_parameters()
    }
    return oracle.Support(**weights, nonlinear=scorer.nonlinear, adaptive=scorer.adaptive)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("by_hop", [False, True])
@pytest.mark.parametrize("nonlinear", [False, True])
def test_the_ranking_loss_of_the_support_is_that_of_the_loops_with_gradients(
    story, nonlinear, by_hop, adaptive
):
    bags, questions, stories, lengths = story
    options = {"nonlinear": nonlinear, "by_hop": by_hop, "adaptive": adaptive, "dim": 3}
    scorer = SupportScorer(FEATURES, hops=2, **options)
    for parameter in scorer.parameters():
        parameter.data *= 10
    right = torch.tensor([[2, 0], [1, NONE]])
    found = scorer.loss(bags, questions, stories, lengths, right, MARGIN)
    found.sum().backward()

    weights = loops(scorer)
    for row, places in enumerate(([2, 0], [1])):
        told = vectors(bags[stories[row, : lengths[row]]].double())
        asked = list(questions[row].double())
        expected = oracle.support_loss(weights, asked, told, places, 2, MARGIN)
        torch.testing.assert_close(found[row].double(), expected, rtol=1e-4, atol=1e-4)
        expected.backward()
    for name, mine in scorer.named_parameters():
        ours = getattr(weights, name).grad
        ours = torch.zeros_like(mine) if ours is None else ours
        mine = torch.zeros_like(mine) if mine.grad is None else mine.grad
        torch.testing.assert_close(mine.double(), ours.double(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("hops", [1, 2, 3])
@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("nonlinear", [False, True])
def test_the_support_is_that_of_the_loops_hop_after_hop(hops, adaptive, nonlinear):
    bags = (drawn(40, FEATURES, seed=4) > 0).float()
    stories = torch.arange(30).view(6, 5) + 1
    lengths = torch.tensor([5, 4, 5, 3, 2, 5])
    numbers = set()
    for seed in range(4):
        scorer = SupportScorer(
            FEATURES, hops, adaptive=adaptive, nonlinear=nonlinear, by_hop=True, dim=3, seed=seed
        )
        for parameter in scorer.parameters():
            parameter.data *= 10
        found = scorer.support(bags, bags[32:38], stories, lengths)
        weights = loops(scorer)
        for row, length in enumerate(lengths.tolist()):
            told = vectors(bags[stories[row, :length]].double())
            expected = oracle.supported(weights, list(bags[32 + row].double()), told, hops)
            assert [one for one in found[row].tolist() if one != NONE] == expected
            numbers.add(len(expected))
    # Where a model may, it ends some supports early; where it may not, only the story ends them.
    assert (1 in numbers) == (adaptive or hops == 1)
    assert hops in numbers


@pytest.mark.parametrize("by_hop", [False, True])
@pytest.mark.parametrize("nonlinear", [False, True])
def test_the_scores_of_answers_are_those_of_the_loops_with_gradients(story, nonlinear, by_hop):
    bags, questions, stories, _ = story
    response = WordResponse(FEATURES, 4, hops=2, dim=3, nonlinear=nonlinear, by_hop=by_hop)
    for parameter in response.parameters():
        parameter.data *= 10
    found = response(bags, questions, stories, torch.tensor([[2, 0], [1, NONE]]))
    found.square().sum().backward()

    names = ("question", "found", "count", "answer")
    tables = tuple(getattr(response, name).detach().double().requires_grad_() for name in names)
    for row, places in enumerate(([2, 0], [1])):
        told = vectors(bags[stories[row, places]].double())
        expected = oracle.response(list(questions[row].double()), told, tables, nonlinear)
        torch.testing.assert_close(found[row].double(), torch.stack(expected), rtol=1e-4, atol=1e-4)
        sum(one**2 for one in expected).backward()
    for name, ours in zip(names, tables, strict=True):
        mine = getattr(response, name).grad.double()
        torch.testing.assert_close(mine, ours.grad, rtol=1e-3, atol=1e-3)


def test_the_winner_of_the_comparisons_is_kept():
    scorer = SupportScorer(FEATURES, dim=3)
    x = drawn(30, 3, seed=1)
    values = drawn(30, 5, 3, seed=2)
    scorer.time.data = drawn(3, 3, seed=3)
    scores = torch.einsum("bd,bmd->bm", x, values)
    x_ago = torch.tensor([ALWAYS, 0, 2] * 10)
    free = torch.ones(30, 5, dtype=torch.bool)
    found = scorer.winner(x, x_ago, scores, free)
    for row in range(30):

        def beats(slot, keeper, row=row):
            return oracle.preferred(
                list(x[row]), list(values[row, slot]), list(values[row, keeper]),
                vectors(scorer.time), int(x_ago[row]), slot, keeper,
            ) > 0  # fmt: skip

        assert oracle.winner_keeps(5, beats) == found[row]
    # With the features of time it is not what argmax finds.
    assert (found != scores.argmax(1)).any()


def test_the_later_of_two_equal_sentences_wins_unless_time_says_otherwise():
    scorer = SupportScorer(FEATURES, dim=2)
    scorer.time.data.zero_()
    scores = torch.ones(1, 3)
    one = torch.ones(1, 2)
    free = torch.ones(1, 3, dtype=torch.bool)
    assert scorer.winner(one, torch.tensor([ALWAYS]), scores, free).tolist() == [0]
    # y is older than y': a positive weight prefers the oldest.
    scorer.time.data[2] = 1.0
    assert scorer.winner(one, torch.tensor([ALWAYS]), scores, free).tolist() == [2]


def test_a_sentence_is_found_once_and_only_among_the_candidates(story):
    bags, questions, stories, lengths = story
    scorer = SupportScorer(FEATURES, hops=4, adaptive=False)
    support = scorer.support(bags, questions, stories, lengths)
    assert sorted(support[0].tolist()) == [0, 1, 2, 3]
    assert sorted(support[1].tolist()) == [NONE, NONE, 0, 1]
    allowed = torch.tensor([[False, True, False, True], [True, False, False, False]])
    allowed = allowed.unsqueeze(1).expand(2, 4, 4)
    support = scorer.support(bags, questions, stories, lengths, allowed)
    assert sorted(support[0].tolist()) == [NONE, NONE, 1, 3]


def test_the_loss_of_an_answer_is_that_of_the_loops_with_gradients():
    scores = drawn(4, 5).requires_grad_()
    right = torch.tensor([0, 2, 4, 1])
    found = ranking_loss(scores, right, MARGIN)
    found.sum().backward()
    twin = scores.detach().double().requires_grad_()
    one = [torch.ones((), dtype=torch.float64)]
    total = sum(
        oracle.answer_loss(one, [[score] for score in twin[row]], int(right[row]), MARGIN)
        for row in range(4)
    )
    total.backward()
    torch.testing.assert_close(found.sum().double(), total)
    torch.testing.assert_close(scores.grad.double(), twin.grad)


def test_question_memory_and_candidate_have_features_of_their_own(story):
    """The three parts of the feature space: a change of one table leaves the others' products."""
    bags, questions, stories, _ = story
    response = WordResponse(FEATURES, 3, hops=2, dim=4)
    support = torch.tensor([[0, 2], [1, NONE]])
    before = response.embedded(bags, questions, stories, support)
    response.question.data += 1
    after = response.embedded(bags, questions, stories, support)
    moved = questions.sum(1, keepdim=True).expand(-1, 4)
    torch.testing.assert_close(after - before, moved)
    nothing = torch.full((2, 2), NONE)
    alone = response.embedded(bags, questions, stories, nothing)
    expected = questions @ response.question + response.count[0]
    torch.testing.assert_close(alone, expected)


QUESTIONS = [
    StoryQuestion(
        (f"{a} took the {thing}.", f"{b} sat down.", f"{a} went to the {place}."),
        f"Where is the {thing}?",
        place,
        (0, 2),
    )
    for a, b in (("Ann", "Bob"), ("Bob", "Cid"), ("Cid", "Ann"))
    for thing in ("apple", "ball", "book")
    for place in ("hall", "park", "shop")
]


@pytest.mark.parametrize(
    "options",
    [{}, {"nonlinear": True, "n_grams": 3, "by_hop": True}, {"contexts": True}],
    ids=["plain", "best", "contexts"],
)
def test_support_and_answer_are_learnt(options):
    reader = MemNN.of(QUESTIONS, **options)
    SupportedTraining(reader, QUESTIONS, SupportedRecipe(epochs=40, batch=9)).train()
    assert supported_error(reader, QUESTIONS) == (0.0, 0.0)
    slots = StorySlots(10, hash_=word_hash)
    for sentence in ("Cid took the ball.", "Ann sat down.", "Cid went to the park."):
        slots.write(sentence)
    answered = reader.answer(slots, "Where is the ball?")
    assert answered.answer == "park"


def test_an_unseen_word_is_read_by_its_context_or_refused():
    known = InputFeatures(["Bob took the apple.", "Bob went to the shop."], contexts=True)
    row = known.of(["Frodo took the apple."])[0]
    names = {name for name, place in known._rows.items() if row[place]}
    assert names == {"took", "the", "apple", ">took"}
    with pytest.raises(ValueError, match="the word 'frodo' was not in training"):
        InputFeatures(["Bob sat."]).of(["Frodo sat."])


def test_a_story_of_a_new_name_is_understood_if_names_were_hidden_in_training():
    reader = MemNN.of(QUESTIONS, contexts=True)
    recipe = SupportedRecipe(batch=9, hidden=0.3)
    training = SupportedTraining(reader, QUESTIONS, recipe)
    hidden = training._with_hidden_words().bags
    assert 0.5 < hidden.sum() / training.numbers.bags.sum() != 1
    training.train()
    slots = StorySlots(10)
    for sentence in ("Frodo took the ball.", "Bob sat down.", "Frodo went to the park."):
        slots.write(sentence)
    assert reader.answer(slots, "Where is the ball?").answer == "park"


def test_n_grams_are_counted():
    features = InputFeatures(["a b a b"], n_grams=2)
    row = features.of(["a b a b"])[0]
    counts = {name: int(row[place]) for name, place in features._rows.items()}
    assert counts == {"a": 2, "b": 2, "a b": 2, "b a": 1}


def test_negatives_are_sampled_from_the_story_only():
    scorer_loss = []

    def told(*arguments):
        scorer_loss.append(arguments[-1])
        return original(*arguments)

    reader = MemNN.of(QUESTIONS)
    original = reader.output.loss
    reader.output.loss = told
    training = SupportedTraining(reader, QUESTIONS, SupportedRecipe(negatives=1, batch=27))
    training.loss(training.numbers)
    (sampled,) = scorer_loss
    assert 0.2 < sampled.float().mean() < 0.5


def test_the_oldest_sentence_is_forgotten_and_its_bucket_with_it():
    slots = StorySlots(2, hash_=word_hash)
    told = ("Dan went.", "Eve sat.", "Ann sat.", "Bob left.", "Cid ran.")
    assert [slots.write(text) for text in told] == [0, 1, 0, 1, 0]
    assert slots.story == ("Bob left.", "Cid ran.")
    assert slots.candidates("Who left?") == ("Bob left.",)
    # Nobody shares a bucket with it any more, so every sentence is looked at.
    assert slots.candidates("sat") == slots.story


def test_what_is_forgotten_can_be_chosen():
    slots = StorySlots(2, forget=lambda slots: 1)
    for text in ("Ann sat.", "Bob left.", "Cid ran."):
        slots.write(text)
    assert slots.story == ("Ann sat.", "Cid ran.")


CHAIN = ("Ann took ball.", "Bob sat down.", "Ann went park.")


def test_a_later_hop_looks_at_what_shares_a_bucket_with_what_was_found():
    """The question names the ball only; who took it is in the two sentences of the answer."""
    questions = [
        StoryQuestion(
            (f"{a} took {thing}.", f"{b} sat down.", f"{a} went {place}."),
            f"Where {thing}?",
            place,
            (0, 2),
        )
        for a, b in (("Ann", "Bob"), ("Bob", "Ann"))
        for thing in ("apple", "ball")
        for place in ("hall", "park")
    ]
    reader = MemNN.of(questions)
    SupportedTraining(reader, questions, SupportedRecipe(batch=4)).train()
    assert supported_error(reader, questions) == (0.0, 0.0)
    slots = StorySlots(10, hash_=word_hash)
    for sentence in CHAIN:
        slots.write(sentence)
    assert slots.candidates("Where ball?") == CHAIN[:1]
    assert slots.reached("Where ball?", CHAIN[0]) == [0, 2]
    assert reader.answer(slots, "Where ball?") == ("park", (CHAIN[0], CHAIN[2]))


def test_the_first_hop_finds_only_what_shares_a_bucket_with_the_question():
    reader = MemNN.of(QUESTIONS, hops=2)
    with torch.no_grad():
        for seed, parameter in enumerate(reader.parameters()):
            parameter.copy_(drawn(*parameter.shape, seed=seed))
    reader.output.adaptive = False
    slots = StorySlots(10, hash_=lambda sentence: frozenset(sentence.split()) - {"the", "to"})
    first, other, beside = ("Bob took the ball.", "Ann sat down.", "Ann took the apple.")
    for sentence in (first, other, beside):
        slots.write(sentence)
    assert slots.reached("Where is Bob ?") == [0]
    assert slots.reached("Where is Bob ?", first) == [0, 2]
    for seed in range(10):
        assert reader.answer(slots, "Where is Bob ?").support == (first, beside)
        with torch.no_grad():
            candidate = reader.output.candidate
            candidate.copy_(drawn(*candidate.shape, seed=seed))


def test_words_are_clustered_by_u_o():
    reader = MemNN.of(QUESTIONS)
    with torch.no_grad():
        reader.output.candidate.zero_()
        for word in ("hall", "park", "shop"):
            reader.output.candidate[reader.features.row_of(word)] = 9.0
    hash_ = reader.clusters(2)
    assert hash_("hall") == hash_("park shop") != hash_("Ann went to the")
    with pytest.raises(ValueError, match="the word 'moon' was not in training"):
        reader.features.row_of("moon")


def test_clusters_of_words_are_buckets():
    points = torch.tensor([[0.0, 0.0], [0.1, 0.0], [5.0, 5.0], [5.0, 5.1]])
    cluster = k_means(points, 2)
    assert cluster[0] == cluster[1] != cluster[2] == cluster[3]
    hash_ = ClusterHash(["ann", "bob", "sat", "ran"], points, 2)
    slots = StorySlots(9, hash_=hash_)
    slots.write("Ann Bob.")
    slots.write("ran.")
    assert slots.candidates("sat") == ("ran.",)
    with pytest.raises(ValueError, match="5 clusters are more than the 4 words"):
        ClusterHash(["ann", "bob", "sat", "ran"], points, 5)


def test_a_sentence_is_said_word_by_word():
    """An RNN learns to say the place and a word more, from the support."""
    reader = MemNN.of(QUESTIONS)
    words = ["", *sorted({one.answer for one in QUESTIONS}), "now"]
    numbers = reader.encoded(QUESTIONS)
    targets = torch.tensor([[words.index(one.answer), words.index("now"), 0] for one in QUESTIONS])
    response = SentenceResponse(len(reader.features), len(words), dim=16)
    optimizer = torch.optim.Adam(response.parameters(), 0.02)
    asked = numbers.bags[numbers.questions]
    for _ in range(60):
        optimizer.zero_grad()
        logits = response(numbers.bags, asked, numbers.stories, numbers.support, targets)
        response.loss(logits, targets).backward()
        optimizer.step()
    said = response.said(numbers.bags, asked, numbers.stories, numbers.support, longest=8)
    assert torch.equal(said[:, :3], targets)
    # Whatever the network would say on.
    assert (said[:, 3:] == 0).all()


def test_the_end_of_a_sentence_is_learnt_and_what_fills_it_up_is_not():
    response = SentenceResponse(FEATURES, 4, dim=3)
    logits, words = drawn(2, 4, 4), torch.tensor([[2, 0, 0, 0], [1, 3, 2, 0]])
    right = [(0, 0), (0, 1), *((1, place) for place in range(4))]
    losses = [-logits[row, place].log_softmax(0)[words[row, place]] for row, place in right]
    torch.testing.assert_close(response.loss(logits, words), torch.stack(losses).mean())


def test_a_resumed_training_ends_as_one_that_was_not_interrupted(tmp_path):
    recipe = SupportedRecipe(epochs=4, batch=9, negatives=2)

    def stop(epoch):
        if epoch == 2:
            raise KeyboardInterrupt

    whole = MemNN.of(QUESTIONS)
    SupportedTraining(whole, QUESTIONS, recipe).train()
    with pytest.raises(KeyboardInterrupt):
        SupportedTraining(MemNN.of(QUESTIONS), QUESTIONS, recipe).train(tmp_path / "run.pt", stop)
    resumed = MemNN.of(QUESTIONS)
    SupportedTraining(resumed, QUESTIONS, recipe).train(tmp_path / "run.pt")
    for name, tensor in whole.state_dict().items():
        # The interruption came before the second epoch was saved, and that is trained anew.
        assert torch.equal(resumed.state_dict()[name], tensor), name


def test_a_damaged_checkpoint_and_one_of_another_reader_are_refused(tmp_path):
    recipe = SupportedRecipe(epochs=1)
    SupportedTraining(MemNN.of(QUESTIONS), QUESTIONS, recipe).train(tmp_path / "run.pt")
    with pytest.raises(ValueError, match="use the options of that one, or remove the file"):
        SupportedTraining(MemNN.of(QUESTIONS, n_grams=2), QUESTIONS, recipe).train(
            tmp_path / "run.pt"
        )
    (tmp_path / "run.pt").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"run.pt is no checkpoint: remove the file"):
        SupportedTraining(MemNN.of(QUESTIONS), QUESTIONS, recipe).train(tmp_path / "run.pt")


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        (QUESTIONS[0]._replace(answer="moon"), "the answer of question 1 is not one of the"),
        (QUESTIONS[0]._replace(support=()), "question 1 has no supporting sentence"),
        (QUESTIONS[0]._replace(story=(), support=(0,)), "the story of question 1 is empty"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(question, sentence):
    with pytest.raises(ValueError, match=sentence):
        SupportedTraining(MemNN.of(QUESTIONS), [question])


def test_what_has_no_word_is_refused():
    reader = MemNN.of(QUESTIONS)
    with pytest.raises(ValueError, match=r"there is no word in '\?'"):
        reader.encoded([QUESTIONS[0]._replace(question="?")])


def test_an_empty_memory_is_refused():
    with pytest.raises(ValueError, match="the story of question 1 is empty"):
        MemNN.of(QUESTIONS).answer(StorySlots(4), "Where is the ball?")
