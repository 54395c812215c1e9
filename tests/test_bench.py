"""tenshot bench: nothing is run twice, nothing is lost, and pages say what the results say."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path
from unittest import mock

import pytest
import torch
from scipy import stats

import quick_bench
from tenshot import loop
from tenshot.__main__ import main
from tenshot.bench import intervals, machine, work
from tenshot.bench.claims import claimed, is_claimed
from tenshot.bench.cluster import Cluster
from tenshot.bench.processes import Processes
from tenshot.bench.results import Results, read_result, write_result
from tenshot.bench.sources import source_sha256
from tenshot.bench.specs import all_jobs, read_spec, selected
from tenshot.bench.spread import TRIES, spread
from tenshot.bench.tables import Shelf, fill_places, grid, is_marked, ratios, shortest, shown_column
from tenshot.bench.work import Outcome, Places, carry_out
from tenshot.cli.bench import PAGES
from tenshot.config import RunConfig
from tenshot.errors import TenshotError
from tenshot.methods import METHODS
from tenshot.metrics import OFFLINE
from tenshot.models import file_digest, save_model
from tenshot.sampling import generate_images
from tenshot.sheets import png, to_pillow
from tiny import tiny_model

ROOT = Path(__file__).parents[1]
QUALITY = ROOT / "benchmarks" / "quality"
SPECS = [QUALITY / f"{name}.json" for name in ("table", "earlier", "pixelart", "long")]
SPECS += [path for folder in ("ablations", "published") for path in sorted(QUALITY.glob(f"{folder}/*.json"))]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
MATRIX = {
    "settings": {"source": "tiny.safetensors", "steps": 8, "batch": 2, "checkpoint_every": 4, "sample_every": 0},
    "variants": {
        "finetune": {},
        "eager": {"method": "dap", "dap": {"warmup": 0.2, "every": 2, "prune_mass": 0.1, "guards": {"min_alive": 2}}},
    },
    "domains": ["dots", "dashes"],
    "seeds": [0, 1],
}


@pytest.fixture
def there(tmp_path):
    """A folder with data for two domains, a source, a spec of eight runs, and places."""
    data = tmp_path / "data"
    data.mkdir()
    source = tiny_model()
    save_model(data / "tiny.safetensors", source)
    for k, domain in enumerate(MATRIX["domains"]):
        with zipfile.ZipFile(data / f"{domain}.zip", "w") as archive:
            for folder, seeds in (("shots", range(k, 5 + k)), ("heldout", range(100, 112))):
                for i, image in enumerate(generate_images(source, seeds)):
                    archive.writestr(f"{folder}/{i}.png", png(to_pillow(image)))
    write_spec(tmp_path, MATRIX)
    return tmp_path


def write_spec(folder, values):
    (folder / "spec.json").write_text(json.dumps(values))
    return folder / "spec.json"


def places_of(folder):
    places = Places(folder / "data", folder / "work", folder / "results")
    places.work.mkdir(exist_ok=True)
    return places


def small(**changes):
    """The matrix with one seed, one domain and one variant, changed."""
    return {**MATRIX, "domains": ["dots"], "seeds": [0], "variants": {"finetune": {}}, **changes}


def result_of(folder, values):
    """Run a spec's only job here; its result."""
    (job,) = read_spec(write_spec(folder, values)).jobs
    outcome = quick_bench.quick(job, places_of(folder), torch.get_num_threads())
    assert (outcome.state, outcome.reason) == ("done", "")
    return json.loads(places_of(folder).result(job).read_text())


