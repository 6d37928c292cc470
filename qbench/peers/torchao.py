"""torchao's quantizer for x86 processors, on the float network as PyTorch exports it (PT2E).

Source: torchao.quantization.pt2e (prepare_pt2e, convert_pt2e, X86InductorQuantizer), by Meta and Intel. Its function
  quantize_ is for linear layers: it has no int8 form of a convolution, which is why it is not what is called here.
Idea: the materialized float program is exported, merged with its batch norms, observed on the calibration images
  (histograms of activations, ranges of each output channel of weights) and converted to int8 weights between
  quantizers. The result, exported once more, is the file: it needs no code of the network. Its runtime compiles it
  with inductor, whose patterns turn quantizers around a layer into one int8 kernel.
Assumptions: the quantizer's default configuration; ``reduce_range`` is what it recommends without VNNI. The file holds
  no images and no pickled objects.
Cost: a pass over the calibration images, with a histogram of every activation of each batch; its runtime compiles
  for seconds to minutes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from qbench.methods.base import Context, External, Needs
from qbench.peers.base import calling, workplace
from qbench.program.graph import Program
from qbench.program.materialize import materialize
from qbench.runtime.exported import EXTRA, import_x86_quantizer
from qbench.runtime.extras import import_extra


@dataclass(frozen=True)
class TorchAo:
    """``prepare_pt2e`` and ``convert_pt2e`` with ``X86InductorQuantizer``.

    Args:
        reduce_range: Whether activations have 7 bits, so that pairs of products cannot overflow without VNNI.
    """

    reduce_range: bool = False
    needs: ClassVar[Needs] = Needs(calibration=True)

    def compress(self, baseline: Program, context: Context) -> External:
        """Quantize the program with torchao.

        Raises:
            MethodError: There is nothing to quantize or nothing to calibrate with, or torchao cannot do it.
            RuntimeUnavailable: torchao is not installed.
        """
        folder = workplace(baseline, context)
        x86: Any = import_x86_quantizer()
        pt2e: Any = import_extra("torchao.quantization.pt2e.quantize_pt2e", EXTRA)
        made = folder / "model.pt2"
        with calling("torchao"), torch.no_grad():
            configuration = x86.get_default_x86_inductor_quantization_config(reduce_range=self.reduce_range)
            quantizer = x86.X86InductorQuantizer().set_global(configuration)
            # strict: it notes the function behind each node, by which the quantizer finds its patterns
            exported = _export(_with_parameters(materialize(baseline)), baseline.input_shape, strict=True)
            prepared = pt2e.prepare_pt2e(exported.module(), quantizer)
            for batch in context.calibration:
                prepared(batch)
            _save(_export(pt2e.convert_pt2e(prepared), baseline.input_shape, strict=False), made)
        return External(made, "exported")


def _with_parameters(module: nn.Module) -> nn.Module:
    """Its tensors as parameters, which torchao's merging of batch norms replaces; it cannot replace buffers."""
    for name, value in list(module.named_buffers()):
        delattr(module, name)
        module.register_parameter(name, nn.Parameter(value, requires_grad=False))
    return module


def _export(module: nn.Module, input_shape: tuple[int, int, int], *, strict: bool) -> Any:
    """The module as a graph that takes any number of images."""
    example: Tensor = torch.zeros(2, *input_shape)  # of one image, the number would become a constant
    return torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=strict)


def _save(exported: Any, path: Any) -> None:
    """Write the program without example images, and without the history of its nodes.

    That holds lines of source code and addresses in memory, which are others each time.
    """
    exported.example_inputs = None
    for node in exported.graph.nodes:
        for key in ("stack_trace", "from_node"):
            node.meta.pop(key, None)
    torch.export.save(exported, path)
