"""The published metrics, with random weights of the published shapes, against the libraries that define them."""

import io
import itertools
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torch_fidelity
from PIL import Image
from torch import nn
from torchvision import transforms

import standins
from pictures import shapes
from tenshot.errors import TenshotError
from tenshot.metrics import METRICS, dinov2, inception, score, vgg, weights
from tenshot.metrics.encode import described
from tenshot.metrics.extractor import resized_bytes, resized_floats
from tenshot.metrics.intra import IntraDist
from tenshot.metrics.weights import Place
from tenshot.models import file_digest

FEW = pytest.mark.filterwarnings("ignore:.*rank-deficient:UserWarning", "ignore:fewer images:UserWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    standins.write(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def place(folder):
    """Where the stand-ins lie, with their hashes for the published ones."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name in (
            (inception, "INCEPTION_TF"),
            (inception, "INCEPTION_TORCHVISION"),
            (vgg, "VGG16"),
            (dinov2, "DINOV2"),
        ):
            file = getattr(weights, name)
            patch.setattr(module, name, replace(file, sha256=file_digest(folder / file.name)))
        yield Place(folder)


@pytest.fixture(scope="module")
def images():
    return shapes(6, seed=1, side=48)


class Pictures(torch.utils.data.Dataset):
    """Images as torch-fidelity takes them."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.images[i]


# Resizing


@pytest.mark.parametrize("side", [48, 300, 400])
def test_the_clean_resize_is_antialiased_bicubic_in_float(side):
    """torch's own antialiased bicubic is another implementation of Pillow's."""
    images = shapes(2, seed=0, side=side)
    torchs = F.interpolate(images.float(), (299, 299), mode="bicubic", antialias=True, align_corners=False)
    ours = resized_floats(images, 299, Image.Resampling.BICUBIC)
    torch.testing.assert_close(ours, torchs.clamp(0, 255), atol=0.01, rtol=0)


def test_the_resize_of_intra_lpips_is_torchvisions_on_pictures():
    images = shapes(2, seed=0, side=300)
    theirs = transforms.Compose([transforms.Resize([256, 256]), transforms.ToTensor()])
    expected = torch.stack([theirs(Image.fromarray(x.permute(1, 2, 0).numpy())) for x in images])
    assert torch.equal(resized_bytes(images, 256, Image.Resampling.BILINEAR) / 255, expected)


# Inception


def test_features_of_fid_are_torch_fidelitys(place, images):
    ours = inception.load_tf(place)
    file = place.folder / weights.INCEPTION_TF.name
    theirs = torch_fidelity.feature_extractor_inceptionv3.FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(file)
    )
    assert torch.equal(ours(images[:2]).pooled, theirs(images[:2])[0])
    assert ours.weights_sha256 == file_digest(file)


@FEW
def test_kid_of_images_is_that_of_torch_fidelity_from_end_to_end(place, images):
    fakes, reals = images, shapes(6, seed=2, side=48)
    theirs = torch_fidelity.calculate_metrics(
        input1=Pictures(fakes),
        input2=Pictures(reals),
        kid=True,
        kid_subset_size=6,
        kid_subsets=100,
        rng_seed=0,
        feature_extractor_weights_path=str(place.folder / weights.INCEPTION_TF.name),
        batch_size=6,
        cuda=False,
        cache=False,
        save_cpu_ram=True,  # and no worker processes
        verbose=False,
    )
    found = score(fakes, reals, names=["kid_5k"], weights=place.folder)["kid_5k"]
    assert found["value"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-6)
    assert found["resize"] == "bilinear-tf1-299"
    assert set(found["versions"]) == {"tenshot", "torch", "numpy", "torch-fidelity", "pillow"}


def test_the_clean_network_differs_only_in_the_resize(place, images):
    plain, clean = inception.load_tf(place), inception.load_tf(place, clean=True)
    full = shapes(1, seed=0, side=299)
    torch.testing.assert_close(clean(full).pooled, plain(full).pooled, atol=1e-4, rtol=1e-4)
    assert (clean(images[:2]).pooled - plain(images[:2]).pooled).abs().max() > 1e-2
    assert clean.resize != plain.resize


