"""How images become numbers: once through each extractor, whatever fails, with all that the numbers depend on."""

import json
import re
import weakref

import pytest
import torch

from pictures import blurred, shapes
from tenshot.errors import TenshotError
from tenshot.metrics import METRICS, OFFLINE, efflite, encode, protocol, score, table
from tenshot.metrics.encode import pooled_features
from tenshot.metrics.extractor import ExtractorDefaults, Features, check_images

FEW = pytest.mark.filterwarnings("ignore:Frechet distance of:UserWarning", "ignore:fewer images:UserWarning")


class Spy(ExtractorDefaults):
    """Mean colours of the corners as features; remembers all that it is shown."""

    name, weights_sha256, resize = "spy", "none", "none"

    def __init__(self, breaks_at=None, takes_floats=False):
        self.shown = []
        self.breaks_at, self.takes_floats = breaks_at, takes_floats

    def __call__(self, images, stages=False):
        self.shown.append(images)
        if self.breaks_at is not None and len(self.shown) > self.breaks_at:
            raise RuntimeError("out of memory")
        small = torch.nn.functional.adaptive_avg_pool2d(images.float(), 2)
        return Features(small.flatten(1), (small,) if stages else ())


@pytest.fixture(scope="module")
def net():
    return efflite.load()


@pytest.fixture(scope="module")
def reals():
    return shapes(24, seed=1)


@pytest.fixture(scope="module")
def shots():
    return shapes(4, seed=2)


@FEW
class TestOffline:
    def test_every_offline_metric_is_measured_and_fit_for_json(self, net, reals, shots):
        found = score(shapes(20, seed=3), reals, shots, extractors={"efflite": net})
        assert list(found) == list(OFFLINE)
        for name, result in json.loads(json.dumps(found)).items():
            assert result["n_fake"] == 20, name
            assert result["n_real"] == (24 if METRICS[name].n_real else 0), name
            assert result["n_shots"] == (4 if METRICS[name].shots else 0), name
            assert result["extractor"] == "efficientnet-lite0", name
            assert result["weights_sha256"] == efflite.WEIGHTS_SHA256, name
            assert result["side"] == 64, name
            assert "torch" in result["versions"], name

    def test_fakes_may_come_in_batches(self, net, reals, shots):
        fakes = shapes(20, seed=3)
        names = ("prdc_2k", "intra_dist_1k", "copy_rate_1k")
        whole = score(fakes, reals, shots, names, extractors={"efflite": net})
        assert score(iter(fakes.split(6)), reals, shots, names, extractors={"efflite": net}) == whole

    def test_more_blur_is_a_larger_distance_and_no_blur_is_none(self, net, reals):
        names, extractors = ("fd_efflite_2k", "kd_efflite_2k"), {"efflite": net}
        found = [
            score(blurred(reals[:16], width), reals[:16], names=names, extractors=extractors) for width in (1, 5, 11)
        ]
        for name in names:
            distances = [result[name]["value"] for result in found]
            assert distances[0] < 1e-6
            assert distances == sorted(distances) and distances[1] > 1e-3

    def test_a_collapsed_generator_scores_low_diversity(self, net, reals, shots):
        def measured(fakes):
            return score(fakes, reals, shots, ["intra_dist_1k", "prdc_2k"], extractors={"efflite": net})

        varied, collapsed = measured(reals[:12]), measured(reals[:1].expand(12, -1, -1, -1))
        assert collapsed["intra_dist_1k"]["value"] < 1e-5 < varied["intra_dist_1k"]["value"] / 1000
        assert collapsed["intra_dist_1k"]["largest_cluster"] == 1
        assert collapsed["intra_dist_1k"]["clusters_used"] == 1
        assert collapsed["prdc_2k"]["recall"] < 0.1 < varied["prdc_2k"]["recall"]

    def test_a_copier_trips_the_copy_rate_and_lies_at_its_shots(self, net, reals, shots):
        names = ["copy_rate_1k", "intra_dist_1k"]
        copied = score(shots.repeat(3, 1, 1, 1), reals, shots, names, extractors={"efflite": net})
        honest = score(shapes(12, seed=3), reals, shots, names, extractors={"efflite": net})
        assert copied["copy_rate_1k"]["value"] == 1 and honest["copy_rate_1k"]["value"] < 0.3
        assert copied["intra_dist_1k"]["nearest_to_shot"] < 1e-4 < honest["intra_dist_1k"]["nearest_to_shot"] / 100


