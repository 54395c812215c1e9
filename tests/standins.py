"""Weight files of the published names and shapes with random content, for tests of what reads and uses them."""

import io
from unittest import mock

import torch
from torch import nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torchvision.models import inception_v3
from torchvision.models.vgg import cfgs, make_layers

from tenshot.metrics import weights


def settle(network, images):
    """Batch norms as after training on `images`: without this, random layers would pass on nearly nothing."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        network.train()(images)
    return network.eval()


def write(folder, files=weights.FILES):
    """The files in `folder`; the same bytes every time."""
    makers = {
        weights.INCEPTION_TF.name: tf_inception,
        weights.INCEPTION_TORCHVISION.name: torchvision_inception,
        weights.VGG16.name: vgg16,
        weights.DINOV2.name: dinov2,
    }
    for file in files:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            torch.save(makers[file.name](), folder / file.name)


def tf_inception():
    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    with mock.patch.object(FeatureExtractorInceptionV3, "load_state_dict"):
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=empty)
    return settle(network, torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)).state_dict()


def torchvision_inception():
    network = inception_v3(weights=None, aux_logits=True, init_weights=False)
    return settle(network, torch.randn(2, 3, 299, 299)).state_dict()


def vgg16():
    layers = make_layers(cfgs["D"])
    return {f"features.{name}": tensor for name, tensor in layers.state_dict().items()} | {
        "classifier.0.weight": torch.zeros(1)
    }


def dinov2(width=128, depth=2, patch=14, grid=37):
    """The official names, in a network of two small blocks."""
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + grid**2, width),
        "mask_token": (1, width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    for i in range(depth):
        of_block = {
            "norm1.weight": (width,), "norm1.bias": (width,), "norm2.weight": (width,), "norm2.bias": (width,),
            "attn.qkv.weight": (3 * width, width), "attn.qkv.bias": (3 * width,),
            "attn.proj.weight": (width, width), "attn.proj.bias": (width,),
            "ls1.gamma": (width,), "ls2.gamma": (width,),
            "mlp.fc1.weight": (4 * width, width), "mlp.fc1.bias": (4 * width,),
            "mlp.fc2.weight": (width, 4 * width), "mlp.fc2.bias": (width,),
        }  # fmt: skip
        shapes |= {f"blocks.{i}.{name}": shape for name, shape in of_block.items()}
    return {name: torch.randn(shape) / (shape[-1] ** 0.5 if len(shape) > 1 else 1) for name, shape in shapes.items()}
