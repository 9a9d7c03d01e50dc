"""Candidates that are right, though no fold made them: nothing of them is called wrong, and what is unsure is a gap."""

import copy

import onnx
import pytest
import torch
from torch import nn

from bnfold.adapters.torch_module import fold_module
from bnfold.checking import check
from bnfold.training.statistics import randomise_

UNSEEN = "its weights are others, and no output shows them"
MADE_UP = "its weights are others, and what reads it makes up for that"


@pytest.fixture
def pair():
    """Two convolutions with BatchNorms, and the same network fused."""
    torch.manual_seed(3)
    layers = [nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8)]
    return _fused(randomise_(nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(8, 5, 1)), 1).eval())


def _fused(network):
    fused = copy.deepcopy(network)
    for i in (0, 3):
        fused[i], fused[i + 1] = nn.utils.fuse_conv_bn_eval(fused[i], fused[i + 1]), nn.Identity()
    return network, fused.requires_grad_(False)


def audited(reference, candidate):
    x = torch.randn(4, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    result = check(reference, candidate, inputs=(x,), localise=False)
    assert result.passed, result.reasons
    assert all(row.passed for row in result.audit)
    return {(gap.layer, gap.why) for gap in result.audit_gaps}


def test_weights_that_nothing_reads(pair):
    network, _ = pair
    network[3].weight.data[:, 2] = 0
    _, fused = _fused(network)
    fused[0].weight[2] += 1
    assert audited(network, fused) == {("0", UNSEEN)}


def test_weights_of_a_channel_that_a_relu_shuts(pair):
    network, _ = pair
    network[1].bias.data[1] = -1e7
    _, fused = _fused(network)
    fused[3].weight[:, 1] *= 2
    assert audited(network, fused) == {("3", UNSEEN)}


def test_weights_that_equal_channels_may_share_otherwise(pair):
    network, _ = pair
    for tensor in (*network[0].state_dict().values(), *network[1].state_dict().values()):
        if tensor.ndim:
            tensor[3] = tensor[1]
    _, fused = _fused(network)
    moved = torch.randn(8, 3, 3, generator=torch.Generator().manual_seed(1))
    fused[3].weight[:, 1] += moved
    fused[3].weight[:, 3] -= moved
    assert audited(network, fused) == {("3", UNSEEN)}


def test_permuted_channels(pair):
    network, fused = pair
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    fused[0].weight, fused[0].bias = nn.Parameter(fused[0].weight[order]), nn.Parameter(fused[0].bias[order])
    fused[3].weight = nn.Parameter(fused[3].weight[:, order])
    assert audited(network, fused) == {("0", MADE_UP), ("3", MADE_UP)}


def test_a_scale_moved_across_a_relu(pair):
    network, fused = pair
    scale = torch.tensor([0.5, 3.0, 0.7, 1.3, 2.1, 0.11])
    fused[0].weight *= scale[:, None, None, None]
    fused[0].bias *= scale
    fused[3].weight /= scale[:, None, None]
    assert not audited(network, fused)


class Standardised(nn.Conv2d):
    """Computes its weight at each run."""

    def forward(self, x):
        centred = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(x, centred / centred.std((1, 2, 3), keepdim=True), self.bias)


def test_weights_that_the_reference_computes():
    """Without their mean, they have fewer digits."""
    torch.manual_seed(0)
    network = Standardised(3, 6, 3).eval().requires_grad_(False)
    network.weight += 1
    plain = nn.Conv2d(3, 6, 3).eval().requires_grad_(False)
    centred = network.weight - network.weight.mean((1, 2, 3), keepdim=True)
    plain.weight.copy_(centred / centred.std((1, 2, 3), keepdim=True))
    plain.bias.copy_(network.bias)
    assert {why for _, why in audited(network, plain)} == {
        "the model computes its constants, and rounds them by more than they are off"
    }


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x):
        return self.norm(x + self.conv(x))


def test_a_batch_norm_behind_a_sum_that_is_kept():
    network = randomise_(Residual(), 0).eval()
    assert not audited(network, copy.deepcopy(network))


@pytest.mark.parametrize("behind", [nn.MaxPool2d(2), nn.AvgPool2d(2), nn.Upsample(scale_factor=2)], ids=type)
def test_an_output_behind_a_pooling_is_held_as_it_is(behind):
    layers = nn.Conv2d(3, 6, 3), copy.deepcopy(behind), nn.BatchNorm2d(6)
    network = randomise_(nn.Sequential(*layers), 0).eval()
    network[2].weight.data.abs_()
    fused = nn.Sequential(nn.utils.fuse_conv_bn_eval(network[0], network[2]), behind).eval()
    assert not audited(network, fused)


def test_samples_in_bfloat16_are_read():
    network = nn.Conv2d(3, 4, 3).eval().bfloat16()
    x = torch.randn(2, 3, 6, 6).bfloat16()
    assert check(network, copy.deepcopy(network), inputs=(x,)).passed


def test_the_sizes_of_a_resize_are_no_weights():
    """Moved by a rounding, a scale of 1 would lose the last item of a batch."""
    graph = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N,3,4,4] x) => (float[N,3,h,w] y)'
        "<float[4] k = {1.0, 1.0, 2.0, 2.0}> { y = Resize<mode='nearest'>(x, , k) }".replace("'", '"')
    )
    assert check(graph, graph).passed


@pytest.mark.parametrize(
    "between",
    [nn.Dropout(0.5), nn.InstanceNorm2d(6, affine=True, track_running_stats=True)],
    ids=["dropout", "instance norm"],
)
def test_what_is_affine_in_eval_mode_is_part_of_the_layer(between):
    network = nn.Sequential(nn.Conv2d(3, 6, 3), between, nn.BatchNorm2d(6), nn.ReLU())
    folded = fold_module(randomise_(network, 0).eval(), (torch.randn(2, 3, 9, 9),)).model
    assert not audited(network, folded)


class Sharpened(nn.Module):
    """A BatchNorm, and a layer that reads by how much another one changes its result."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.conv = nn.BatchNorm2d(3), nn.BatchNorm2d(3, eps=1e-30), nn.Conv2d(3, 4, 1)

    def forward(self, x):
        x = self.first(x)
        return self.conv(self.second(x) - x)


def _affine(norm):
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    return scale, norm.bias - norm.running_mean * scale


@pytest.mark.parametrize("seed", range(6))
def test_a_frame_that_is_read_off_a_difference(seed):
    """The nearer the gain of `second` is to 1, the less of the difference its float32 constants tell."""
    network = randomise_(Sharpened(), seed).eval().requires_grad_(False)
    network.second.weight.copy_(network.second.running_var.sqrt() * 1.03)
    (scale, shift), (gain, offset) = _affine(network.first), _affine(network.second)
    folded = copy.deepcopy(network)
    folded.first = nn.Identity()
    for name, value in {"weight": gain, "bias": (gain * shift + offset) / scale}.items():
        getattr(folded.second, name).copy_(value)
    folded.second.running_mean.zero_()
    folded.second.running_var.fill_(1)
    folded.conv.weight.copy_(network.conv.weight * scale[:, None, None])
    folded.conv.bias.copy_(network.conv.bias - network.conv.weight.double()[:, :, 0, 0] @ shift)
    audited(network, folded)