@FEW
def test_a_metric_is_the_same_whatever_is_measured_beside_it(reals, shots, monkeypatch):
    for name, n in (("intra_dist_1k", 20), ("intra_dist_200", 7)):
        monkeypatch.setitem(METRICS, name, METRICS[name]._replace(n=n))
    fakes, names = shapes(20, seed=3), ("intra_dist_200", "intra_dist_1k")
    both = score(fakes, reals, shots, names, extractors={"efflite": Spy()})
    assert both == {name: score(fakes, reals, shots, [name], extractors={"efflite": Spy()})[name] for name in names}
    assert both["intra_dist_200"]["value"] != both["intra_dist_1k"]["value"]


@FEW
def test_clusters_around_many_training_images_are_refused_and_the_others_measured(reals, shots, monkeypatch):
    monkeypatch.setattr(protocol, "MOST_CLUSTERS", len(shots) - 1)
    names = ("intra_dist_200", "copy_rate_200")
    found = score(reals, reals, shots, names, extractors={"efflite": Spy()}, keep_going=True)
    assert "makes a cluster of each training image" in found["intra_dist_200"]["failed"]
    assert "value" in found["copy_rate_200"]


@FEW
def test_reals_and_shots_are_encoded_once_by_whoever_hands_in_again_what_is_known(reals, shots):
    spy, known, names = Spy(), {}, ("fd_efflite_500", "copy_rate_200", "intra_dist_200")
    one, other = shapes(20, seed=3), shapes(20, seed=4)
    first = score(one, reals, shots, names, extractors={"efflite": spy}, known=known)
    spy.shown.clear()
    again = score(other, reals, shots, names, known=known)
    assert sum(map(len, spy.shown)) == len(other)
    assert again == score(other, reals, shots, names, extractors={"efflite": Spy()}) != first


@FEW
def test_a_network_that_could_not_be_loaded_is_asked_for_again(reals, shots, monkeypatch):
    found = iter([RuntimeError("busy"), Spy()])

    def load(*_):
        if isinstance(step := next(found), Exception):
            raise step
        return step

    monkeypatch.setattr(protocol, "load", load)
    known = {}
    results = [score(reals, reals, shots, ["copy_rate_200"], keep_going=True, known=known) for _ in range(2)]
    assert "busy" in results[0]["copy_rate_200"]["failed"]
    assert "value" in results[1]["copy_rate_200"]


def test_descriptors_of_many_images_are_those_of_each_and_are_refused_where_they_would_fill_memory(shots, monkeypatch):
    spy = Spy()
    monkeypatch.setattr(type(spy), "batch", 3)
    found = encode.described(spy, shots)
    assert [len(piece) for piece in spy.shown] == [3, 1]
    assert torch.equal(found, torch.cat([encode.described(spy, shot[None]) for shot in shots]))
    monkeypatch.setattr(encode, "MOST_BYTES", 3 * found[0].nbytes)
    with pytest.raises(TenshotError, match=r"clusters around 4 training images .* at most 3; leave the metric out"):
        encode.described(spy, shots)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_subsets_cannot_be_drawn_with_is_refused_before_any_work(reals, shots, seed):
    spy = Spy()
    with pytest.raises(TenshotError, match=f"seed is {seed}: it must be from 0 to 4,294,967,295"):
        score(reals, reals, shots, ["kd_efflite_2k"], seed, extractors={"efflite": spy}, keep_going=True)
    assert not spy.shown