class TestSpecs:
    def test_a_variant_is_its_presets_settings_with_what_differs(self, tmp_path):
        variants = {"freezed": {}, "x": {"method": "dap", "lr": 0.001, "dap": {"guards": {"max_ratio": 0.3}}}}
        jobs = read_spec(write_spec(tmp_path, {"variants": variants, "domains": ["a"], "seeds": [3]})).jobs
        assert jobs[0].config == RunConfig(shots="a.zip/shots", method=METHODS["freezed"](), seed=3)
        assert (jobs[1].config.lr, jobs[1].config.method.guards.max_ratio) == (0.001, 0.3)
        assert jobs[1].config.method.prune_mass == METHODS["dap"]().prune_mass

    def test_a_methods_settings_for_all_are_those_of_its_variants_alone(self, tmp_path):
        variants = {"finetune": {}, "dap": {}, "x": {"method": "dap", "dap": {"reach": 2.0}}}
        matrix = {"settings": {"dap": {"reach": 1.0, "spread": 1.5}}, "domains": ["a"], "seeds": [0]}
        jobs = read_spec(write_spec(tmp_path, {**matrix, "variants": variants})).jobs
        assert jobs[0].config == RunConfig(shots="a.zip/shots", method=METHODS["finetune"](), seed=0)
        assert [(job.config.method.reach, job.config.method.spread) for job in jobs[1:]] == [(1.0, 1.5), (2.0, 1.5)]

    def test_a_domain_or_seed_that_is_named_twice_counts_once(self, tmp_path):
        spec = read_spec(write_spec(tmp_path, {"variants": {"dap": {}}, "domains": ["a", "b", "a"], "seeds": [1, 1]}))
        assert (spec.domains, spec.seeds, len(spec.jobs)) == (("a", "b"), (1,), 2)

    def test_one_run_whose_method_is_no_name_is_told_in_a_sentence(self, tmp_path):
        with pytest.raises(TenshotError, match=r"spec\.json: method is \['dap'\]: it must be a name"):
            read_spec(write_spec(tmp_path, {"method": ["dap"], "domain": "a"}))

    def test_a_method_without_presets_is_told_in_a_sentence(self, tmp_path):
        with pytest.raises(TenshotError, match="pretrain has no presets: give an instance of Pretrain"):
            read_spec(write_spec(tmp_path, {"method": "pretrain", "domain": "a"}))

    def test_one_run_can_be_a_spec_of_its_own(self, tmp_path):
        (job,) = read_spec(write_spec(tmp_path, {"method": "cdc", "domain": "a", "seed": 2, "batch": 6})).jobs
        assert (job.variant, job.domain, job.config.seed, job.config.batch) == ("cdc", "a", 2, 6)
        assert job.metrics == OFFLINE

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"settings": {"shots": "{d}.zip/{"}}, None),
            ({"variants": {"dap": {"dap": 5}}}, "dap is 5: it must be an object of settings"),
            ({"variants": {"x": {"method": ["a"]}}}, r"method is \['a'\]: it must be a name"),
            ({"settings": {"preset": ["a"]}}, r"preset is \['a'\]: it must be a name"),
            ({"domains": [["a"]]}, r"domain is \['a'\]: it must be a name"),
            ({"variants": {"dap": None}}, "a variant is None: it must be an object of settings"),
            ({"variants": {"dap": 5}}, "a variant is 5: it must be an object of settings"),
            ({"metrics": [["a"]]}, r"metrics has \['a'\]; known are"),
        ],
    )
    def test_a_slip_in_a_spec_is_told_in_a_sentence(self, tmp_path, changes, sentence):
        path = write_spec(tmp_path, {"variants": {"dap": {}}, "domains": ["a"], "seeds": [0], **changes})
        if sentence is None:  # braces that are no place for the domain are a name like any other
            assert read_spec(path).jobs[0].config.shots == "{d}.zip/{"
        else:
            with pytest.raises(TenshotError, match=rf"spec\.json: {sentence}"):
                read_spec(path)

    def test_one_run_may_say_what_it_is_for(self, tmp_path):
        path = write_spec(tmp_path, {"what": "a try", "method": "cdc", "domain": "a"})
        assert read_spec(path).jobs[0].config.method.name == "cdc"

    def test_a_run_that_two_specs_name_is_measured_by_the_metrics_of_both(self, tmp_path):
        one, other = (
            read_spec(write_spec(tmp_path, {**MATRIX, "metrics": names}))
            for names in (["fd_efflite_2k"], ["prdc_2k", "fd_efflite_2k"])
        )
        jobs = all_jobs([one, other])
        assert len(jobs) == 8 and {job.metrics for job in jobs} == {("fd_efflite_2k", "prdc_2k")}

    def test_a_spec_says_what_is_measured(self, tmp_path):
        one = {"method": "cdc", "domain": "a", "metrics": ["fd_efflite_500"]}
        for values in (one, {**MATRIX, "metrics": ["fd_efflite_500"]}):
            assert {job.metrics for job in read_spec(write_spec(tmp_path, values)).jobs} == {("fd_efflite_500",)}

    def test_seeds_come_before_domains_and_domains_before_variants(self, tmp_path):
        jobs = all_jobs([read_spec(write_spec(tmp_path, MATRIX))] * 2)
        order = [(job.config.seed, job.domain, job.variant) for job in jobs]
        assert order == [(s, d, v) for s in (0, 1) for d in ("dots", "dashes") for v in ("finetune", "eager")]

    def test_a_run_that_two_specs_name_is_one(self, tmp_path):
        one = read_spec(write_spec(tmp_path, MATRIX))
        other = read_spec(
            write_spec(tmp_path, {**MATRIX, "variants": {"plain": {"method": "finetune"}}, "seeds": [1, 2]})
        )
        assert len(all_jobs([one, other])) == 8 + 2

    def test_a_filter_keeps_any_value_of_each_key(self, tmp_path):
        jobs = all_jobs([read_spec(write_spec(tmp_path, MATRIX))])
        kept = selected(jobs, "variant=eager,variant=finetune,domain=dots,seed=1")
        assert [(job.variant, job.domain, job.config.seed) for job in kept] == [
            ("finetune", "dots", 1),
            ("eager", "dots", 1),
        ]

    @pytest.mark.parametrize(
        "changes, message",
        [
            ({"variants": {"dap": {"pruning": 1}}}, "dap has pruning, which is no setting"),
            ({"variants": {"dap": {"dap": {"mass": 1}}}}, "unknown setting mass"),
            ({"variants": {"dip": {}}}, "no method 'dip'"),
            ({"seed": 1}, "unknown key seed"),
            ({"seeds": []}, "nothing may be empty"),
            ({"settings": {"eval_real": "x"}}, "no setting of a run"),
            ({"settings": {"first": -1}}, "first is -1"),
            ({"metrics": ["fid_5k", "fid"]}, "metrics has fid; known are"),
            ({"domains": ["../a"]}, "domain is '../a': it must be the name of a zip without .zip, not a path"),
            ({"metrics": "fid_5k"}, "must be a list of names"),
        ],
    )
    def test_a_fault_is_told_with_the_files_name(self, tmp_path, changes, message):
        with pytest.raises(TenshotError, match=message) as told:
            read_spec(write_spec(tmp_path, {**MATRIX, **changes}))
        assert "spec.json" in str(told.value)

    def test_the_table_is_nine_methods_on_six_domains_with_three_seeds_tune_domains_first(self):
        spec = read_spec(QUALITY / "table.json")
        assert set(spec.variants) == set(METHODS) and len(spec.jobs) == 9 * 6 * 3
        assert spec.domains[:3] == ("sketch", "toonHead", "bottts")
        shared = {(j.config.steps, j.config.batch, j.config.precision, j.config.source) for j in spec.jobs}
        assert shared == {(600, 4, "bfloat16", "faces64")}

    @pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
    def test_every_spec_of_the_repository_names_runs_and_no_place_of_a_machine(self, path):
        spec = read_spec(path)
        assert len({(job.subject, job.source_sha256) for job in spec.jobs}) == len(spec.jobs)
        assert not any(Path(p).is_absolute() for job in spec.jobs for p in (job.config.shots, job.held_out))


