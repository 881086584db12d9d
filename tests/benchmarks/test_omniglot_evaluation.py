"""Omniglot past the paper, from an encoder's weights to the result file, on made-up characters."""

import hashlib
from functools import partial

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.omniglot import evaluation, openset, streams
from benchmarks.summary import DOTTED
from rarememory import MeanMemory, Memory
from rarememory.data import Characters, Omniglot, Run, Stream, draw_glyphs
from rarememory.evaluation import Accuracy, lifelong_accuracy, lifelong_forgetting


@pytest.fixture(scope="module")
def characters():
    """Two alphabets of 20 characters, 20 drawings of each."""
    names = [f"{alphabet}/character{n:02}" for alphabet in ("a", "b") for n in range(1, 21)]
    return Characters(tuple(names), draw_glyphs(40, 20, size=28).images)


def shortened(*of, drawn=streams.drawn_stream):
    """A stream of six drawings of each of four classes."""
    stream = drawn(*of)
    few = (stream.drawings < 6) & (stream.classes % 20 < 2)
    return Stream(stream.classes[few], stream.drawings[few])


@pytest.fixture
def run(characters, folders, tmp_path, monkeypatch, narrow):
    nothing = characters.select([])
    monkeypatch.setattr(
        evaluation, "read_omniglot", lambda folder, size: Omniglot(nothing, characters)
    )
    monkeypatch.setattr(evaluation, "WAYS", (20, 40))
    monkeypatch.setattr(evaluation, "CURVE", (5, 20, 40, 41))
    monkeypatch.setattr(evaluation, "STORED", (20, 44, 200))
    monkeypatch.setattr(evaluation, "SIZES", {"half": 0.5, "eight": 8})
    chosen = {name: streams.POLICIES[name] for name in ("paper", "fifo", "mean")}
    monkeypatch.setattr(evaluation, "POLICIES", chosen)
    runs = [Run(characters.names[first : first + 20], 3, 8) for first in (0, 20)]
    monkeypatch.setattr(evaluation, "published_runs", lambda: runs)
    monkeypatch.setattr(streams, "drawn_stream", shortened)
    monkeypatch.setattr(evaluation, "open_set", partial(openset.open_set, n_splits=2))
    torch.manual_seed(0)
    save_file(narrow(key_dim=16).state_dict(), tmp_path / "conv4.safetensors")

    def run(*more):
        given = ("--encoder", str(tmp_path / "conv4.safetensors"), "--data", "anywhere")
        return evaluation.main(
            [*given, "--episodes", "2", "--streams", "1", "--copies", "1", *more]
        )

    return run


