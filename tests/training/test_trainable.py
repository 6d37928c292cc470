"""A program as a network to train: the same function, learnable, and a program again."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from qbench.program.encodings import Affine, Encoding
from qbench.program.graph import EdgeSpec, Node, Program
from qbench.program.materialize import materialize, simulate_edge
from qbench.program.trace import trace
from qbench.program.transform import fold_batch_norm, foldable_norms
from qbench.training.objective import distillation_loss
from qbench.training.trainable import EdgeQuantizer, TrainableProgram, WeightQuantizer

IMAGES = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(5))


def baseline() -> Program:
    """Two convolutions with batch norm (one of its channels with gamma 0), one without, a dense layer."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 4, 3, stride=2),
            nn.Flatten(),
            nn.Linear(36, 5),
        )
        for part in network.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_(0.0, 0.3)  # type: ignore[union-attr]
                part.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
                part.weight.data.uniform_(0.5, 1.5)
                part.bias.data.normal_(0.0, 0.3)
        network[1].weight.data[2] = 0.0  # type: ignore[index,union-attr]
        return trace(network, (3, 8, 8))


class Halves(WeightQuantizer):
    """Round to multiples of 0.25, straight through."""

    def forward(self, latent: Tensor) -> Tensor:
        return latent + (torch.round(latent * 4) / 4 - latent).detach()

    def encode(self, latent: Tensor) -> Encoding:
        zero = torch.tensor(0, dtype=torch.int32)
        return Affine(torch.round(latent * 4).to(torch.int8), torch.tensor(0.25), zero, 8, -128, 127)


class Grid(EdgeQuantizer):
    def spec(self) -> EdgeSpec:
        return EdgeSpec(8, -128, 127, 0.05, 0)

    def forward(self, value: Tensor) -> Tensor:
        return simulate_edge(value, self.spec())


@pytest.mark.parametrize("fold", [True, False], ids=["folded", "as it is"])
def test_untouched_it_is_the_network_it_was_made_from(fold: bool) -> None:
    network = TrainableProgram(baseline(), fold=fold).eval()
    expected = materialize(baseline())(IMAGES)
    assert torch.allclose(network(IMAGES), expected, atol=1e-5)
    program = network.program()
    assert torch.allclose(materialize(program)(IMAGES), expected, atol=1e-5)
    assert program.graph_digest() == (fold_batch_norm(baseline()) if fold else baseline()).graph_digest()
    assert set(program.tensors) == set((fold_batch_norm(baseline()) if fold else baseline()).tensors)


@pytest.mark.parametrize("fold", [True, False], ids=["folded", "as it is"])
def test_quantizers_act_on_what_will_be_stored(fold: bool) -> None:
    network = TrainableProgram(baseline(), fold=fold)
    for node in baseline().layers():
        network.quantize_weight(node.name, Halves())
    network.quantize_edge("input", Grid())
    network.train()
    network(IMAGES)  # moves the statistics
    network.eval()
    program = network.program()
    assert all(isinstance(program.tensors[f"{node.name}.weight"], Affine) for node in program.layers())
    assert set(program.edges) == {"input"}
    assert torch.allclose(materialize(program)(IMAGES), network(IMAGES), atol=1e-5)


def test_frozen_statistics_make_training_equal_to_evaluation() -> None:
    network = TrainableProgram(baseline())
    network.quantize_weight("0", Halves())
    network.train()
    moving = network(IMAGES)
    network.frozen_statistics = True
    state = copy.deepcopy(network.state_dict())
    frozen = network(IMAGES)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert torch.equal(frozen, network.eval()(IMAGES))
    assert not torch.allclose(frozen, moving, atol=1e-3)


def test_moving_statistics_are_those_of_batch_norm() -> None:
    """Without quantizers the folded form trains as convolution and batch norm do."""
    folded, plain = TrainableProgram(baseline()).train(), TrainableProgram(baseline(), fold=False).train()
    assert torch.allclose(folded(IMAGES), plain(IMAGES), atol=1e-4)
    assert torch.allclose(folded.eval()(IMAGES), plain.eval()(IMAGES), atol=1e-4)


def test_every_parameter_learns_and_the_baseline_stays() -> None:
    program = baseline()
    before = program.weight("0").clone()
    network = TrainableProgram(program)
    network.quantize_weight("0", Halves())
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    network(IMAGES).square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    optimizer.step()
    assert torch.equal(program.weight("0"), before)
    assert not torch.equal(network.program().weight("8"), program.weight("8"))


def test_a_copy_of_the_state_is_the_network() -> None:
    network = TrainableProgram(baseline())
    network.quantize_weight("0", Halves())
    network.train()(IMAGES)
    twin = TrainableProgram(baseline())
    twin.quantize_weight("0", Halves())
    twin.load_state_dict(network.state_dict())
    assert torch.equal(twin.eval()(IMAGES), network.eval()(IMAGES))
    assert torch.equal(copy.deepcopy(network)(IMAGES), network(IMAGES))


def test_the_norms_that_fold_are_those_that_alone_read_a_layer() -> None:
    assert {layer: norm.name for layer, norm in foldable_norms(baseline()).items()} == {"0": "1", "3": "4"}
    shared = baseline()
    nodes = (*shared.nodes[:-1], Node("again", "add", ("0", "1")), shared.nodes[-1])
    assert "0" not in foldable_norms(Program(shared.input_shape, nodes, shared.tensors))


def test_distillation_is_zero_where_the_student_agrees_and_grows_with_distance() -> None:
    wanted = torch.randn(8, 5, generator=torch.Generator().manual_seed(2))
    assert float(distillation_loss(wanted, wanted, 2.0)) == pytest.approx(0.0, abs=1e-6)
    near, far = distillation_loss(wanted * 0.9, wanted, 2.0), distillation_loss(-wanted, wanted, 2.0)
    assert 0 < float(near) < float(far)
    # two classes by hand: T^2 * sum p log(p/q), p = softmax([1, 0]) = (0.7311, 0.2689), q = (0.5, 0.5), T = 1
    by_hand = distillation_loss(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), 1.0)
    assert float(by_hand) == pytest.approx(0.7310586 * 0.3798854 + 0.2689414 * -0.6201146, abs=1e-6)