@FEW
def test_features_of_reals_are_kept_on_disk_and_damaged_ones_made_anew(tmp_path, monkeypatch, reals):
    fresh = pooled_features(Spy(), reals, 20, tmp_path)
    (entry,) = tmp_path.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(encode, "batches", lambda *_: pytest.fail("encoded in spite of the cache"))
        assert torch.equal(fresh, pooled_features(Spy(), reals, 20, tmp_path))
    entry.write_bytes(b"damaged")
    assert torch.equal(fresh, pooled_features(Spy(), reals, 20, tmp_path))


@pytest.mark.parametrize("change", ["one pixel", "weights", "resize", "name", "number"])
def test_cached_features_depend_on_all_that_they_depend_on(tmp_path, reals, change):
    pooled_features(Spy(), reals, 20, tmp_path)
    spy, images = Spy(), reals.clone()
    if change == "one pixel":
        images[7, 0, 0, 0] += 1
    elif change != "number":
        setattr(spy, {"weights": "weights_sha256"}.get(change, change), "another")
    pooled_features(spy, images, 19 if change == "number" else 20, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


@FEW
def test_a_cache_that_cannot_be_written_costs_no_metric(tmp_path, reals):
    (tmp_path / "file").write_bytes(b"")
    found = score(reals, reals, names=["fd_efflite_2k"], cache_dir=tmp_path / "file", extractors={"efflite": Spy()})
    assert found["fd_efflite_2k"]["value"] == pytest.approx(0, abs=1e-6)


@FEW
def test_each_image_is_encoded_once_whatever_is_measured(reals, shots):
    spy = Spy()
    fakes = shapes(40, seed=3)
    score(
        fakes, reals, shots, ["fd_efflite_2k", "kd_efflite_2k", "prdc_2k", "copy_rate_1k"], extractors={"efflite": spy}
    )
    assert torch.equal(torch.cat(spy.shown), torch.cat([shots, reals, fakes]))


@FEW
def test_fakes_are_let_go_once_they_are_encoded(reals):
    alive = []

    def stream():
        for i in range(60):
            batch = shapes(8, seed=i, side=64)
            alive.append(weakref.ref(batch))
            yield batch
            del batch
            assert sum(reference() is not None for reference in alive) <= 4  # two to fill a batch of 16, and slack

    class Forgetful(Spy):
        def __call__(self, images, stages=False):
            found = super().__call__(images, stages)
            self.shown.clear()
            return found

    found = score(stream(), reals, names=["fd_efflite_2k"], extractors={"efflite": Forgetful()})
    assert found["fd_efflite_2k"]["n_fake"] == 480


@FEW
class TestFailures:
    names = ("fd_efflite_2k", "fd_dinov2_5k", "fid_clean_5k")

    def test_a_network_that_breaks_down_takes_only_its_metrics_with_it(self, reals):
        broken = {"efflite": Spy(), "dinov2": Spy(breaks_at=4), "inception-clean": Spy()}
        found = score(shapes(40, seed=3), reals, names=self.names, extractors=broken, keep_going=True)
        assert found["fd_dinov2_5k"] == {"failed": "RuntimeError: out of memory"}
        sound = {key: Spy() for key in broken}
        alone = score(shapes(40, seed=3), reals, names=self.names, extractors=sound)
        assert {n: found[n] for n in self.names if n != "fd_dinov2_5k"} == {
            n: alone[n] for n in self.names if n != "fd_dinov2_5k"
        }

    def test_without_keep_going_the_first_failure_is_raised(self, reals):
        broken = {"efflite": Spy(), "dinov2": Spy(breaks_at=4), "inception-clean": Spy()}
        with pytest.raises(RuntimeError, match="out of memory"):
            score(shapes(40, seed=3), reals, names=self.names, extractors=broken)

    def test_weights_that_are_missing_are_named_and_the_others_measured(self, reals, monkeypatch):
        def missing(place):
            raise TenshotError("the weights dinov2.pth are missing")

        monkeypatch.setitem(table.EXTRACTORS, "dinov2", missing)
        given = {"efflite": Spy(), "inception-clean": Spy()}
        found = score(reals, reals, names=self.names, extractors=given, keep_going=True)
        assert found["fd_dinov2_5k"] == {"failed": "the weights dinov2.pth are missing"}
        assert found["fid_clean_5k"]["value"] == pytest.approx(0, abs=1e-6)

    def test_images_that_were_not_given_fail_what_needs_them(self, reals):
        names = ["fd_efflite_2k", "copy_rate_1k", "intra_dist_1k"]
        found = score(reals, reals, names=names, extractors={"efflite": Spy()}, keep_going=True)
        assert "failed" not in found["fd_efflite_2k"]
        for name in names[1:]:
            assert found[name] == {
                "failed": f"{name} needs the training images, and none were given: give them with --shots"
            }

    def test_a_statistic_that_cannot_be_taken_fails_alone(self, reals):
        few = reals[:4]
        found = score(few, reals, names=["prdc_2k", "fd_efflite_2k"], extractors={"efflite": Spy()}, keep_going=True)
        assert found["prdc_2k"]["failed"].startswith("ValueError: k=5 neighbours need more than 5 samples, not 4 fakes")
        assert found["fd_efflite_2k"]["value"] > 0

    def test_the_generators_own_failure_is_nobody_elses(self, reals):
        def stream():
            yield reals[:16]
            raise KeyError("generator")

        with pytest.raises(KeyError, match="generator"):
            score(stream(), reals, names=["fd_efflite_2k"], extractors={"efflite": Spy()}, keep_going=True)


@FEW
class TestUnclamped:
    fakes = torch.linspace(-2, 2, 20)[:, None, None, None].expand(-1, 3, 8, 8).contiguous()
    names = ("fid_rick_5k", "fd_efflite_2k")

    def test_unclamped_fakes_reach_the_metric_that_wants_them_and_are_rounded_for_the_others(self):
        reals = shapes(10, 0, side=8)
        rick, plain = Spy(takes_floats=True), Spy()
        score(
            self.fakes, reals, names=self.names, unclamped=True, extractors={"inception-rick": rick, "efflite": plain}
        )
        seen = torch.cat([x for x in rick.shown if x.dtype == torch.float32])
        assert torch.equal(seen, self.fakes)
        rounded = torch.cat(plain.shown)[10:]  # after the reals
        assert rounded.dtype == torch.uint8
        assert torch.equal(rounded, ((self.fakes.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8))

    def test_rounded_fakes_are_refused_by_it(self):
        given = {"inception-rick": Spy(takes_floats=True), "efflite": Spy()}
        reals = shapes(10, 0, side=8)
        found = score(reals, reals, names=self.names, extractors=given, keep_going=True)
        assert found["fid_rick_5k"] == {
            "failed": "fid_rick_5k needs fakes as the generator gives them, not rounded to uint8"
        }
        assert "value" in found["fd_efflite_2k"]

    def test_floats_that_were_not_announced_are_refused(self):
        with pytest.raises(TenshotError, match=re.escape("fakes as uint8 [n, 3, h, w] in [0, 255], not float32")):
            score(self.fakes, shapes(10, 0, side=8), names=["fd_efflite_2k"], extractors={"efflite": Spy()})

    def test_half_of_the_reals_are_mirrored_and_an_odd_one_is_left_out(self):
        reals = shapes(41, 0, side=8)

        def shown(seed):
            rick = Spy(takes_floats=True)
            rick.mirrors_reals = True
            score(
                self.fakes, reals, names="fid_rick_5k", seed=seed, unclamped=True, extractors={"inception-rick": rick}
            )
            return torch.cat([x for x in rick.shown if x.dtype == torch.uint8])

        seen = shown(seed=0)
        assert len(seen) == 40
        plain = (seen == reals[:40]).flatten(1).all(1)
        mirrored = (seen == reals[:40].flip(3)).flatten(1).all(1)
        assert (plain | mirrored).all() and 10 <= mirrored.sum() <= 30
        assert torch.equal(seen, shown(seed=0)) and not torch.equal(seen, shown(seed=1))


def test_too_few_images_are_used_and_named_in_a_warning(shots):
    with pytest.warns(UserWarning, match=r"intra_dist_1k \(4 of 1,000 fakes") as caught:
        found = score(shots, shots=shots, names=["intra_dist_1k"], extractors={"efflite": Spy()})
    assert found["intra_dist_1k"]["n_fake"] == 4
    assert len(caught) == 1 and caught[0].filename == __file__


def test_what_is_done_is_told(reals):
    told = []
    with pytest.warns(UserWarning, match="fewer images"):
        score(
            reals[:20], reals, names=["prdc_2k"], extractors={"efflite": Spy()}, watch=lambda *what: told.append(what)
        )
    assert told == [
        ("held-out images, spy", 0, 24),
        ("held-out images, spy", 24, 24),
        ("generated images", 16, 2000),
        ("generated images", 20, 2000),
    ]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(names=["fid"]), "unknown metric 'fid'; there are fd_efflite_2k"),
        (dict(names=[]), "no metric was named"),
        (dict(reals=None, names=["prdc_2k"]), "prdc_2k compares with held-out images"),
        (dict(shots=None, names=["intra_dist_1k"]), "intra_dist_1k needs the training images"),
        (dict(reals=shapes(6, 0, side=128)), "shots have 64 px and reals 128 px.*generator's resolution"),
        (dict(fakes=shapes(3, 0, side=32), names=["intra_dist_1k"]), "fakes have 32 px and reals 64 px"),
        (dict(fakes=shapes(3, 0)[..., :40]), "fakes are 40 x 64 px"),
        (dict(fakes=iter(()), names=["intra_dist_1k"]), "at least 2 fakes, 0 were given"),
    ],
)
def test_what_cannot_be_measured_is_refused_with_a_sentence(arguments, message):
    given = dict(fakes=shapes(3, 0), reals=shapes(6, 1), shots=shapes(2, 2), extractors={"efflite": Spy()}) | arguments
    with pytest.raises(TenshotError, match=message):
        score(**given)


