"""The pictures show the numbers that they are drawn from."""

import pytest
import torch

from rarememory import FirstInFirstOut, Memory
from rarememory.evaluation import plot_ages, plot_confusions, plot_embedding
from rarememory.evaluation.plots import confusion_counts

pytest.importorskip("matplotlib")


def memory(key_dim: int = 5) -> Memory:
    found = Memory(key_dim, 20, update=FirstInFirstOut())
    for label in (7, 7, 9, 9, 9):
        found.write(torch.randn(1, key_dim), torch.tensor([label]))
    return found


def test_the_plane_is_that_of_the_main_components():
    drawn = memory()
    ax = plot_embedding(drawn, {7: "kea", 9: "weka"})
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["kea", "weka"]
    parts = [torch.as_tensor(part.get_offsets().data) for part in ax.collections]
    assert [len(part) for part in parts] == [2, 3]
    points, keys = torch.cat(parts), drawn.keys[:5].double()
    # Variances of the components are the greatest eigenvalues of the covariance.
    spread = torch.linalg.eigvalsh(torch.cov(keys.T)).flip(0)[:2]
    torch.testing.assert_close(points.var(0), spread)
    assert len(plot_embedding(memory(1)).collections) == 2
    with pytest.raises(ValueError, match="needs 2 of them at least, and there are 0"):
        plot_embedding(Memory(3, 4))


@pytest.mark.parametrize("classes", [1, 10, 11, 20, 21, 200])
def test_every_class_has_a_colour_of_its_own_and_few_have_a_legend(classes):
    drawn = Memory(5, 500, update=FirstInFirstOut())
    drawn.write(torch.randn(2 * classes, 5), torch.arange(2 * classes) // 2)
    ax = plot_embedding(drawn, {0: "kea"})
    assert len({tuple(part.get_facecolor()[0]) for part in ax.collections}) == classes
    assert [part.get_label() for part in ax.collections[:2]] == ["kea", "1"][:classes]
    assert (ax.get_legend() is None) == (classes > 20)
    plot_ages(drawn).figure.canvas.draw()
    labels = torch.randint(0, classes, (300,)).tolist()
    drawn = plot_confusions(labels, labels)
    drawn.figure.canvas.draw()
    assert (len(drawn.get_xticklabels()) == len({*labels})) == (classes <= 20)


@pytest.mark.parametrize(("writes", "bins"), [(5, 5), (5, 30), (7, 3), (60, 7), (1, 4)])
def test_ages_are_counted_in_bars_of_as_many_ages(writes, bins):
    drawn = Memory(5, 100, update=FirstInFirstOut())
    for label in range(writes):
        drawn.write(torch.randn(1, 5), torch.tensor([label]))
    bars = [int(bar.get_height()) for bar in plot_ages(drawn, bins=bins).patches]
    assert sum(bars) == writes and len(bars) <= bins
    assert {*bars[:-1]} <= {bars[0]} and bars[-1] <= bars[0]


def test_nothing_makes_an_empty_picture():
    for ax in (plot_ages(Memory(3, 4)), plot_confusions([], [])):
        ax.figure.canvas.draw()
        assert not ax.images and sum(bar.get_height() for bar in ax.patches) == 0


def test_confusions_are_shares_of_each_class():
    answers, labels = ["kea", "weka", "kea", "unknown"], ["kea", "kea", "kea", "weka"]
    ax = plot_confusions(answers, labels)
    names = [text.get_text() for text in ax.get_xticklabels()]
    assert names == ["kea", "weka", "unknown"]
    shares = ax.images[0].get_array().tolist()
    assert shares == [pytest.approx([2 / 3, 1 / 3, 0]), [0, 0, 1], [0, 0, 0]]
    with pytest.raises(ValueError, match="1 answers for 2 labels"):
        plot_confusions(["kea"], ["kea", "weka"])
    assert plot_confusions(answers, labels, ax) is ax
    # Four labels, as a classifier has it.
    shares = plot_confusions([1, True, 1.0, "1"], [1, True, 1.0, "1"]).images[0].get_array()
    assert shares.tolist() == torch.eye(4).tolist()


def test_counts_are_those_of_a_loop():
    answers, labels = torch.randint(0, 4, (2, 50)).tolist()
    counts = confusion_counts(answers, labels)
    for row in range(len(counts)):
        for column in range(len(counts)):
            pairs = zip(labels, answers, strict=True)
            assert counts[row, column] == sum(pair == (row, column) for pair in pairs)
