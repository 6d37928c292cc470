"""NNCF's post-training quantizer, on the float network as an OpenVINO model.

Source: the function nncf.quantize of the Neural Network Compression Framework, by Intel; Kozlov et al.,
  "Neural Network Compression Framework for fast model inference", arXiv:2002.08679.
Idea: the float program is written as ONNX by the writer that the runtimes use and read by OpenVINO; NNCF inserts
  FakeQuantize operations, moves channels' means back (bias correction), and its model is saved as OpenVINO IR.
Assumptions: every parameter is NNCF's, with its default; it takes images one by one, at most ``subset_size`` of the
  calibration images. NNCF's usage statistics stay off: qbench sends nothing to anybody.
Cost: some passes over at most ``subset_size`` images; ``fast_bias_correction=false`` takes one for each layer.
"""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

from qbench.methods.base import Context, External, Needs, require_one_of, require_within
from qbench.peers.base import arrays, calling, workplace
from qbench.program.graph import Program
from qbench.runtime.extras import import_extra, quietly
from qbench.runtime.onnx import OnnxOptions, save_onnx

EXTRA = "nncf"
PRESETS = ("performance", "mixed")
DEVICES = ("ANY", "CPU")


@dataclass(frozen=True)
class Nncf:
    """``nncf.quantize``.

    Args:
        preset: performance (symmetric weights and activations) or mixed (asymmetric activations).
        fast_bias_correction: False takes the slower correction, layer by layer.
        subset_size: Images that statistics are taken of, at most.
        target_device: ANY or CPU: whose limits count.
    """

    preset: str = "performance"
    fast_bias_correction: bool = True
    subset_size: int = 300
    target_device: str = "ANY"
    needs: ClassVar[Needs] = Needs(calibration=True)

    def __post_init__(self) -> None:
        require_one_of("preset", self.preset, PRESETS)
        require_one_of("target_device", self.target_device, DEVICES)
        require_within("subset_size", self.subset_size, 1, 1_000_000)

    def compress(self, baseline: Program, context: Context) -> External:
        """Quantize the program with NNCF.

        Raises:
            MethodError: There is nothing to quantize or nothing to calibrate with, or NNCF cannot do it.
            RuntimeUnavailable: NNCF or OpenVINO is not installed.
        """
        folder = workplace(baseline, context)
        nncf, openvino = _import_nncf(), import_extra("openvino", EXTRA)
        source, made = folder / "float.onnx", folder / "model.xml"
        save_onnx(baseline, source, OnnxOptions(engine="openvino"))
        images = list(islice(arrays(context.calibration, size=1), self.subset_size))
        with calling("nncf"):
            quantized = nncf.quantize(
                openvino.Core().read_model(str(source)),
                nncf.Dataset(images),
                preset=nncf.QuantizationPreset(self.preset),
                fast_bias_correction=self.fast_bias_correction,
                subset_size=self.subset_size,
                target_device=nncf.TargetDevice[self.target_device],
            )
            _name_anew(quantized)
            openvino.save_model(quantized, str(made))
        return External(made, "openvino", beside=(made.with_suffix(".bin"),))


def _name_anew(model: Any) -> None:
    """Number the nodes that OpenVINO has named by a count of all nodes of the process: other runs came before."""
    for index, node in enumerate(model.get_ordered_ops()):
        kind = node.get_type_name()
        if re.fullmatch(rf"{kind}_\d+", node.get_friendly_name()):
            node.set_friendly_name(f"{kind}.{index}")


def _import_nncf() -> Any:
    """NNCF without its usage statistics, its log, and its class of loggers for everybody."""
    os.environ.setdefault("NNCF_CI", "1")  # what switches the statistics off
    usual = logging.getLoggerClass()
    with quietly():
        nncf = import_extra("nncf", EXTRA)
    logging.setLoggerClass(usual)
    # not nncf.set_log_level, which sets the level of handlers too: some are not NNCF's own
    logging.getLogger("nncf").setLevel(logging.ERROR)
    return nncf