@pytest.mark.parametrize("floats, got", [(False, "float32 [2, 3, 8, 8]"), (True, "uint8 [2, 3, 8, 8]")])
def test_images_of_the_wrong_kind_are_named(floats, got):
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8 if floats else torch.float32)
    with pytest.raises(TenshotError, match=re.escape(got)):
        check_images(images, floats=floats)


@pytest.mark.parametrize("name", METRICS)
def test_a_name_tells_how_many_images_are_judged(name):
    number, thousands = re.fullmatch(r"[a-z_0-9]+_(\d+)(k?)", name).groups()
    assert METRICS[name].n == int(number) * (1000 if thousands else 1)
    assert METRICS[name].n_real in (0, 500, 2000, 5000)
    assert METRICS[name].extractor in table.EXTRACTORS


@FEW
@pytest.mark.parametrize("name, least", [("fd_efflite_2k", 2), ("prdc_2k", 6)])
def test_too_few_held_out_images_are_refused_before_anything_is_encoded(reals, name, least):
    spy = Spy()
    with pytest.raises(
        TenshotError, match=f"{name} needs at least {least} held-out images, better 2,000, not {least - 1}"
    ):
        score(shapes(8, seed=3), reals[: least - 1], None, [name], extractors={"efflite": spy})
    assert spy.shown == []
    assert score(shapes(8, seed=3), reals[:least], None, [name], extractors={"efflite": spy})[name]["n_real"] == least