def test_it_tests_an_encoder_by_every_protocol_and_says_where_the_figures_are_from(
    run, folders, tmp_path
):
    assert run() == 0
    result = folders.result("omniglot_evaluation")
    figures = result["figures"]
    reads = ("1s", "1s.mean", "5s", "5s.mean", "5s.by_shot")
    many = [f"{way}w{read}" for way in (20, 40) for read in reads]
    wanted = {f"{part}.{task}" for part in ("evaluation", "jittered") for task in many}
    wanted |= {
        f"{part}within_alphabet.{task}.error"
        for part in ("", "jittered.")
        for task in ("20w1s", "random.20w1s")
    }
    wanted |= {
        f"storage.{p}.{n}.accuracy" for p in ("paper", "fifo", "mean") for n in (20, 44, 200)
    }
    wanted |= {f"openset.{n}shot.{of}" for n in (1, 5) for of in ("auroc", "far1", "far5", "far10")}
    ends = ("sighting2", "sighting6", "forgetting")
    wanted |= {
        f"lifelong.{order}.{cell}.{end}"
        for order in ("random", "alphabet")
        for cell in ("half.paper", "eight.fifo", "eight.mean")
        for end in ends
    }
    wanted |= {
        f"lifelong.{order}.{rule}{sighting}"
        for order in ("random", "alphabet")
        for rule in ("", "paper.")
        for sighting in ends[:2]
    }
    wanted = {f"omniglot.{key}" for key in wanted}
    assert wanted <= figures.keys()
    assert all(f"{key}.interval" in figures for key in wanted)
    assert all(DOTTED.fullmatch(key) for key in figures)
    assert all(0 <= figures[key] <= 100 for key in wanted if not key.endswith("forgetting"))
    assert figures["omniglot.storage.mean.200.keys"] == 20
    assert figures["omniglot.storage.fifo.200.keys"] == 200
    weights = (tmp_path / "conv4.safetensors").read_bytes()
    assert result["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    assert result["seed"] == 0 and result["classes"] == 40
    assert len(result["lifelong_accuracy_by_sighting"]["random.eight.paper"]) == 6
    # Of one stream, the averaged figures are those of the stream.
    for rule, cell in (("", "mean"), ("paper.", "paper")):
        for end in ends[:2]:
            averaged = figures[f"omniglot.lifelong.alphabet.{rule}{end}"]
            assert averaged == figures[f"omniglot.lifelong.alphabet.eight.{cell}.{end}"]
    assert list(result["accuracy_by_ways"]["5-shot"]) == ["5", "20", "40"]


def test_what_cannot_be_done_is_said_in_a_sentence(run, capsys):
    assert run("--encoder", "nowhere.safetensors") == 1
    assert capsys.readouterr().err == "there is no file 'nowhere.safetensors'\n"


def clustered(classes=40, drawings=6, noise=0.02):
    return torch.eye(classes).unsqueeze(1) + noise * torch.randn(classes, drawings, classes)


def test_unknown_classes_are_separated_where_embeddings_allow():
    found = openset.open_set(clustered(), n_shot=2, n_splits=3)
    assert found["auroc"].mean > 0.999 and found["far1"].mean > 0.99
    blind = openset.open_set(torch.randn(40, 6, 8), n_shot=2, n_splits=8)
    assert abs(blind["auroc"].mean - 0.5) < 0.1 and blind["far10"].mean < 0.15


def test_as_many_unknown_queries_are_accepted_as_requested():
    found = openset.open_set(torch.randn(400, 10, 8), n_shot=1, n_splits=5)
    for rate in (1, 5, 10):
        assert found[f"far{rate}.measured"].mean == pytest.approx(rate / 100, rel=0.3)
    assert found["far1"].mean <= found["far5"].mean <= found["far10"].mean


def test_no_class_is_both_known_and_unknown():
    assert [sum(openset._parts(n)) for n in (40, 659)] == [40, 659]
    assert openset._parts(659) == [329, 164, 166]


def test_a_memory_has_slots_for_a_multiple_of_the_classes(characters):
    made = []

    def policy(*sizes):
        made.append(sizes)
        return Memory(*sizes)

    embeddings = clustered(40, 20)
    few = characters.select(characters.names[:4])
    for size, slots in {"half": 2, "two": 8}.items():
        sightings, forgetting = streams.streamed(
            policy, few, embeddings[:4], "random", size, seed=3
        )
        assert made[-1] == (40, slots)
        stream = streams.drawn_stream(few, "random", 3)
        memory = Memory(40, slots)
        assert sightings == lifelong_accuracy(memory, embeddings[:4], stream)
        assert forgetting == lifelong_forgetting(memory, embeddings[:4], stream)


def test_streams_are_averaged_sighting_by_sighting(characters):
    embeddings, few = clustered(4, 20, noise=0.5), characters.select(characters.names[:4])
    policy = streams.POLICIES["mean"]
    found = streams.averaged(policy, few, embeddings, "alphabet", seeds=range(2))
    every = [
        lifelong_accuracy(
            MeanMemory(4, 32), embeddings, streams.drawn_stream(few, "alphabet", seed)
        )
        for seed in range(2)
    ]
    for one, (a, b) in zip(found, zip(*every, strict=True), strict=True):
        wanted = Accuracy((a.mean + b.mean) / 2, (a.interval + b.interval) / 2)
        assert tuple(one) == pytest.approx(tuple(wanted))
