"""The report: one file that asks for nothing, shows what is in the run's folder, and leaves out what is not."""

import base64
import hashlib
import io
import json
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from tenshot import loop
from tenshot.__main__ import main
from tenshot.config import RunConfig
from tenshot.errors import TenshotError
from tenshot.methods import Dap, Finetune, Pretrain
from tenshot.metrics import efflite
from tenshot.models import load_model, save_model
from tenshot.presets import PRETRAINING, preset_config
from tenshot.pruning import Guards
from tenshot.report import comparison, likeness, pictures, words, write_report
from tenshot.report.journal import is_number
from tenshot.report.subject import read_run
from tenshot.sampling import generate_images
from tenshot.sheets import to_pillow
from tiny import tiny_model, tiny_shots

VOID = {"meta", "link", "img", "br", "hr", "input"}
PRUNING = Dap(warmup=0.2, settle=0.6, every=2, prune_mass=0.1, preserve_mass=0.2, guards=Guards(min_alive=2), reach=5.0)
ALL = [
    "pairs",
    "shots",
    "samples",
    "nearest",
    "film",
    "losses",
    "pruning",
    "importance",
    "layers",
    "settings",
    "origin",
]


class Page(HTMLParser):
    """A page taken apart; refuses tags that are not closed in their order."""

    def __init__(self, path):
        super().__init__()
        self.text = path.read_text(encoding="utf-8")
        self.open, self.tags, self.words = [], [], []
        self.feed(self.text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs), tuple(self.open)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs), tuple(self.open)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        self.words.append((self.open[-1] if self.open else "", data))

    def all(self, tag):
        return [attrs for name, attrs, _ in self.tags if name == tag]

    def text_of(self, tag):
        return [data.strip() for name, data in self.words if name == tag and data.strip()]

    @property
    def sections(self):
        return [attrs["id"] for attrs in self.all("section")]

    def images(self, alt):
        """Pixels of the images whose alternative text matches, `[n h w 3]`."""
        found = [attrs["src"] for attrs in self.all("img") if re.fullmatch(alt, attrs["alt"])]
        return np.stack([pixels(uri) for uri in found])


def pixels(uri):
    head, data = uri.split(",", 1)
    assert head in ("data:image/webp;base64", "data:image/png;base64")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def as_rows(images):
    return images.permute(0, 2, 3, 1).numpy()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A source and two finished runs; tests get copies."""
    place = tmp_path_factory.mktemp("made")
    save_model(place / "tiny.safetensors", tiny_model())
    (place / "shots").mkdir()
    for i, shot in enumerate(tiny_shots()):
        Image.fromarray(shot.permute(1, 2, 0).numpy()).save(place / "shots" / f"{i}.png")
    for name, method, steps in (("dap", PRUNING, 9), ("finetune", Finetune(), 3)):
        config = RunConfig(
            shots=str(place / "shots"),
            source=str(place / "tiny.safetensors"),
            method=method,
            steps=steps,
            batch=2,
            sample_every=4,
            checkpoint_every=0,
        )
        loop.start(config, out=place / name)
    return place


def absent():
    raise TenshotError("not installed")


@pytest.fixture
def runs(made, tmp_path, monkeypatch):
    """Copies of the runs; distances are those of pixels, whatever is installed."""
    for name in ("dap", "finetune"):
        shutil.copytree(made / name, tmp_path / name)
    monkeypatch.setattr(efflite, "load", absent)
    return tmp_path


@pytest.fixture
def run(runs):
    return runs / "dap"


@pytest.fixture(scope="module")
def page(made, tmp_path_factory):
    """The page of the run that prunes, for tests that only read it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(efflite, "load", absent)
        return Page(write_report(made / "dap", tmp_path_factory.mktemp("page") / "page.html"))


# One file