class TestJob:
    def test_a_result_carries_config_numbers_costs_versions_and_hashes(self, there):
        found = result_of(there, small(variants={"eager": MATRIX["variants"]["eager"]}))
        assert found["metrics"].keys() == {"fd_efflite_2k", "kd_efflite_2k", "prdc_2k", "intra_dist_1k", "copy_rate_1k"}
        assert found["config"]["shots"] == "dots.zip/shots" and found["config"]["dap"]["every"] == 2
        assert all(re.fullmatch("[0-9a-f]{64}", found["sha256"][k]) for k in ("source", "shots", "held_out", "model"))
        assert found["seconds"]["train"] > 0 and found["peak_mb"]["train"] > 50
        assert {"torch", "python", "tenshot"} <= found["versions"].keys() and found["parts"] == [0]
        assert len(found["pruned"]["generator"]["steps"]) == len(found["pruned"]["generator"]["layers"]["conv1"]) > 0
        assert str(there) not in json.dumps(found)

    def test_the_model_is_that_of_an_ordinary_run(self, there, monkeypatch):
        found = result_of(there, small())
        monkeypatch.chdir(there / "data")
        (job,) = read_spec(there / "spec.json").jobs
        loop.start(job.config, out=there / "run")
        assert file_digest(there / "run" / "model.safetensors") == found["sha256"]["model"]

    def test_only_the_first_shots_are_used_if_so_many_are_asked_for(self, there):
        found = result_of(there, small(variants={"few": {"method": "finetune", "first": 2}}))
        assert found["metrics"]["copy_rate_1k"]["n_shots"] == 2 and found["first"] == 2
        with quick_bench.coarse():
            (job,) = read_spec(write_spec(there, small(settings={**MATRIX["settings"], "first": 9}))).jobs
            outcome = carry_out(job, places_of(there))
        assert outcome.state == "failed" and "has 5 usable images, not the 9" in outcome.reason

    def test_looks_on_the_way_stand_beside_the_last_checkpoint(self, there):
        looks = {"eval_every": 2, "eval_metrics": "fd_efflite_2k"}
        found = result_of(there, small(settings={**MATRIX["settings"], **looks}))
        assert [look["step"] for look in found["looks"]] == [2, 4, 6, 8]
        values = [look["fd_efflite_2k"] for look in found["looks"]]
        assert found["best"]["fd_efflite_2k"]["value"] == min(values)
        assert values[-1] == pytest.approx(found["metrics"]["fd_efflite_2k"]["value"])

    def test_a_job_whose_scoring_was_cut_off_keeps_the_memory_of_its_training(self, there, monkeypatch):
        peaks = iter([111, 222, 333])
        monkeypatch.setattr("tenshot.bench.machine.peak_mb", lambda: next(peaks))
        with monkeypatch.context() as patch:
            patch.setattr("tenshot.bench.work.evaluate", mock.Mock(side_effect=loop.Stopped("killed")))
            (job,) = read_spec(write_spec(there, small())).jobs
            assert carry_out(job, places_of(there)).state == "stopped"
        found = result_of(there, small())
        assert found["peak_mb"] == {"train": 111, "score": 222} and found["parts"] == [0]

    def test_a_run_that_keeps_no_shots_is_resumed_and_scored_with_those_it_was_given(self, there, monkeypatch):
        whole = result_of(there, small(variants={"few": {"method": "finetune", "first": 3}}))
        shutil.rmtree(there / "results")
        shutil.rmtree(there / "work")
        monkeypatch.setattr(loop, "KEPT_SHOTS", 2)
        (job,) = read_spec(there / "spec.json").jobs
        state = spread([job], places_of(there), Processes(places_of(there), 1, 1, work=quick_bench.mortal_keeping_two))
        assert not state.failed
        (path,) = (there / "results").glob("*/*.json")
        again = json.loads(path.read_text())
        assert again["parts"] == [0, 4] and again["metrics"] == whole["metrics"]
        assert again["sha256"] == whole["sha256"]

    def test_a_result_that_was_taken_away_is_trained_for_again(self, there):
        first = result_of(there, small())
        shutil.rmtree(there / "results")
        with mock.patch.object(work.loop, "start", side_effect=loop.start) as start:
            again = result_of(there, small())
        assert start.call_count == 1 and again["parts"] == [0] and again["sha256"] == first["sha256"]

    def test_a_result_names_where_it_was_trained_not_where_it_was_scored(self, there, monkeypatch):
        facts = {"versions": {"tenshot": "0", "torch": "0"}, "machine": {}, "commit": "a", "changed": False}
        with monkeypatch.context() as patch:
            patch.setattr("tenshot.bench.machine.facts", lambda device=None: facts)
            patch.setattr("tenshot.bench.work.evaluate", mock.Mock(side_effect=loop.Stopped("killed")))
            (job,) = read_spec(write_spec(there, small())).jobs
            assert carry_out(job, places_of(there)).state == "stopped"
        found = result_of(there, small())
        assert (found["commit"], found["versions"], found["threads"]) == ("a", facts["versions"], 1)

    def test_held_out_images_that_were_trained_on_fail_the_job(self, there):
        with zipfile.ZipFile(there / "data" / "dots.zip", "a") as archive:
            archive.writestr("heldout/00.png", archive.read("shots/0.png"))
        (job,) = read_spec(write_spec(there, small())).jobs
        outcome = quick_bench.quick(job, places_of(there), 1)
        assert outcome.state == "failed" and "1 of the 10 held-out images is among the shots" in outcome.reason

    def test_losses_are_those_of_the_steps_that_have_them(self):
        entries = [{"step": 1}, {"step": 2, "d": 1.0, "g": 2.0}, {"step": 3, "d": 2.0, "skipped": 1}]
        assert work._means(entries, ("d", "g")) == {"d": 1.5, "g": 2.0}
        assert work._means(entries[:1], ("d", "g")) == {}

    def test_a_result_is_never_written_over(self, tmp_path):
        write_result(tmp_path / "a" / "x.json", {"a": 1})
        write_result(tmp_path / "a" / "x.json", {"a": 2})
        assert json.loads((tmp_path / "a" / "x.json").read_text())["a"] == 1

    def test_a_failed_job_is_told_and_leaves_no_result(self, there):
        spec = write_spec(there, small(settings={**MATRIX["settings"], "lr": 1e30}))
        state = spread(read_spec(spec).jobs, places_of(there), quick_bench.Inline(places_of(there)))
        ((name, reason),) = state.failed.items()
        assert "not finite" in reason and name.startswith("dots/finetune-0-") and not (there / "results").exists()


