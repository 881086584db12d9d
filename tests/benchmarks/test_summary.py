import json

import pytest

from benchmarks.summary import PAGES, ROOT, TABLES, collect, main, outdated, render

BLOCKS = "".join(f"<!-- table:{name} -->\n<!-- end:{name} -->\n" for name in TABLES)
FIVE_WAY = "omniglot.vinyals.sighting.5w1s"


@pytest.fixture
def repo(tmp_path):
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    for page in PAGES:
        (tmp_path / page).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / page).write_text("# Page\n")
    (tmp_path / "README.md").write_text(f"# Title\n\n{BLOCKS}\nThe end.\n")
    return tmp_path


def put(repo, name, figures, **changes):
    result = {"command": "make it", "commit": "abc1234", "device": "cpu", "seed": 0}
    result |= {"figures": figures} | changes
    kept = {key: value for key, value in result.items() if value is not None}
    (repo / "benchmarks" / "results" / name).write_text(json.dumps(kept))


def refusal(repo):
    with pytest.raises(ValueError) as caught:
        outdated(repo)
    return str(caught.value)


def test_the_pages_and_the_summary_agree_with_the_committed_results():
    stale = [path.relative_to(ROOT).as_posix() for path in outdated(ROOT)]
    assert stale == [], "run make summary"


def test_the_summary_is_flat_sorted_and_names_its_sources(repo):
    put(repo, "a.json", {"z.last": 2}, wall_seconds=3.5)
    put(repo, "b.json", {"a.first": 0.5})
    assert main([], repo) == 0
    summary = json.loads((repo / "benchmarks" / "results" / "summary.json").read_text())
    assert list(summary.items()) == [
        ("a.first", {"value": 0.5, "source": "b.json"}),
        ("z.last", {"value": 2, "source": "a.json"}),
    ]


def test_the_minutes_of_trainings_are_those_of_their_reports(repo):
    put(repo, "a.json", {"z.last": 2}, report={"seconds": 90.0, "restarts": 3})
    put(repo, "b.json", {}, reports={"1": {"seconds": 30}, "2": {"seconds": 6}})
    values = {
        key: entry["value"] for key, entry in collect(repo / "benchmarks" / "results").items()
    }
    assert values == {
        "a.report.minutes": 1.5,
        "b.reports.1.minutes": 0.5,
        "b.reports.2.minutes": 0.1,
        "z.last": 2,
    }


def test_the_summary_is_no_result_of_its_own(repo):
    put(repo, "a.json", {"a.first": 1})
    assert main([], repo) == 0
    assert list(collect(repo / "benchmarks" / "results")) == ["a.first"]
    assert outdated(repo) == {}


def test_tables_print_figures_intervals_and_what_was_not_run(repo):
    put(repo, "a.json", {FIVE_WAY: 98.764, f"{FIVE_WAY}.interval": 0.2})
    assert main([], repo) == 0
    readme = (repo / "README.md").read_text()
    assert "| the same, sighting | 98.76 ± 0.20 | not run | not run | not run |  |  |\n" in readme
    assert readme.startswith("# Title\n\n<!-- table:") and readme.endswith("\n\nThe end.\n")


def test_every_page_has_its_own_tables_and_a_sentence_may_have_a_figure(repo):
    put(repo, "a.json", {FIVE_WAY: 98.764, "lookup.worst": 1.078})
    readme, page = repo / "README.md", repo / "docs" / "results.md"
    speed = "<!-- table:speed -->\n<!-- end:speed -->\n"
    readme.write_text(readme.read_text().replace(speed, ""))
    page.write_text(f"{speed}<!-- figure:lookup.worst --><!-- end --> times as fast\n")
    assert main([], repo) == 0
    assert "table:speed" not in readme.read_text() and "table:omniglot" in readme.read_text()
    assert "| --- | ---: | ---: |\n" in page.read_text()
    assert page.read_text().endswith("<!-- figure:lookup.worst -->1.08<!-- end --> times as fast\n")


@pytest.mark.parametrize("name", ["command", "commit", "device", "seed"])
def test_a_result_that_hides_where_it_came_from_is_refused(repo, name):
    put(repo, "a.json", {"a.first": 1}, **{name: None})
    assert refusal(repo) == f"a.json does not say its {name}"


def test_a_key_in_two_files_is_refused(repo):
    put(repo, "a.json", {"a.first": 1})
    put(repo, "b.json", {"a.first": 1})
    assert refusal(repo) == "b.json and a.json both hold a.first"