def test_ricks_features_are_torchvisions_after_the_map_that_takes_contrast(place):
    ours = inception.load_rick(place)
    x = torch.randn(1, 3, 40, 40, generator=torch.Generator().manual_seed(0)) * 1.5
    resized = F.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False)
    for c, (mean, std) in enumerate([(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)]):
        resized[:, c] = resized[:, c] * (std / 0.5) + (mean - 0.5) / 0.5
    kept = []
    ours.network.avgpool.register_forward_hook(lambda *passed: kept.append(passed[-1]))
    ours.network.transform_input = False
    with torch.no_grad():
        ours.network(resized)
    torch.testing.assert_close(ours(x).pooled, kept[0].flatten(1), atol=1e-4, rtol=1e-4)
    assert (ours(x).pooled - ours(x.clamp(-1, 1)).pooled).abs().max() > 1e-3


# LPIPS


@pytest.fixture(scope="module")
def lpips_32(place):
    return vgg.load(place, side=32)


def slow_intra_lpips(network, fakes, shots, per_cluster=50, seed=0):
    """As the field's code does it: every image of every pair goes through the network again."""
    fakes, shots = (x.float() / 127.5 - 1 for x in (fakes, shots))

    def distance(x, y):
        with torch.no_grad():
            return network(x[None], y[None]).item()

    clusters = [[] for _ in shots]
    for x in fakes:
        clusters[int(np.argmin([distance(x, s) for s in shots]))].append(x)
    means = []
    for members in clusters:
        random.Random(seed).shuffle(members)
        pairs = [distance(x, y) for x, y in itertools.combinations(members[:per_cluster], 2)]
        means += [np.mean(pairs)] if pairs else []
    return np.mean(means), [len(members) for members in clusters]


def test_intra_lpips_is_the_slow_procedure_of_pairs(lpips_32):
    fakes, shots = shapes(9, seed=3, side=32), shapes(3, seed=2, side=32)
    intra = IntraDist(described(lpips_32, shots), describe=lambda kept: described(lpips_32, kept))
    for piece in fakes.split(4):
        intra.update(described(lpips_32, piece), piece)
    found = intra.result()
    value, sizes = slow_intra_lpips(lpips_32.network, fakes, shots)
    assert found["value"] == pytest.approx(value, abs=1e-5)
    assert intra.sizes == sizes
    assert found["clusters_used"] == sum(size > 1 for size in sizes) > 0


def test_lpips_weights_are_those_that_the_package_brings(lpips_32):
    sums = [round(float(w.sum()), 3) for w in lpips_32.channel_weights]
    assert sums == [6.926, 8.858, 17.515, 51.521, 47.035]
    assert lpips_32.weights_sha256.endswith("+a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868")


@FEW
def test_a_collapsed_generator_has_no_intra_lpips_and_a_copier_lies_at_its_shots(lpips_32):
    shots = shapes(3, seed=2, side=32)

    def measured(fakes):
        return score(fakes, shots=shots, names="intra_lpips_1k", extractors={"lpips": lpips_32})["intra_lpips_1k"]

    varied, collapsed, copied = (
        measured(x) for x in (shapes(8, 3, side=32), shapes(1, 3, side=32).expand(8, -1, -1, -1), shots)
    )
    assert collapsed["value"] < 1e-5 < varied["value"] / 1000
    assert collapsed["largest_cluster"] == 1
    assert copied["nearest_to_shot"] < 1e-5 < varied["nearest_to_shot"] / 1000
    assert copied["value"] is None and copied["clusters_used"] == 0


# DINOv2


