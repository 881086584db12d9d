import pytest

from tests.damages import DAMAGES, Damage, damaged, drop, number
from tests.sources import ROOT, related_tests


@pytest.mark.parametrize("damage", DAMAGES, ids=str)
def test_every_damage_still_applies_and_has_tests_to_turn_red(damage):
    damaged(damage, (ROOT / damage.file).read_text("utf-8"))
    tests = related_tests(damage.file)
    assert tests and all((ROOT / test).exists() for test in tests)


SOURCE = "def f(x):\n    x.a()\n    if x:\n        x.b(1)\n    return 1"


@pytest.mark.parametrize(
    ("edit", "old", "new"),
    [(drop("b"), "x.b(1)", "pass"), (number(1, 2, 1), "return 1", "return 2")],
)
def test_a_damage_changes_one_place(edit, old, new):
    assert damaged(Damage("a.py:f", edit), SOURCE) == SOURCE.replace(old, new)


@pytest.mark.parametrize(
    ("place", "edit", "message"),
    [
        ("a.py:g", drop("a"), "a.py has no g"),
        ("a.py:f", drop("c"), "nothing to change"),
        ("a.py:f", drop("a", 1), "nothing to change"),
    ],
)
def test_a_damage_that_does_not_apply_is_an_error(place, edit, message):
    with pytest.raises(LookupError, match=message):
        damaged(Damage(place, edit), SOURCE)
