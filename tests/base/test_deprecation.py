"""Old names work for one release, and say what the new one is."""

import runpy

import pytest

from rarememory.base import deprecation
from rarememory.base.deprecation import renamed_attributes, renamed_keywords
from rarememory.base.state import EMPTY


@pytest.mark.parametrize(
    ("module", "new"),
    [("rarememory.base.state", "EMPTY"), ("rarememory.base", "rarememory.base.state.EMPTY")],
)
def test_an_old_name_of_a_module_is_the_new_one_with_a_warning(module, new):
    find = renamed_attributes(module, {"NOTHING": new})
    with pytest.warns(DeprecationWarning, match=rf"^{module}.NOTHING is now {new};"):
        assert find("NOTHING") is EMPTY


def test_a_name_that_never_was_is_an_attribute_error():
    find = renamed_attributes("rarememory.base.state", {"NOTHING": "EMPTY"})
    with pytest.raises(AttributeError, match=r"module 'rarememory.base.state' has no .*'NEVER'"):
        find("NEVER")


class Kept:
    @renamed_keywords(size="memory_size", width="key_dim")
    def __init__(self, memory_size=1, *, key_dim=2):
        self.shape = (memory_size, key_dim)


def test_old_keywords_are_given_on_as_the_new_ones_with_a_warning_each():
    with pytest.warns(DeprecationWarning) as seen:
        assert Kept(size=3, width=4).shape == (3, 4)
    assert {str(one.message).partition(";")[0] for one in seen} == {
        "Kept(size=) is now Kept(memory_size=)",
        "Kept(width=) is now Kept(key_dim=)",
    }


def test_a_warning_is_for_the_line_that_uses_the_old_name():
    # Python shows a DeprecationWarning only of lines of a user's own program. The file is run once
    # more, since the checks of annotations put calls of their own between.
    plain = runpy.run_path(deprecation.__file__)
    with pytest.warns(DeprecationWarning) as seen:
        plain["renamed_attributes"]("rarememory.base.state", {"NOTHING": "EMPTY"})("NOTHING")
        plain["renamed_keywords"](size="memory_size")(lambda memory_size: None)(size=3)
    assert [one.filename for one in seen] == [__file__, __file__]


@pytest.mark.filterwarnings("error")
def test_new_keywords_pass_without_a_warning():
    assert Kept(3, key_dim=4).shape == (3, 4)


def test_a_keyword_by_both_names_is_refused():
    with pytest.raises(TypeError, match=r"^Kept\(\) got both memory_size and size, its old name"):
        Kept(memory_size=1, size=2)