class TestMatrix:
    def test_what_has_a_result_is_not_run_again(self, there):
        jobs, places = read_spec(there / "spec.json").jobs, places_of(there)
        spread(jobs[:3], places, quick_bench.Inline(places))
        state = spread(jobs, places, quick_bench.Inline(places))
        began = (places.work / "began").read_text().splitlines()
        assert len(state.done) == len(began) == len(set(began)) == 8
        assert len(list(places.results.glob("*/*.json"))) == 8
        assert not list((places.work / "runs").glob("*/*/checkpoints")), "checkpoints stay behind"

    def test_results_from_before_a_metric_was_named_are_told_and_stay(self, there, capsys):
        result_of(there, small(metrics=["fd_efflite_2k"]))
        spec = write_spec(there, small(metrics=["fd_efflite_2k", "prdc_2k"]))
        options = ["--data", str(there / "data"), "--results", str(there / "results"), "--work", str(there / "work")]
        assert main(["bench", str(spec), *options, "--dry-run"]) == 0
        assert "note: 1 results lack prdc_2k and stay as they are" in capsys.readouterr().out

    def test_a_setting_that_came_later_counts_as_its_default_and_another_value_does_not(self, there):
        result_of(there, small())
        (path,) = (there / "results").glob("*/*.json")
        values = json.loads(path.read_text())
        del values["config"]["mixing"]
        path.write_text(json.dumps(values))
        (same,) = read_spec(there / "spec.json").jobs
        (other,) = read_spec(write_spec(there, small(settings={**MATRIX["settings"], "mixing": 0.5}))).jobs
        results = Results(there / "results")
        assert results.find(same, None) is not None and results.find(other, None) is None
        assert results.find(same, "another source") is None

    def test_a_result_on_the_source_that_a_spec_names_by_its_hash_stays_when_another_file_takes_its_name(self, there):
        result_of(there, small())
        data = there / "data"
        digest = file_digest(data / "tiny.safetensors")
        pinned = small(settings={**MATRIX["settings"], "source_sha256": digest})
        save_model(data / "tiny.safetensors", tiny_model(seed=9))
        (job,), (free,) = (read_spec(write_spec(there, spec)).jobs for spec in (pinned, small()))
        results = Results(there / "results")
        assert results.find(job, source_sha256(job, None)) is not None, "as a table asks, which sees no folder of data"
        assert results.find(free, source_sha256(free, data)) is None

    def test_the_source_that_a_spec_names_by_its_hash_is_found_beside_an_embedded_one_of_the_same_name(
        self, there, monkeypatch
    ):
        embedded, data = there / "embedded", there / "data"
        embedded.mkdir()
        save_model(embedded / "tiny.safetensors", tiny_model(seed=9))
        monkeypatch.setattr("tenshot.models.EMBEDDED", embedded)
        digest = file_digest(data / "tiny.safetensors")
        settings = {**MATRIX["settings"], "source": "tiny"}
        values = result_of(there, small(settings={**settings, "source_sha256": digest}))
        assert (values["config"]["source"], values["sha256"]["source"]) == ("tiny", digest)
        other = result_of(there, small(settings=settings))
        assert other["sha256"]["source"] != digest and other["sha256"]["model"] != values["sha256"]["model"]

    def test_a_source_that_is_not_the_one_a_spec_names_is_refused_before_anything_runs(self, there, capsys):
        spec = write_spec(there, small(settings={**MATRIX["settings"], "source_sha256": "ab" * 32}))
        options = [f"--{name}={there / name}" for name in ("data", "work", "results")]
        assert main(["bench", str(spec), *options]) == 1
        told = capsys.readouterr().err
        assert "the runs are about the tiny.safetensors of sha256 abababababab..., and" in told
        assert "put that one into" in told and not (there / "work" / "runs").exists()

    def test_a_hash_that_is_none_is_told_in_a_sentence(self, tmp_path):
        values = {"variants": {"dap": {"source_sha256": "abc"}}, "domains": ["a"], "seeds": [0]}
        with pytest.raises(TenshotError, match="source_sha256 is 'abc': it must be the 64 hexadecimal digits"):
            read_spec(write_spec(tmp_path, values))

    def test_a_worker_that_is_killed_is_followed_by_one_that_goes_on_to_the_same_result(self, there):
        job, places, threads = read_spec(there / "spec.json").jobs[1], places_of(there), torch.get_num_threads()
        state = spread([job], places, Processes(places, 2, threads, work=quick_bench.mortal))
        assert state.done == [job] and not state.failed and len(list(places.work.glob("*.died"))) == 1
        found = read_result(places.result(job)).values
        assert found["parts"] == [0, 4]
        unbroken = Places(places.data, there / "work2", there / "results2")
        unbroken.work.mkdir()
        assert quick_bench.quick(job, unbroken, threads).state == "done"
        again = read_result(unbroken.result(job)).values
        assert again["sha256"] == found["sha256"] and again["metrics"] == found["metrics"]
        assert again["pruned"] == found["pruned"] and again["losses"] == found["losses"]

    def test_a_job_whose_worker_dies_again_and_again_is_given_up_and_holds_up_no_other(self, there):
        def dies(job, places, threads):
            began.append(job)
            return Outcome("died", "gone") if job == jobs[0] else quick_bench.quick(job, places, threads)

        jobs, places, began = read_spec(there / "spec.json").jobs[:2], places_of(there), []
        state = spread(jobs, places, quick_bench.Inline(places, dies))
        assert state.failed == {places.name(jobs[0]): "gone"} and state.done == [jobs[1]]
        assert began.count(jobs[0]) == TRIES

    def test_a_run_that_is_told_to_stop_ends_at_a_checkpoint_and_goes_on_later(self, there):
        def stopped(step, *arguments):
            if arguments[1] == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return step(*arguments)

        job, places, threads = read_spec(there / "spec.json").jobs[0], places_of(there), torch.get_num_threads()
        before = signal.getsignal(signal.SIGTERM)
        with mock.patch.object(loop, "run_step", partial(stopped, loop.run_step)):
            assert quick_bench.quick(job, places, threads).state == "stopped"
        assert signal.getsignal(signal.SIGTERM) == before
        assert quick_bench.quick(job, places, threads).state == "done"
        assert read_result(places.result(job)).values["parts"] == [0, 3]

    def test_two_processes_on_one_matrix_run_nothing_twice_and_both_wait_for_the_end(self, there):
        places = places_of(there)
        write_spec(there, {**MATRIX, "seeds": [0]})
        command = [sys.executable, str(ROOT / "tests" / "quick_bench.py"), str(there)]
        both = [subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        assert [process.communicate(timeout=240)[0].split() for process in both] == [["4", "0"], ["4", "0"]]
        began = [line.split()[0] for line in (places.work / "began").read_text().splitlines() if "done" in line]
        parts = [path.read_text().count('"from"') for path in (places.work / "claims").rglob("*.jsonl")]
        assert sorted(parts) == [1] * 4 and len(set(began)) == 4
        assert len(list(places.results.glob("*/*.json"))) == 4

    def test_a_claim_ends_with_its_process(self, tmp_path):
        code = (
            "import sys, time; from pathlib import Path; from tenshot.bench.claims import claimed\n"
            "with claimed(Path(sys.argv[1])) as ours: print(ours, flush=True); time.sleep(60)"
        )
        path = tmp_path / "x.lock"
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(path)], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout.readline() == "True\n"
        with claimed(path) as is_ours:
            assert not is_ours
        assert is_claimed(path)
        process.kill()
        process.wait()
        process.stdout.close()
        assert not is_claimed(path)
        with claimed(path) as is_ours, claimed(path) as again:
            assert is_ours and not again


