import sys

import pytest

from rarememory.base.progress import ProgressBar, progress_bar


@pytest.fixture
def printed(capsys):
    pytest.importorskip("tqdm", reason="tqdm is not installed")
    return lambda: capsys.readouterr().err


def test_items_are_counted_against_their_number(printed):
    assert list(progress_bar([7, 8], description="birds", unit="bird", show=True)) == [7, 8]
    said = printed()
    assert "birds: 100%" in said and "2/2" in said and "bird/s" in said


def test_items_of_unknown_number_are_counted(printed):
    assert list(progress_bar(iter("kea"), unit="letter", show=True)) == ["k", "e", "a"]
    assert "3letter" in printed()


def test_steps_are_counted_on_from_a_checkpoint(printed):
    with progress_bar(total=4, initial=2, show=True) as bar:
        bar.update()
        bar.update()
        bar.set_postfix(loss="0.5")
    said = printed()
    assert "2/4" in said and "4/4" in said and "loss=0.5" in said


@pytest.mark.parametrize("show", [None, False])
def test_where_there_is_no_terminal_nothing_is_shown_unless_asked_for(printed, show):
    assert list(progress_bar([7, 8], show=show)) == [7, 8]
    assert printed() == ""


def test_a_terminal_has_its_bar(printed, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert list(progress_bar([7, 8])) == [7, 8]
    assert "2/2" in printed()


def test_without_tqdm_there_is_no_bar_unless_it_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert list(progress_bar([7, 8])) == [7, 8]
    with pytest.raises(ModuleNotFoundError, match=r'needs tqdm: pip install "rarememory\[vision\]'):
        progress_bar([7, 8], show=True)


def test_a_hidden_bar_takes_the_same_calls_and_prints_what_it_is_given(capsys):
    with ProgressBar(iter("kea")) as bar:
        assert "".join(bar) == "kea"
        bar.update(2)
        bar.set_postfix(loss=1)
        bar.write("a line")
    assert capsys.readouterr() == ("a line\n", "")