def test_a_report_loads_nothing(page):
    for tag, attrs, _ in page.tags:
        assert tag not in ("script", "iframe", "object", "embed", "form", "base")
        for name, value in attrs.items():
            assert not name.startswith("on") and name not in ("style", "srcset", "action", "data", "poster")
            if name.split(":")[-1] in ("src", "href"):
                assert value.startswith(("data:", "#")), value
    (style,) = page.text_of("style")
    assert "url(" not in style and "@import" not in style
    assert len(page.text) < 500_000


def test_the_policy_forbids_every_request_and_allows_this_style_alone(page):
    (policy,) = [attrs["content"] for attrs in page.all("meta") if attrs.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    (style,) = [data for name, data in page.words if name == "style"]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    assert rules["style-src"] == f"'sha256-{digest}'"


def test_a_report_can_be_read_without_seeing_it(page):
    assert page.all("html")[0]["lang"] == "en"
    assert all(attrs["alt"] for attrs in page.all("img")) and len(page.all("img")) > 60
    for tag, attrs, around in page.tags:
        if tag == "svg" and "svg" not in around:
            assert attrs.get("aria-label") or attrs.get("aria-hidden") == "true"
    levels = [int(tag[1]) for tag, _, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    assert all(attrs.get("scope") for attrs in page.all("th"))


def test_a_report_lies_in_its_run_and_the_same_run_gives_the_same_file(run, tmp_path):
    assert write_report(run) == run / "report.html"
    again = write_report(run, tmp_path / "new" / "report.html")
    assert again.read_bytes() == (run / "report.html").read_bytes()


# What it shows


def test_every_section_is_there_for_a_run_that_prunes(page):
    assert page.sections == ALL


def test_shots_samples_and_pairs_are_the_images_themselves(page, made):
    result, source = load_model(made / "dap"), load_model(made / "tiny.safetensors")
    assert np.array_equal(page.images(r"shot \d+"), as_rows(tiny_shots()))
    assert np.array_equal(page.images(r"sample, seed \d+")[:50], as_rows(generate_images(result, range(50))))
    assert np.array_equal(page.images(r"source, seed \d+"), as_rows(generate_images(source, range(12))))
    assert np.array_equal(page.images(r"result, seed \d+"), as_rows(generate_images(result, range(12))))


def test_the_film_is_cut_out_of_the_sample_sheets(page, made):
    steps = page.text_of("figcaption")
    assert [text for text in steps if re.fullmatch(r"(step )?\d", text)] == ["step 0", "4", "8", "9"]
    tiles = page.images(r"seed \d at step 0")
    source = generate_images(load_model(made / "tiny.safetensors"), range(5))
    for tile, image in zip(tiles, source, strict=True):  # sheets enlarge tiles to 96 px
        enlarged = np.asarray(to_pillow(image).resize((96, 96), Image.Resampling.LANCZOS)).astype(float)
        assert np.corrcoef(tile.ravel(), enlarged.ravel())[0, 1] > 0.98


def test_the_sentence_and_the_numbers_tell_of_the_run(page, run):
    lead = " ".join(data for name, data in page.words if name in ("p", "b"))
    assert re.search(
        r"The generator\s+tiny.safetensors\s*, adapted to\s+6 images of shots\s+by\s+dap\s+in 9\W+steps", lead
    )
    numbers = words.key_numbers(read_run(run, likeness.Eye()))
    assert [n.label for n in numbers] == ["near copies", "variety", "pruned"]
    entries = [json.loads(line) for line in (run / "decisions.jsonl").read_text().splitlines()]
    layers = [e for e in entries if e["network"] == "generator"][-1]["layers"].values()
    filters = sum(len(layer["importance"]) for layer in layers)
    pruned = sum(round(layer["pruned"] * len(layer["importance"])) for layer in layers)
    assert pruned and f"{pruned} of {filters}" in numbers[2].meaning
    assert numbers[2].value.replace("\N{NO-BREAK SPACE}", " ") == f"{100 * pruned / filters:.1f} %"


def test_how_far_each_layer_of_g_goes_stands_in_its_table_and_only_there(page, run):
    entries = [json.loads(line) for line in (run / "decisions.jsonl").read_text().splitlines()]
    layers = [e for e in entries if e["network"] == "generator"][-1]["layers"].values()
    assert page.text_of("th").count("reach") == 1
    for layer in layers:
        assert f"{100 * layer['reach']:.1f}" in page.text_of("td")


def test_a_run_without_reach_has_no_column_for_it(runs):
    journal = runs / "dap" / "decisions.jsonl"
    journal.write_text(re.sub(r', "reach": [0-9.]+', "", journal.read_text()))
    assert "reach" not in Page(write_report(runs / "dap")).text_of("th")


def test_settings_that_differ_stand_out_and_all_are_folded_in(page, run):
    subject = read_run(run, likeness.Eye())
    shown = {setting.flag: (setting.value, setting.default) for setting in words.settings(subject.config)}
    assert shown["--steps"] == ("9", "1000") and shown["--seed"] == ("0", None)
    assert shown["--dap.prune-mass"] == ("0.1", "0.003") and shown["--dap.guards.min-alive"] == ("2", "4")
    assert shown["--shots"][1] is None and "--dap" not in shown
    inside = [attrs for tag, attrs, around in page.tags if tag == "div" and "details" in around]
    assert len(inside) == len(shown)
    assert sum(attrs.get("class") == "differs" for attrs in inside) == sum(d is not None for _, d in shown.values())


def test_another_method_than_the_default_differs_and_its_own_defaults_do_not(runs):
    config = read_run(runs / "finetune", likeness.Eye()).config
    differing = {setting.flag: setting.default for setting in words.settings(config) if setting.default is not None}
    usual = words.settings(preset_config("robots", "dap"))
    assert not any(setting.default for setting in usual), "a preset's settings are its method's own"
    assert differing["--method"] == "dap"
    assert set(differing) == {"--method", "--source", "--steps", "--batch", "--sample-every", "--checkpoint-every"}


def test_hashes_are_those_of_the_files(page, made):
    for path in (made / "dap" / "model.safetensors", made / "tiny.safetensors"):
        assert hashlib.sha256(path.read_bytes()).hexdigest() in page.text_of("dd")


def test_licences_are_those_of_the_cards_back_to_the_first_source(run):
    subject = read_run(run, likeness.Eye())
    first = {"name": "first", "training_data": "photographs"}
    source = {"name": "second", "licence": "CC0", "source": {"card": first}}
    subject.card.update(name="mine", licence="mine alone", source={"card": source})
    assert words.licences(subject)[:-1] == [
        ("model mine: licence", "mine alone"),
        ("source second: licence", "CC0"),
        ("source first: training data", "photographs"),
    ]
    assert words.licences(subject)[-1][0] == "shots"


def test_metrics_of_the_journal_are_drawn_and_lead_the_numbers(run):
    lines = [
        {"step": s, "metrics": {"fd_efflite_2k": {"value": 300.0 - s}, "odd": {"failed": "why"}}} for s in (0, 5, 9)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = Page(write_report(run))
    assert "metrics" in page.sections and "The metric odd failed: why." in page.text_of("li")
    assert words.key_numbers(read_run(run, likeness.Eye()))[0].value == "291"
    (journal,) = [a for a in page.all("svg") if a.get("aria-label", "").startswith("fd_efflite_2k")]
    assert journal["role"] == "img"


# What it leaves out


def test_a_method_without_decisions_has_no_section_on_them(runs):
    page = Page(write_report(runs / "finetune"))
    assert page.sections == [name for name in ALL if name not in ("pruning", "importance", "layers")]


@pytest.mark.parametrize(
    ("missing", "sections", "said"),
    [
        ("stats.jsonl", {"losses"}, None),
        ("samples", {"film"}, None),
        ("shots", {"shots", "nearest"}, "The shots could not be read"),
        ("decisions.jsonl", {"pruning", "importance", "layers"}, None),
        ("checkpoints", set(), None),
    ],
)
def test_what_the_folder_no_longer_has_is_left_out(run, missing, sections, said):
    shutil.rmtree(run / missing) if (run / missing).is_dir() else (run / missing).unlink()
    page = Page(write_report(run))
    assert page.sections == [name for name in ALL if name not in sections] + ["notes"] * bool(said)
    assert said is None or page.text_of("li")[0].startswith(said)


@pytest.mark.parametrize("change", ["gone", "another"])
def test_a_source_that_is_gone_or_another_is_not_shown_as_the_source(run, tmp_path, change):
    config = json.loads((run / "config.json").read_text())
    config["source"] = str(tmp_path / "other.safetensors")
    (run / "config.json").write_text(json.dumps(config))
    if change == "another":
        save_model(tmp_path / "other.safetensors", tiny_model(seed=3))
    page = Page(write_report(run))
    assert "pairs" not in page.sections and "notes" in page.sections
    assert ("is not the file the run started from" in page.text) == (change == "another")


def test_a_last_line_cut_off_by_a_crash_changes_nothing(run, tmp_path):
    whole = write_report(run, tmp_path / "whole.html").read_bytes()
    for journal in ("stats", "decisions"):
        with (run / f"{journal}.jsonl").open("a") as file:
            file.write('{"step": 9, "d": 1e')
    assert write_report(run, tmp_path / "cut.html").read_bytes() == whole


def test_a_journal_that_is_damaged_elsewhere_is_left_out_with_a_note(run):
    (run / "stats.jsonl").write_bytes(b'{"step": 1, "d": 1\n{"step": 2}\n')
    (run / "decisions.jsonl").write_bytes(b"\xff\xfe\n")
    page = Page(write_report(run))
    assert not {"losses", "pruning"} & set(page.sections)
    assert sum(text.startswith("A journal was left out") for text in page.text_of("li")) == 2


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (
            lambda run: (run / "model.safetensors").unlink(),
            r"has not finished: go on with `tenshot adapt --resume .*dap`",
        ),
        (lambda run: (run / "config.json").unlink(), "is not a run's folder: it has no config.json"),
        (shutil.rmtree, "there is no run .*dap: give the folder"),
    ],
    ids=["unfinished", "no run", "nothing"],
)
def test_what_is_no_finished_run_is_refused_in_a_sentence(run, tmp_path, prepare, said):
    prepare(run)
    with pytest.raises(TenshotError, match=said):
        write_report(run, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


# What others wrote is text


NASTY = "<script>alert(1)<&\"'{{7*7}}"


def test_names_from_outside_are_shown_as_text(runs):
    run = (runs / "dap").rename(runs / NASTY)
    config = json.loads((run / "config.json").read_text())
    config["shots"] = f"{NASTY}\x1b‮"
    (run / "config.json").write_text(json.dumps(config))
    model = load_model(run)
    model.card["source"]["card"]["licence"] = NASTY
    save_model(run / "model.safetensors", model)
    decisions = (run / "decisions.jsonl").read_text().replace('"conv1"', json.dumps(NASTY))
    (run / "decisions.jsonl").write_text(decisions)
    stats = (run / "stats.jsonl").read_text().replace('"path"', json.dumps(NASTY))
    (run / "stats.jsonl").write_text(stats)
    metrics = {"step": 1, "metrics": {NASTY: {"value": 1.0}, "x": {"failed": NASTY}}}
    (run / "metrics.jsonl").write_text(json.dumps(metrics) + "\n")
    page = Page(write_report(run, compare=[runs / "finetune"]))
    assert not page.all("script")
    assert page.text_of("h1") == [NASTY]
    assert NASTY in page.text_of("dd") and NASTY in page.text_of("th") and NASTY in page.text_of("figcaption")
    assert any(NASTY in text for text in page.text_of("li"))
    assert f"{NASTY}\\x1b\\u202e" in page.text_of("dd"), "invisible characters are written out"
    assert "49" not in page.text_of("h1")[0] and "\x1b" not in page.text


# Side by side


def test_runs_stand_side_by_side_on_the_same_latents(runs):
    out = write_report(runs / "dap", compare=[runs / "finetune", runs / "dap", runs / "finetune"])
    assert out == runs / "dap" / "comparison.html"
    page = Page(out)
    assert page.sections == ["comparison", *ALL]
    for letter, name in (("A", "dap"), ("B", "finetune")):
        expected = as_rows(generate_images(load_model(runs / name), range(8)))
        assert np.array_equal(page.images(rf"run {letter}, seed \d+"), expected)
    assert not [attrs for attrs in page.all("img") if attrs["alt"].startswith("run C")]
    order = [attrs["alt"] for attrs in page.all("img") if attrs["alt"].startswith("run ")][:4]
    assert order == ["run A, seed 0", "run B, seed 0", "run A, seed 1", "run B, seed 1"]
    in_losses = [a["class"] for tag, a, around in page.tags if tag == "polyline" and a["class"].startswith("line s")][
        :4
    ]
    assert in_losses == ["line s0", "line s1"] * 2


def test_the_table_of_a_comparison_has_a_gap_where_a_run_has_no_number(runs):
    page = Page(write_report(runs / "finetune", compare=[runs / "dap"]))
    cells = [data.replace("\N{NO-BREAK SPACE}", " ") for name, data in page.words if name in ("td", "th")]
    rows = [i for i, text in enumerate(cells) if text == "pruned, generator"]
    row = [text for text in cells[rows[0] :] if text.strip()][:3]
    assert row[1] == "–" and row[2].endswith(" %")
    assert cells.index("method") < cells.index("finetune") < cells.index("dap")


def test_latents_of_different_sizes_are_not_called_the_same(runs):
    other = tiny_model(latent_size=8)
    model = load_model(runs / "finetune")
    save_model(runs / "finetune" / "model.safetensors", type(model)(other.generator, None, model.card))
    page = Page(write_report(runs / "dap", compare=[runs / "finetune"]))
    assert "one seed is not one latent here" in page.text


def test_more_runs_than_fit_are_refused(run):
    with pytest.raises(TenshotError, match="9 runs do not fit side by side: compare at most 8"):
        write_report(run, compare=[Path(f"run{i}") for i in range(8)])


@pytest.mark.parametrize(
    ("others", "sentence"),
    [
        ([], "--compare names no run: give the folder of another finished run, or leave it out"),
        (["dap"], "dap would be compared with itself alone: name another finished run, or compare with none"),
        (["dap", "finetune/../dap"], "dap would be compared with itself alone"),
    ],
)
def test_a_comparison_with_no_other_run_is_refused_and_nothing_written(runs, monkeypatch, capsys, others, sentence):
    monkeypatch.chdir(runs)
    before = sorted(runs.rglob("*"))
    assert main(["report", "dap", "--compare", *others]) == 1
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert sorted(runs.rglob("*")) == before


def test_an_unfinished_run_to_compare_with_is_named(runs):
    (runs / "finetune" / "model.safetensors").unlink()
    with pytest.raises(TenshotError, match=r"finetune has no model\.safetensors"):
        write_report(runs / "dap", compare=[runs / "finetune"])


# Likeness


def test_distances_are_root_mean_squares_of_small_images(runs):
    samples, shots = tiny_shots(5, seed=1), tiny_shots(3)
    found = likeness.compare(samples, shots, likeness.Eye())
    assert found.space == likeness.PIXELS

    def distance(a, b):
        return ((a.double() - b.double()) / 255).square().mean().sqrt().item()

    for i, sample in enumerate(samples):
        both = [(distance(sample, s), k, False) for k, s in enumerate(shots)]
        both += [(distance(sample, s.flip(2)), k, True) for k, s in enumerate(shots)]
        least = min(both)
        assert (found.nearest[i], found.mirrored[i]) == least[1:]
        assert found.distance[i] == pytest.approx(least[0])
    pairs = [(0, 1), (0, 2), (1, 2)]
    alike = [min(distance(shots[a], shots[b]), distance(shots[a], shots[b].flip(2))) for a, b in pairs]
    assert found.threshold == pytest.approx(min(alike))
    among = [distance(samples[a], samples[b]) for a in range(5) for b in range(a)]
    of_shots = np.mean([distance(shots[a], shots[b]) for a, b in pairs])
    assert found.variety == pytest.approx(np.mean(among) / of_shots)


def test_a_generator_that_repeats_its_shots_is_found_out_even_mirrored(runs):
    shots = tiny_shots(4)
    copies = torch.cat([shots, shots.flip(3), tiny_shots(2, seed=9)])
    found = likeness.compare(copies, shots, likeness.Eye())
    assert found.nearest[:8] == (0, 1, 2, 3) * 2 and found.copies == 8
    assert found.mirrored[:4] == (False,) * 4 and found.mirrored[4:8] == (True,) * 4
    assert max(found.distance[:8]) < 1e-6
    collapsed = likeness.compare(shots[:1].repeat(6, 1, 1, 1), shots, likeness.Eye())
    assert collapsed.variety == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("shots", [tiny_shots(1), tiny_shots(1).repeat(2, 1, 1, 1)], ids=["one", "the same twice"])
def test_without_two_different_shots_nothing_counts_as_a_copy(runs, shots):
    found = likeness.compare(tiny_shots(3), shots, likeness.Eye())
    assert found.threshold is None and found.copies is None and found.variety is None


@pytest.mark.parametrize("mirror", [False, True])
def test_a_shot_that_repeats_another_changes_no_number(runs, mirror):
    shots, samples = tiny_shots(4), torch.cat([tiny_shots(4)[1:3], tiny_shots(3, seed=9)])
    repeated = torch.cat([shots, shots[2:3].flip(3) if mirror else shots[2:3]])
    without, found = (likeness.compare(samples, given, likeness.Eye()) for given in (shots, repeated))
    assert (without.distinct, found.distinct) == (4, 4) and found.copies == without.copies >= 2
    assert found.threshold == pytest.approx(without.threshold) and found.variety == pytest.approx(without.variety)


def test_a_report_of_shots_with_a_repetition_counts_copies_and_tells_of_it(runs):
    given = runs / "dap" / "shots"
    shutil.copy(sorted(given.iterdir())[2], given / "z.png")
    page = Page(write_report(runs / "dap"))
    assert "Of 7 shots 6 are different" in " ".join(page.text_of("p"))
    assert [n.label for n in words.key_numbers(read_run(runs / "dap", likeness.Eye()))][:2] == [
        "near copies",
        "variety",
    ]


def test_why_copies_cannot_be_counted_is_told_where_the_number_would_stand(runs):
    first, *others = sorted((runs / "dap" / "shots").iterdir())
    for other in others:
        shutil.copy(first, other)
    page = Page(write_report(runs / "dap"))
    (told,) = [n for n in words.key_numbers(read_run(runs / "dap", likeness.Eye())) if n.label == "near copies"]
    assert told.value == "not known" and told.meaning.endswith("and there is only one")
    assert told.meaning in page.text_of("dd")
    assert "Of 6 shots 1 is different, the others repeat it" in " ".join(page.text_of("p"))
    assert "What counts as a near copy is not known" in " ".join(page.text_of("p"))


def test_with_the_extra_the_network_compares():
    try:
        efflite.weights_path()
    except TenshotError:
        pytest.skip("the weights of EfficientNet-Lite0 are not installed")
    shots = tiny_shots(3)
    found = likeness.compare(torch.cat([shots, tiny_shots(1, seed=5)]), shots, likeness.Eye())
    assert found.space == likeness.FEATURES
    assert found.nearest[:3] == (0, 1, 2) and max(found.distance[:3]) < 1e-3 < found.distance[3] < 2


# Pictures


def test_a_small_picture_keeps_every_pixel_and_a_large_one_is_reduced():
    small = tiny_shots(1)[0].repeat(1, 4, 4)
    kept = pictures.picture(small, "small")
    assert np.array_equal(pixels(kept.uri), small.permute(1, 2, 0).numpy()) and kept.side == 64
    large = pictures.picture(small.repeat(1, 16, 16), "large")
    assert pixels(large.uri).shape == (256, 256, 3) and large.side == 1024


def test_without_webp_a_picture_is_a_png(monkeypatch):
    monkeypatch.setattr(pictures.features, "check", lambda name: False)
    shot = tiny_shots(1)[0]
    found = pictures.picture(shot, "shot")
    assert found.uri.startswith("data:image/png;") and np.array_equal(pixels(found.uri), shot.permute(1, 2, 0).numpy())


def test_a_picture_that_is_no_sheet_has_no_tiles(tmp_path):
    Image.new("RGB", (101, 50)).save(tmp_path / "odd.png")
    (tmp_path / "text.png").write_text("text")
    Image.effect_noise((406, 406), 90).save(tmp_path / "torn.png")
    torn = bytearray((tmp_path / "torn.png").read_bytes())
    second = torn.index(b"IDAT", torn.index(b"IDAT") + 4)
    torn[second : second + 4] = b"\0\0\0\0"  # Pillow calls it a SyntaxError
    (tmp_path / "torn.png").write_bytes(torn)
    names = ("odd.png", "text.png", "none.png", "torn.png")
    assert [pictures.first_tiles(tmp_path / name, 6, 2, 5) for name in names] == [[]] * 4


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1" + "0" * 400, "1e308"])
def test_what_no_run_would_write_is_no_number(value):
    assert not is_number(json.loads(value)) and is_number(1e9)


def test_what_pretrain_sets_by_itself_does_not_count_as_a_change():
    config = RunConfig("faces", source="scratch-16-128-16-16-2", method=Pretrain(), **PRETRAINING)
    differing = {setting.flag for setting in words.settings(config) if setting.default is not None}
    assert differing == {"--method", "--source"}


# Command line


def test_the_command_ends_with_three_numbers_and_where_the_report_lies(run, capsys, tmp_path):
    assert main(["report", str(run), "--out", str(tmp_path / "page.html")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["near", "variety", "pruned", "report"]
    assert lines[-1].split()[1] == str(tmp_path / "page.html") and (tmp_path / "page.html").is_file()


def test_the_command_compares_several_runs(runs, capsys):
    assert main(["report", str(runs / "dap"), "--compare", str(runs / "finetune"), str(runs / "dap")]) == 0
    assert (runs / "dap" / "comparison.html").is_file() and not (runs / "dap" / "report.html").exists()


@pytest.mark.parametrize(("out", "said"), [("page.pdf", "the name must end in .html"), ("x.html/y.html", "cannot ")])
def test_a_place_that_cannot_hold_a_report_is_refused(run, tmp_path, capsys, monkeypatch, out, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.html").write_text("a file")
    assert main(["report", str(run), "--out", out]) == 1
    error = capsys.readouterr().err
    assert error.startswith("tenshot report: ") and said in error and error.count("\n") == 1


def test_numbers_are_told_as_they_are():
    like = likeness.Likeness("x", (0,) * 3, (False,) * 3, (0.1, 0.2, 0.9), 2, 0.5, 1.25)
    facts = {"steps": 1500, "seconds": 126.0, "histories": [], "metrics": [], "card": {}, "model": tiny_model()}
    subject = SimpleNamespace(likeness=like, **facts)

    def plain(text):
        return text.replace("\N{NO-BREAK SPACE}", " ")

    assert [plain(number.value) for number in words.key_numbers(subject)] == ["2 of 3", "1.25", "2 min 6 s"]
    compared = {name: plain(value) for name, value in comparison._numbers(subject).items()}
    assert compared == {"steps": "1,500", "time": "2 min 6 s", "near copies": "2 of 3", "variety": "1.25"}
    assert [plain(words.duration(seconds)) for seconds in (8.44, 12_000)] == ["8.4 s", "3 h 20 min"]