@pytest.mark.parametrize("value", ["98.4", None, True, [1], float("nan"), float("inf")])
def test_a_figure_that_is_no_number_is_refused(repo, value):
    put(repo, "a.json", {"a.first": value})
    assert refusal(repo) == f"a.json: a.first is {value!r}, not a finite number"


def test_a_key_may_name_a_million_and_no_other_capital(repo):
    put(repo, "a.json", {"lookup.gpu.b16_m1M_k256.fraction_of_roofline": 1})
    assert list(collect(repo / "benchmarks" / "results")) == [
        "lookup.gpu.b16_m1M_k256.fraction_of_roofline"
    ]


@pytest.mark.parametrize("key", ["", "plain", "a..b", "A.b", "a.b ", "a.M", "a.1m_M", "a.1K"])
def test_a_key_without_dots_is_refused(repo, key):
    put(repo, "a.json", {key: 1})
    assert refusal(repo) == f"a.json: {key!r} is no dotted key such as memory.write.ratio"


@pytest.mark.parametrize("text", ["[1, 2]", '{"figures": [1]}', "{}"])
def test_a_file_without_figures_is_refused(repo, text):
    (repo / "benchmarks" / "results" / "a.json").write_text(text)
    assert refusal(repo) == "a.json has no object of figures"


def test_a_torn_file_is_refused_by_name(repo):
    (repo / "benchmarks" / "results" / "a.json").write_text('{"figures": ')
    assert refusal(repo).startswith("a.json is not JSON: ")


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace("<!-- end:speed -->\n", ""),
        lambda text: text.replace("table:speed", "table:sped"),
        lambda text: text.replace(BLOCKS, ""),
        lambda text: text + BLOCKS,
    ],
)
def test_pages_without_their_blocks_is_refused(repo, damage):
    readme = repo / "README.md"
    readme.write_text(damage(readme.read_text()))
    assert f"benchmarks/tables.md declares {sorted(TABLES)}" in refusal(repo)


def test_a_block_that_ends_before_it_starts_is_refused(repo):
    readme = repo / "README.md"
    block = "<!-- table:speed -->\n<!-- end:speed -->"
    readme.write_text(readme.read_text().replace(block, "\n".join(reversed(block.split("\n")))))
    assert refusal(repo).startswith(" and ".join(PAGES))
    assert refusal(repo).endswith(": 1 of the tables end before they start")


HEAD = "|  | a | b |\n| --- | ---: | ---: |\n"


def test_a_row_as_wide_as_its_columns_or_none():
    with pytest.raises(ValueError, match="'one' has 2 cells for 3 columns"):
        render(f"{HEAD}| one | {{a.b}} |\n", {})


def test_a_key_has_a_form_and_names_in_brackets_a_cell_each():
    numbers = {"a.x.c": 1.25, "a.y.c": 2, "a.y.c.interval": 0.5}
    summary = {key: {"value": number, "source": "a.json"} for key, number in numbers.items()}
    row = "| one | 7 | {a.x.c:+.1f} |\n| two | {a.[x,y].c} |\n"
    assert render(HEAD + row, summary) == (
        f"{HEAD}| one | 7 | +1.2 |\n| two | 1.25 | 2.00 ± 0.50 |\n"
    )


@pytest.mark.parametrize("cell", ["{a b}", "{a.b:d}", "{a.[b}"])
def test_a_brace_that_is_no_key_is_refused(cell):
    with pytest.raises(ValueError) as caught:
        render(f"{HEAD}| one | 7 | {cell} |\n", {})
    assert str(caught.value) == f"{cell} is no key of a figure"


def test_check_says_what_is_out_of_date_and_writes_nothing(repo, capsys):
    put(repo, "a.json", {FIVE_WAY: 98.7})
    before = (repo / "README.md").read_text()
    assert main(["--check"], repo) == 1
    assert capsys.readouterr().err == (
        "out of date with benchmarks/results: benchmarks/results/summary.json and README.md; "
        "run make summary\n"
    )
    assert (repo / "README.md").read_text() == before
    assert not (repo / "benchmarks" / "results" / "summary.json").exists()


def test_check_is_green_after_writing_and_red_after_a_number_is_edited(repo):
    put(repo, "a.json", {FIVE_WAY: 98.7})
    assert main([], repo) == 0
    assert main(["--check"], repo) == 0
    readme = repo / "README.md"
    readme.write_text(readme.read_text().replace("98.70", "99.90"))
    assert main(["--check"], repo) == 1


def test_a_refusal_is_one_sentence_and_not_a_traceback(repo, capsys):
    put(repo, "a.json", {"a.first": "many"})
    assert main([], repo) == 1
    assert capsys.readouterr().err == "a.json: a.first is 'many', not a finite number\n"
