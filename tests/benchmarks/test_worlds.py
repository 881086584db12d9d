"""Real worlds: how their files are read, who is drawn for what, the rivals, and the figures."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.worlds import __main__ as worlds
from benchmarks.worlds import data, tasks
from benchmarks.worlds.beside import beside_task
from benchmarks.worlds.data import SOURCES, World
from benchmarks.worlds.draws import Draw, Task, share_correct
from benchmarks.worlds.encoders import ENCODERS, _square
from benchmarks.worlds.rivals import RIVALS, NeighborMixture, answers, best_bias, fitting
from benchmarks.worlds.speed import speed


def world_of(n_classes=8, rows=30, dim=12, spread=0.6, strangers=0, tracks=None, seed=0):
    """Made-up features: a direction for each class, and noise."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(n_classes), rows)
    features = 3 * rng.standard_normal((n_classes, dim))[labels]
    features += spread * rng.standard_normal(features.shape)
    split = np.tile(np.where(np.arange(rows) < 2 * rows // 3, "train", "test"), n_classes)
    if strangers:
        features = np.concatenate([features, 3 * rng.standard_normal((strangers, dim))])
        labels = np.concatenate([labels, np.full(strangers, -1)])
        split = np.concatenate([split, np.full(strangers, "oos_test")])
    names = np.array([f"class {label}" for label in range(n_classes)])
    track = None if tracks is None else np.arange(len(labels)) % rows // tracks
    return World(features.astype(np.float32), labels, names, split, None, track)


FEW = ("class_mean", "logistic", "tip_adapter")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def raw(name: str, folder: Path) -> data.Raw:
    return SOURCES[name].read(data.found(SOURCES[name], folder))


def rows(found: data.Raw):
    return list(zip(found.inputs, found.names, found.split, strict=True))


def test_sentences_of_no_intent_have_no_name(tmp_path):
    parts = {part: [[f"a {part}", "greeting"]] for part in ("train", "val", "test")}
    parts |= {part: [[f"an {part}", "oos"]] for part in data.OTHERS}
    write(tmp_path / "data_full.json", json.dumps(parts))
    found = rows(raw("clinc150", tmp_path))
    assert found[0] == ("a train", "greeting", "train")
    assert found[-1] == ("an oos_test", "", "oos_test") and len(found) == 6


def test_tables_of_sentences_are_read(tmp_path):
    write(tmp_path / "train.csv", 'text,category\n"Where, is my card?",card_arrival\n')
    write(tmp_path / "test.csv", "text,category\nLost it,lost_card\n")
    assert rows(raw("banking77", tmp_path)) == [
        ("Lost it", "lost_card", "test"),
        ("Where, is my card?", "card_arrival", "train"),
    ]
    fold = tmp_path / "CrossValidation" / "KFold_1"
    head = "userid;answer_from_anno\n"
    write(fold / "trainset" / "alarm_set.csv", f"{head}1;wake me\n")
    write(fold / "testset" / "csv" / "alarm_set.csv", f"{head}2;at six\n")
    assert rows(raw("hwu64", tmp_path)) == [
        ("at six", "alarm_set", "test"),
        ("wake me", "alarm_set", "train"),
    ]


def test_questions_are_read_with_their_fine_class(tmp_path):
    write(tmp_path / "train_5500.label", "NUM:dist How far is it ?\nHUM:ind Who was he ?\n")
    (tmp_path / "TREC_10.label").write_bytes("LOC:city Where is Köln ?\n".encode("latin-1"))
    assert rows(raw("trec50", tmp_path)) == [
        ("Where is Köln ?", "LOC:city", "test"),
        ("How far is it ?", "NUM:dist", "train"),
        ("Who was he ?", "HUM:ind", "train"),
    ]


@pytest.mark.parametrize("name", ["atis", "snips"])
def test_sentences_and_intents_are_read_line_by_line(tmp_path, name):
    for part, intents in (
        ("train", "flight"),
        ("valid", "never learnt"),
        ("test", "flight#aircraft"),
    ):
        folder = tmp_path / "data" / name / part
        write(folder / "seq.in", f"from kea to moa {part} \nwhich aircraft\n")
        write(folder / "seq.out", "O O O O O\nO O\n")
        write(folder / "label", f"{intents}\naircraft\n")
    assert sorted(rows(raw(name, tmp_path))) == [
        ("from kea to moa train", "flight", "train"),
        *(("which aircraft", "aircraft", part) for part in ("test", "train", "val")),
    ]


def test_clips_are_named_by_digit_speaker_and_take(tmp_path):
    for name in ("3_theo_4", "3_theo_5"):
        write(tmp_path / "recordings" / f"{name}.wav", "")
    pairs, speakers = raw("fsdd_pairs", tmp_path), raw("fsdd_speakers", tmp_path)
    assert pairs.names == ["theo says 3"] * 2 and pairs.split == ["test", "train"]
    assert speakers.names == ["theo"] * 2


def test_columns_of_letters_and_digits_are_read(tmp_path):
    write(tmp_path / "letter-recognition.data", f"T,{','.join('1' * 16)}\nI,{','.join('2' * 16)}\n")
    letters = raw("letter", tmp_path)
    assert letters.names == ["T", "I"] and letters.inputs.tolist() == [[1] * 16, [2] * 16]
    for part, digit in (("tra", 8), ("tes", 3)):
        write(tmp_path / f"pendigits.{part}", f" 47,{','.join('0' * 15)}, {digit}\n")
    digits = raw("pendigits", tmp_path)
    assert digits.names == ["3", "8"] and digits.split == ["test", "train"]
    assert digits.inputs.shape == (2, 16) and digits.inputs[0, 0] == 47


def test_columns_of_soils_and_beans_are_read(tmp_path):
    for part, soil in (("trn", 7), ("tst", 3)):
        write(tmp_path / f"sat.{part}", f"{' '.join('5' * 36)} {soil}\n")
    soils = raw("satimage", tmp_path)
    assert soils.names == ["soil 7", "soil 3"] and soils.split == ["train", "test"]
    assert soils.inputs.shape == (2, 36) and soils.inputs[0, 0] == 5
    lines = "".join(f"{number},{'0.5,' * 15}SEKER\n" for number in range(400))
    write(tmp_path / "Dry_Bean_Dataset.arff", f"@RELATION a\n@ATTRIBUTE b REAL\n@DATA\n{lines}")
    beans = raw("dry_bean", tmp_path)
    assert beans.inputs.shape == (400, 16) and beans.inputs[399, 0] == 399
    assert set(beans.names) == {"SEKER"} and 240 < beans.split.count("train") < 320
    assert raw("dry_bean", tmp_path).split == beans.split


def test_columns_of_image_segments_are_read(tmp_path):
    head = f";;; an edit\n\n{','.join(['COLUMN'] * 19)}\n\n"
    for part, name in (("data", "SKY"), ("test", "PATH")):
        write(tmp_path / f"segmentation.{part}", f"{head}{name},{','.join(['0.5'] * 19)}\n")
    write(tmp_path / "segmentation.names", "about")
    segments = raw("segmentation", tmp_path)
    assert segments.names == ["SKY", "PATH"] and segments.split == ["train", "test"]
    assert segments.inputs.tolist() == [[0.5] * 19] * 2


def test_columns_of_proteins_are_read(tmp_path):
    lines = "".join(
        f"P{number}_YEAST  {'0.5  ' * 8}{'MIT' if number else 'POX'}\n" for number in range(9)
    )
    write(tmp_path / "yeast.data", lines)
    proteins = raw("yeast", tmp_path)
    assert proteins.names == ["POX"] + ["MIT"] * 8 and proteins.inputs.tolist() == [[0.5] * 8] * 9
    assert {*proteins.split} == {"train", "test"}


def test_lines_of_copyists_are_read(tmp_path):
    for part, name in (("tr", "A"), ("ts", "W")):
        write(tmp_path / "avila" / f"avila-{part}.txt", f"{','.join(['-0.5'] * 10)},{name}\n")
    write(tmp_path / "avila" / "avila-description.txt", "about")
    lines = raw("avila", tmp_path)
    assert lines.names == ["copyist A", "copyist W"] and lines.split == ["train", "test"]
    assert lines.inputs.tolist() == [[-0.5] * 10] * 2


def test_photos_are_named_by_their_folders(tmp_path, monkeypatch):
    for place in ("emu/image_0001", "emu/image_0002", "BACKGROUND_Google/image_0001"):
        write(tmp_path / "101_ObjectCategories" / f"{place}.jpg", "")
    assert raw("caltech101", tmp_path).names == ("emu", "emu")
    for place in ("train/LivingRoom/image_0001", "test/livingroom/image_0002"):
        write(tmp_path / "data" / f"{place}.jpg", "")
    assert raw("scenes15", tmp_path).names == ("livingroom", "livingroom")
    for number in range(200):
        write(tmp_path / "data" / "train" / "coast" / f"image_{number:04d}.jpg", "")
    assert len(raw("scenes15", tmp_path).names) == 152
    for name in ("00002_00003", "00002_00004", "00007_00029"):
        write(tmp_path / "Training" / "00014" / f"{name}.ppm", "")
    signs = raw("gtsrb", tmp_path)
    assert signs.names == ["sign 14"] * 2 and signs.track == [2, 7]
    write(tmp_path / "cifar-100-python" / "meta", "")
    photos = np.zeros((400, 32, 32, 3), dtype=np.uint8)
    targets, names = np.repeat(np.arange(100), 4), [f"thing {place}" for place in range(100)]

    def official(root, train):
        assert Path(root) == tmp_path
        return SimpleNamespace(data=photos, targets=targets, classes=names)

    monkeypatch.setattr("torchvision.datasets.CIFAR100", official)
    cifar = raw("cifar100", tmp_path)
    assert len(cifar.inputs) == 800 and cifar.names[-1] == "thing 99"
    assert cifar.split.count("test") == 400


def test_a_photo_is_made_square_by_its_middle_or_whole():
    photo = np.zeros((10, 30, 3), dtype=np.uint8)
    photo[:, 10:20] = 200
    assert (_square(photo, 10, crop=True) == 200).mean() > 0.7
    assert (_square(photo, 10, crop=False) > 100).mean() == pytest.approx(1 / 3, abs=0.1)


def test_features_are_made_once_and_what_is_absent_is_downloaded(tmp_path, monkeypatch):
    def download(url, folder):
        assert url.startswith("https://archive.ics.uci.edu/")
        write(folder / "letter-recognition.data", f"T,{','.join('3' * 16)}\n")

    monkeypatch.setattr(data, "_download", download)
    made = data.load("letter", tmp_path / "raw", tmp_path / "kept")
    monkeypatch.setattr(data, "_download", lambda *_: None)
    kept = data.load("letter", tmp_path / "nothing", tmp_path / "kept")
    assert kept.features.tolist() == made.features.tolist() == [[3] * 16]
    assert kept.names.tolist() == ["T"] and kept.logits is None
    with pytest.raises(ValueError, match="no letter-recognition"):
        data.load("letter", tmp_path / "nothing", tmp_path / "other")


def test_every_source_has_an_encoder():
    assert {source.encoder for source in SOURCES.values()} == ENCODERS.keys()


@pytest.mark.parametrize("n_old", [0, 5])
def test_no_row_is_learnt_and_asked_about(n_old):
    world = world_of()
    draw = Draw(world, 1, n_old=n_old, published=not n_old)
    for part in draw.parts:
        assert not set(part.train) & {*part.held_out, *part.test}
        assert not set(part.held_out) & set(part.test)
        assert n_old or set(world.split[part.test]) == {"test"}
    few, many = draw.task(1), draw.task(5)
    assert [(few.labels == label).sum() for label in (n_old, 7)] == [1, 1]
    assert (many.examples[many.labels == 7][:1] == few.examples[few.labels == 7]).all()
    other = Draw(world, 2, n_old=n_old, published=not n_old)
    assert draw.order.tolist() != other.order.tolist()


def test_a_track_is_in_one_part_and_few_examples_are_of_several():
    world = world_of(tracks=6)
    for part in Draw(world, 0, n_old=2, published=False).parts:
        tracks = [set(world.track[rows]) for rows in part]
        assert sum(map(len, tracks)) == len(set.union(*tracks)) == 5
        first = part.train[: len(tracks[0])]
        assert len(set(world.track[first])) == len(first)


def task_of(n_old=0, shots=5):
    return Draw(world_of(), 0, n_old=n_old, published=not n_old).task(shots)


def accuracy(rival, task):
    tuned = answers(rival, task)[f"{rival.name}.tuned"]
    return share_correct(tuned, task.query_labels, task.n_old)["all"]


@pytest.mark.parametrize("rival", RIVALS, ids=lambda rival: rival.name)
def test_a_rival_learns_from_labels(rival):
    assert accuracy(rival, task_of(n_old=5)) > 0.85
    task = task_of()
    if rival.hosted is not True:
        assert accuracy(rival, task) > 0.85
        scrambled = np.random.default_rng(0).permutation(task.labels)
        assert accuracy(rival, task._replace(labels=scrambled)) < 0.5


def test_a_mixture_weighs_the_nearest_examples_against_the_host():
    X, y = np.array([[1.0, 0], [0.6, 0.8], [0, 1]]), np.array([0, 1, 1])
    query = np.array([[1.0, 0]])
    near, nearest = (
        np.exp([2.0, 1.2]) / np.exp([2.0, 1.2]).sum(),
        NeighborMixture(k=2, temperature=0.5),
    )
    assert np.exp(nearest.fit(X, y).decision_function(query)) == pytest.approx(near[None])
    # The host knows class 0 alone, and is sure of it.
    hosted = NeighborMixture((np.zeros((1, 2)), np.zeros(1)), k=2, temperature=0.5, weight=0.25)
    mixed = 0.25 * near + [0.75, 0]
    assert np.exp(hosted.fit(X, y).decision_function(query)) == pytest.approx(mixed[None])
    cosines = np.exp(2 * X @ query[0])
    attended = np.array([cosines[0], cosines[1:].sum()]) / cosines.sum()
    everything = NeighborMixture(temperature=0.5).fit(X, y)
    assert np.exp(everything.decision_function(query)) == pytest.approx(attended[None])


def test_classes_of_one_example_leave_no_covariance_to_estimate():
    assert "lda" not in [rival.name for rival in fitting(task_of(shots=1))]
    assert "lda" in [rival.name for rival in fitting(task_of(5, shots=1))]


def test_the_bias_is_that_of_the_best_harmonic_mean():
    nothing = np.zeros((4, 1))
    task = Task(nothing, nothing, nothing, np.array([0, 0, 1, 1]), nothing, nothing, n_old=1)
    scores = np.array([[5.0, 0], [4.0, 0], [3.0, 0], [2.0, 0]])
    bias, merit = best_bias(scores, task)
    assert 3 < bias < 4 and merit == 1


def test_the_whole_benchmark_runs_on_made_up_features(folders, monkeypatch):
    made = {
        "cifar100": world_of(),
        "clinc150": world_of(6, strangers=40),
        "hwu64": world_of(6, seed=1),
    }
    monkeypatch.setattr(worlds, "load", lambda name, *_: made[name])
    monkeypatch.setitem(SOURCES, "cifar100", SOURCES["cifar100"]._replace(n_old=5))
    monkeypatch.setattr(worlds, "TABLE_DRAWS", 2)
    monkeypatch.setattr(worlds, "FEW_HOSTS", {"clinc150": 3, "hwu64": 3})
    monkeypatch.setattr(tasks, "SHOTS", (1, 5))
    monkeypatch.setattr(tasks, "RIVALS", [one for one in RIVALS if one.name in FEW])
    assert worlds.main(["--seeds", "2", "--world", *made, "wine"]) == 0
    results = {name: folders.result(f"worlds_{name}") for name in (*made, "wine")}
    assert results["wine"]["command"].endswith("--world wine")
    figures = {}
    for result in results.values():
        figures |= result["figures"]
    keys = {f"worlds.{name}.{shots}.{row}" for name in made for shots in (1, 5)
            for row in ("quick", "calibrated", "best_rival", "quick_over_best_rival")}  # fmt: skip
    keys |= {f"worlds.cifar100.5.quick_with_old{part}" for part in ("", ".old", ".new")}
    found = ("false_accept", "known_accepted", "auroc", "alike.false_accept")
    found += ("host.false_accept", "host.expected_alike", "host.known_accepted.old")
    keys |= {f"worlds.{w}.strangers.far5.{row}" for w in ("clinc150", "hwu64") for row in found}
    keys |= {"worlds.wine.20.quick", "worlds.wine.20.best_rival"}
    assert keys <= figures.keys()
    assert all(f"{key}.interval" in figures for key in keys)
    best = results["cifar100"]["best_rivals"]["worlds.cifar100.5"]
    assert figures["worlds.cifar100.5.best_rival"] == figures[f"worlds.cifar100.5.{best}"]
    difference = figures["worlds.cifar100.5.quick"] - figures["worlds.cifar100.5.best_rival"]
    assert figures["worlds.cifar100.5.quick_over_best_rival"] == pytest.approx(difference, abs=1e-3)
    assert figures["worlds.clinc150.5.quick"] > 85


def test_a_world_that_three_draws_do_not_decide_has_ten(folders, monkeypatch):
    asked = {}

    def measured(name, data, seeds):
        asked[name] = seeds
        return {}

    monkeypatch.setattr(worlds, "_measured", measured)
    assert worlds.main(["--world", "cifar100", "gtsrb"]) == 0
    assert asked == {"cifar100": 10, "gtsrb": 3}
    published = json.loads((folders.published / "worlds_cifar100.json").read_text())
    assert published["seeds"] == 10


def hosted_photos(dim=12, n_old=6):
    """A host that tells directions apart, and photos of which it has seen none."""
    head = 2 * np.eye(n_old, dim, dtype=np.float32), np.zeros(n_old, np.float32)
    others = world_of(n_old, rows=400, seed=4)
    return head, others._replace(logits=others.features @ head[0].T)


def test_beside_a_host_without_examples_only_its_head_and_its_answers_are_known():
    head, others = hosted_photos()
    task = beside_task(Draw(world_of(5), 0), others, head, 0, 3)
    assert task.labels.tolist() == [label for label in range(6, 11) for _ in range(3)]
    old = task.query_labels < 6
    assert (task.queries[old] @ head[0].T).argmax(1).tolist() == task.query_labels[old].tolist()
    asked, held_out = (set(map(tuple, part)) for part in (task.queries, task.held_out))
    assert not asked & held_out and set(task.held_out_labels) == set(range(11))
    assert {rival.name for rival in fitting(task)} == {"tip_adapter", "knn_lm", "imprinted"}
    other = beside_task(Draw(world_of(5), 0), others, head, 1, 3)
    assert not (other.held_out[:20] == task.held_out[:20]).all()


def test_a_host_without_examples_is_taught_classes_beside_its_own(folders, monkeypatch):
    head, others = hosted_photos()
    made = {"cifar100": world_of(5), "caltech101": others}
    monkeypatch.setattr(worlds, "load", lambda name, *_: made[name])
    monkeypatch.setattr(worlds, "photo_head", lambda: head)
    monkeypatch.setattr(tasks, "SHOTS", (1, 5))
    assert worlds.main(["--beside", "--seeds", "2"]) == 0
    found = folders.result("worlds_beside")
    figures, key = found["figures"], "worlds.beside.5"
    assert found["best_rivals"][key].startswith(("imprinted", "tip_adapter", "knn_lm"))
    assert found["command"].endswith("--beside")
    assert f"{key}.quick_with_old" not in figures and figures[f"{key}.quick"] > 60
    assert figures[f"{key}.quick.old"] > 50 < figures[f"{key}.calibrated.new"]
    assert worlds.main(["--beside", "--world", "wine"]) != 0


def test_speed_is_a_ratio_with_quartiles():
    figures = speed(Draw(world_of(), 0), shots=5, turns=2)
    key = "worlds.predict.ratio_to_logreg"
    assert 0 < figures[f"{key}.low"] <= figures[key] <= figures[f"{key}.high"]
    for name in ("learn", "learn_one", "learn_one_and_answer", "predict_one"):
        assert figures[f"worlds.{name}.ratio_to_logreg"] > 0
    for rival in ("class_mean", "logistic", "tip_adapter", "knn_lm"):
        for name in ("learn", "predict", "predict_one"):
            assert figures[f"worlds.rivals.{rival}.{name}.seconds"] > 0


def test_a_host_is_taught_few_classes_more(folders, monkeypatch):
    monkeypatch.setattr(worlds, "load", lambda *_: world_of())
    monkeypatch.setattr(worlds, "FEW_HOSTS", {"cifar100": 5})
    monkeypatch.setattr(tasks, "SHOTS", (1, 5))
    monkeypatch.setattr(worlds, "FEW_DRAWS", 2)
    assert worlds.main(["--few", "--seeds", "2"]) == 0
    figures = folders.result("worlds_few")["figures"]
    assert {f"worlds.few{count}.cifar100.{shots}{part}{end}" for count in (1, 3)
            for shots in (1, 5) for part in ("", ".old", ".new")
            for end in ("", ".interval")} == figures.keys()  # fmt: skip
    assert figures["worlds.few3.cifar100.5"] > 60