class Oracle(nn.Module):
    """The same transformer from torch's own layers: what scales a branch is folded into the branch's last matrix."""

    def __init__(self, state, depth=2):
        super().__init__()
        self.state = state
        width = state["cls_token"].shape[-1]
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, width // 64, 4 * width, 0.0, "gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
        for i, layer in enumerate(self.layers):
            part = {k.removeprefix(f"blocks.{i}."): v for k, v in state.items() if k.startswith(f"blocks.{i}.")}
            one, two = part["ls1.gamma"], part["ls2.gamma"]
            layer.load_state_dict(
                {
                    "self_attn.in_proj_weight": part["attn.qkv.weight"],
                    "self_attn.in_proj_bias": part["attn.qkv.bias"],
                    "self_attn.out_proj.weight": one[:, None] * part["attn.proj.weight"],
                    "self_attn.out_proj.bias": one * part["attn.proj.bias"],
                    "linear1.weight": part["mlp.fc1.weight"],
                    "linear1.bias": part["mlp.fc1.bias"],
                    "linear2.weight": two[:, None] * part["mlp.fc2.weight"],
                    "linear2.bias": two * part["mlp.fc2.bias"],
                    **{k: part[k] for k in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias")},
                }
            )

    @torch.no_grad()
    def forward(self, images):
        s = self.state
        seen = transforms.Compose(
            [
                transforms.Resize((224, 224), transforms.InterpolationMode.BICUBIC),
                transforms.ToTensor(),
                transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )
        x = torch.stack([seen(Image.fromarray(image.permute(1, 2, 0).numpy())) for image in images])
        tokens = F.conv2d(x, s["patch_embed.proj.weight"], s["patch_embed.proj.bias"], stride=14)
        tokens = torch.cat([s["cls_token"].expand(len(x), -1, -1), tokens.flatten(2).mT], 1)
        grid = s["pos_embed"][:, 1:].unflatten(1, (37, 37)).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, scale_factor=(16.1 / 37, 16.1 / 37), mode="bicubic").flatten(2).mT
        tokens = tokens + torch.cat([s["pos_embed"][:, :1], grid], 1)
        for layer in self.layers:
            tokens = layer(tokens)
        return F.layer_norm(tokens, tokens.shape[-1:], s["norm.weight"], s["norm.bias"], 1e-6)[:, 0]


def test_dinov2_is_torchs_transformer_on_the_official_names(place, images):
    state = torch.load(place.folder / weights.DINOV2.name, weights_only=True)
    ours = dinov2.load(place)
    found = ours(images[:2]).pooled
    assert found.shape == (2, 128) and ours.name == "dinov2-128x2-14"
    torch.testing.assert_close(found, Oracle(state).eval()(images[:2]), atol=1e-4, rtol=1e-4)


def test_what_is_no_transformer_of_dinov2_is_refused(tmp_path):
    with pytest.raises(TenshotError, match="holds no vision transformer of DINOv2"):
        dinov2.build({"weight": torch.zeros(3)}, tmp_path / "w.pth", "")
    state = standins.dinov2() | {"blocks.0.mlp.w12.weight": torch.zeros(3)}
    with pytest.raises(TenshotError, match=r"w\.pth does not fit DINOv2: .*w12"):
        dinov2.build(state, tmp_path / "w.pth", "")


# Together


@FEW
def test_one_call_measures_several_published_metrics_and_says_what_each_depends_on(place, images):
    names = ["kid_5k", "prdc_5k", "intra_lpips_1k", "fd_dinov2_5k"]
    floats = images.float() / 127.5 - 1
    found = score(
        floats, shapes(8, 2, side=48), shapes(2, 3, side=48), names, weights=place.folder, unclamped=True,
        extractors={"lpips": vgg.load(place, side=32)},
    )  # fmt: skip
    digests = [file_digest(place.folder / file.name) for file in (weights.INCEPTION_TF, weights.VGG16, weights.DINOV2)]
    for name, digest in zip(names, [digests[0], digests[0], digests[1], digests[2]], strict=True):
        result = found[name]
        assert result["weights_sha256"].split("+")[0] == digest
        assert (result["n_fake"], result["n_real"]) == (6, 8 if METRICS[name].n_real else 0)
        assert {"seed", "extractor", "resize", "versions", "side"} <= set(result)


def test_a_package_that_is_missing_names_the_extra(place, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lpips", None)
    with pytest.raises(TenshotError, match=r'lpips is needed .*: pip install "tenshot\[metrics\]"'):
        vgg.load(place)


def test_weights_of_another_network_are_refused(tmp_path, monkeypatch):
    path = tmp_path / weights.VGG16.name
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3), "features.99.bias": torch.zeros(1)}, path)
    monkeypatch.setattr(vgg, "VGG16", replace(weights.VGG16, sha256=file_digest(path)))
    with pytest.raises(TenshotError, match=r"does not fit VGG-16: .*missing or unknown"):
        vgg.load(Place(tmp_path))
    buffer = io.BytesIO()
    torch.save({"fc.weight": torch.zeros(3)}, buffer)
    (tmp_path / weights.INCEPTION_TF.name).write_bytes(buffer.getvalue())
    sha256 = file_digest(tmp_path / weights.INCEPTION_TF.name)
    monkeypatch.setattr(inception, "INCEPTION_TF", replace(weights.INCEPTION_TF, sha256=sha256))
    with pytest.raises(TenshotError, match="does not fit the FID's Inception v3: Missing key"):
        inception.load_tf(Place(tmp_path))