class TestIntervals:
    @pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 9, 10, 29, 120])
    @pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
    def test_quantiles_are_students(self, freedom, level):
        assert intervals.quantile(level, freedom) == pytest.approx(stats.t.ppf(0.5 + level / 2, freedom), rel=1e-9)

    @pytest.mark.parametrize("n", [2, 3, 7])
    def test_intervals_are_scipys(self, n):
        values = torch.randn(n, generator=torch.Generator().manual_seed(n)).tolist()
        low, high = stats.t.interval(0.95, n - 1, loc=sum(values) / n, scale=stats.sem(values))
        found = intervals.estimate(values)
        assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high), rel=1e-9)

    def test_a_single_number_has_no_interval(self):
        assert intervals.estimate([3.0]) == intervals.Estimate(3.0, None, 1)


class TestTables:
    @pytest.fixture
    def spec(self, tmp_path):
        return read_spec(write_spec(tmp_path, {**MATRIX, "seeds": [0, 1, 2]}))

    def test_a_matrix_that_is_not_whole_says_what_is_missing(self, spec):
        numbers = {
            ("finetune", "dots"): {0: 10.0, 1: 12.0, 2: 11.0},
            ("finetune", "dashes"): {0: 5.0, 2: 7.0},
            ("eager", "dots"): {1: 9.0},
        }
        lines = grid(spec, numbers, "lower").splitlines()
        assert lines[0] == "| | dots | dashes | mean |"
        assert lines[2] == "| finetune | 11.0 ± 2.5 | 6.00 ± 12.71 (n=2) | 8.25 ± 9.53 (n=2) |"
        assert lines[3] == "| eager | **9.0** (n=1) | – | – |".replace("**9.0** (n=1)", "**9.0 (n=1)**")
        assert "**6 of 12 runs are missing**" in lines[-1]

    def test_where_there_is_nothing_there_is_no_table(self, spec):
        assert grid(spec, {}, "higher") == "*No results yet: 12 runs are to be done.*"

    def test_a_whole_matrix_says_nothing_of_numbers_of_seeds(self, spec):
        numbers = {(v, d): {0: 0.5, 1: 0.5, 2: 0.5 + (v == "eager")} for v in spec.variants for d in spec.domains}
        text = grid(spec, numbers, "higher")
        assert "missing" not in text and "n=" not in text and text.count("**") == 6

    def test_what_looks_the_same_as_the_best_is_as_bold_and_all_alike_is_not_bold_at_all(self, spec):
        numbers = {("finetune", "dots"): {0: 2e-5, 1: 0.0}, ("eager", "dots"): {0: 0.0, 1: 1e-5}}
        assert "**" not in grid(spec, numbers, "lower").replace("**8 of 12 runs are missing**", "")
        assert shown_column({"a": [0.204], "b": [0.2041], "c": [0.3]}, 1, "lower") == {
            "a": "**0.204**",
            "b": "**0.204**",
            "c": "0.300",
        }

    def test_below_chance_nothing_is_better(self):
        column = {"a": [0.0], "b": [0.0007], "c": [0.02]}
        assert shown_column(column, 1, "lower", chance=0.01) == {"a": "**0.0000**", "b": "**0.0007**", "c": "0.0200"}
        assert shown_column({"a": [0.0], "b": [0.0007]}, 1, "lower", chance=0.01) == {"a": "0.0000", "b": "0.0007"}

    def test_an_interval_that_is_small_does_not_look_like_none(self):
        column = {"a": [178.16 - 0.1, 178.16 + 0.1], "b": [300.0, 300.0]}
        assert shown_column(column, 2, "lower") == {"a": "**178 ± 1**", "b": "300 ± 0"}
        assert shown_column({"a": [178.16, 178.2], "b": [300.0]}, 1, "lower")["a"] == "**178 ± 0.3**"

    def test_a_page_that_is_no_text_is_told(self, there, capsys):
        (there / "page.md").write_bytes(b"\xff\xfe")
        assert main(["bench", "table", str(there / "page.md"), "--specs", str(there)]) == 1
        assert "page.md is no page of text: it is not UTF-8" in capsys.readouterr().err

    def test_times_are_those_of_the_shortest_runs(self, spec):
        numbers = {
            ("finetune", "dots"): {0: 100.0, 1: 310.0},
            ("finetune", "dashes"): {0: 120.0},
            ("eager", "dots"): {2: 150},
        }
        rows = shortest(spec, numbers).splitlines()[2:]
        assert rows == ["| finetune | 100 | 1.00 | 3 |", "| eager | 150 | 1.50 | 1 |"]

    def test_ratios_are_taken_seed_by_seed(self):
        numbers = {("a", "x"): {0: 2.0, 1: 9.0}, ("b", "x"): {0: 4.0, 1: 6.0, 2: 1.0}, ("b", "y"): {0: 1.0}}
        assert ratios(numbers, "a") == {
            ("a", "x"): {0: 1, 1: 1},
            ("b", "x"): {0: 2, 1: pytest.approx(2 / 3)},
            ("b", "y"): {},
        }

    def test_a_page_is_written_between_its_markers_and_nowhere_else(self, there, capsys):
        for seed in (0, 1):
            result_of(there, small(seeds=[seed]))
        write_spec(there, small(seeds=[0, 1]))
        page = there / "page.md"
        page.write_text(
            "before <!-- bench:x --> stays\n\n<!-- bench:spec fd_efflite_2k -->\nold\n<!-- /bench -->\n\nafter\n"
        )
        arguments = ["bench", "table", str(page), "--specs", str(there)]
        assert main([*arguments, "--check"]) == 1 and "old" in page.read_text()
        assert main(arguments) == 0 and main([*arguments, "--check"]) == 0
        text = page.read_text()
        assert text.startswith("before <!-- bench:x --> stays\n\n<!-- bench:spec") and text.endswith("-->\n\nafter\n")
        values = [
            read_result(p).values["metrics"]["fd_efflite_2k"]["value"] for p in (there / "results").glob("*/*.json")
        ]
        shown = re.search(r"\| finetune \| (\S+) ± (\S+) \|", text)
        assert float(shown[1]) == pytest.approx(sum(values) / 2, rel=0.01)
        for name in ("seconds", "prdc_2k.recall", "fd_efflite_2k over finetune", "facts"):
            text = Shelf(there, Results(there / "results")).render(f"spec {name}")
            assert ("| runs | 2 of 2 |" if name == "facts" else "finetune") in text
        assert Shelf(there, Results(there / "results")).render("spec fd_efflite_2k of finetune") == "*No pairs yet.*"
        (there / "empty").mkdir()
        assert "| runs | 0 of 2 |" in Shelf(there, Results(there / "results")).render("spec facts in empty")
        assert "| runs | 2 of 2 |" in Shelf(there, Results(there / "empty")).render("spec facts in results")

    @pytest.mark.parametrize(
        "name",
        [
            "spec fid",
            "spec prdc_2k.beauty",
            "spec fd_efflite_2k over nobody",
            "spec fd_efflite_2k of nobody",
            "nowhere x",
            "spec facts in nowhere",
        ],
    )
    def test_a_marker_for_what_there_is_not_is_told(self, there, name):
        with pytest.raises(TenshotError):
            Shelf(there, Results(there / "results")).render(name)

    def test_a_place_that_does_not_end_before_the_next_is_refused_and_swallows_nothing(self):
        whole = "<!-- bench:b y -->\nold\n<!-- /bench -->\n"
        assert (
            fill_places(f"before\n{whole}after", str) == "before\n<!-- bench:b y -->\n\nb y\n\n<!-- /bench -->\nafter"
        )
        for text in (f"<!-- bench:a x -->\nkeep me\n{whole}", f"{whole}<!-- bench:a x -->\nkeep me\n"):
            with pytest.raises(TenshotError, match=r"^<!-- bench:a x --> has no <!-- /bench --> before the next place"):
                fill_places(text, str)

    @pytest.mark.parametrize("page", PAGES)
    def test_pages_agree_with_the_results_that_are_committed(self, page):
        assert is_marked(ROOT / page)
        text = (ROOT / page).read_text(encoding="utf-8")
        assert Shelf(QUALITY, Results(QUALITY / "results")).fill(text) == text, "run `tenshot bench table`"

    def test_a_result_names_the_gpu_that_it_was_computed_on(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"a card, {device.index}")
        assert machine.facts(torch.device("cuda", 1))["machine"]["gpu"] == "a card, 1"
        assert "gpu" not in machine.facts(torch.device("cpu"))["machine"]

    def test_an_installed_tenshot_names_no_commit_of_the_repository_around_it(self, tmp_path, monkeypatch):
        package = tmp_path / "site-packages" / "tenshot"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
        (tmp_path / ".gitignore").write_text("site-packages\n")
        author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        for words in (["init", "-q"], ["add", ".gitignore"], [*author, "commit", "-qm", "x"]):
            subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
        monkeypatch.setattr(machine, "PACKAGE", package)
        assert machine.commit() == {"commit": None, "changed": None}
        subprocess.run(["git", "-C", str(tmp_path), "add", "-f", str(package)], check=True)
        assert len(machine.commit()["commit"]) == 40 and machine.commit()["changed"] is True

    def test_committed_results_name_no_place_of_a_machine(self):
        faults = [p for p in QUALITY.glob("results*/*/*.json") if re.search(r'"/\w', p.read_text(encoding="utf-8"))]
        assert not faults


class TestCommand:
    def test_a_matrix_from_the_command_line(self, there, capsys, monkeypatch):
        monkeypatch.setattr("tenshot.cli.bench.Processes", lambda places, workers, threads: quick_bench.Inline(places))
        arguments = ["bench", str(there / "spec.json"), "--data", str(there / "data"), "--only", "domain=dots,seed=0"]
        arguments += ["--results", str(there / "results"), "--work", str(there / "work")]
        assert main([*arguments, "--dry-run"]) == 0
        assert capsys.readouterr().out.splitlines() == [
            "to do  finetune on dots, seed 0",
            "to do  eager on dots, seed 0",
        ]
        assert main(arguments) == 0
        said = capsys.readouterr().out
        assert "[1/2] finetune on dots, seed 0: fd_efflite_2k" in said and "[2/2] eager" in said
        assert main([*arguments, "--dry-run"]) == 0
        assert capsys.readouterr().out.count("done  ") == 2

    @pytest.mark.parametrize(
        "arguments, message",
        [
            ([], "where the domains lie"),
            (["--data", "."], "lacks dashes.zip, dots.zip"),
            (["--dry-run", "--workers", "-1"], "--threads is 1, --workers -1: at least 1 and 0 are needed"),
            (["--threads", "0"], "--threads is 0, --workers 0: at least 1"),
            (["--only", "colour=red"], "write variant="),
            (["--only", "domain=moon"], "leaves no run"),
        ],
    )
    def test_what_cannot_work_is_told_before_any_work(self, there, arguments, message, capsys, monkeypatch):
        monkeypatch.chdir(there)
        monkeypatch.delenv("TENSHOT_BENCH_DATA", raising=False)
        assert main(["bench", str(there / "spec.json"), *arguments]) == 1
        assert message in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("resources", "gpus", "places"),
        [({"CPU": 8.0}, 0, 4), ({"CPU": 8.0, "GPU": 3.0}, 1, 3), ({"CPU": 3.0, "GPU": 4.0}, 1, 1)],
    )
    def test_where_a_cluster_has_gpus_each_job_has_one_to_itself(self, tmp_path, monkeypatch, resources, gpus, places):
        ray = mock.Mock()
        ray.cluster_resources.return_value = resources
        monkeypatch.setitem(sys.modules, "ray", ray)
        cluster = Cluster("auto", places_of(tmp_path), threads=2)
        asked = ray.remote.call_args.kwargs
        assert (asked["num_cpus"], asked["num_gpus"], cluster.free()) == (2, gpus, places)

    def test_without_ray_the_extra_is_named(self, there, monkeypatch, capsys):
        monkeypatch.setitem(sys.modules, "ray", None)
        arguments = ["--data", str(there / "data"), "--work", str(there / "work"), "--results", str(there / "results")]
        assert main(["bench", str(there / "spec.json"), *arguments, "--ray", "auto"]) == 1
        assert 'pip install "tenshot[cluster]"' in capsys.readouterr().err
