"""ONNX Runtime's own static quantizer, on the float network as an ONNX file.

Source: the functions quantize_static and quant_pre_process of onnxruntime.quantization, by Microsoft; Jacob et al.,
  arXiv:1712.05877, is what they follow.
Idea: the float program is written as ONNX by the writer that the runtimes use, batch norms included; ONNX Runtime's
  quantizer gets that file and the calibration images, and its file is kept as it is. So a row compares two quantizers
  on the same network, the same images and the same engine.
Assumptions: every parameter is ONNX Runtime's own, with its default, but for two that follow its documentation:
  ``pre_process`` (which merges batch norms and infers shapes) is on, and activations are QUInt8 as it recommends for
  x86. Its default for them, QInt8, is for ARM: on x86 ONNX Runtime 1.31 leaves the convolutions of such a file in
  float32. For processors without VNNI it recommends ``reduce_range`` too, which is off.
Cost: one pass over the calibration images; Entropy and Percentile keep every activation in memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from qbench.methods.base import Context, External, Needs, require_one_of
from qbench.peers.base import arrays, calling, workplace
from qbench.program.graph import Program
from qbench.runtime.extras import import_extra
from qbench.runtime.onnx import save_onnx

EXTRA = "onnxruntime"
FORMATS = ("QDQ", "QOperator")
CALIBRATIONS = ("MinMax", "Entropy", "Percentile")
TYPES = ("QInt8", "QUInt8")


@dataclass(frozen=True)
class OrtStatic:
    """``onnxruntime.quantization.quantize_static``.

    Args:
        quant_format: QDQ or QOperator.
        calibrate_method: MinMax, Entropy or Percentile.
        per_channel: Whether each output channel of a weight has a scale of its own.
        reduce_range: Whether weights have 7 bits, so that pairs of products cannot overflow without VNNI.
        activation_type: QInt8 or QUInt8.
        weight_type: QInt8 or QUInt8.
        pre_process: Whether ``quant_pre_process`` runs first.
    """

    quant_format: str = "QDQ"
    calibrate_method: str = "MinMax"
    per_channel: bool = False
    reduce_range: bool = False
    activation_type: str = "QUInt8"
    weight_type: str = "QInt8"
    pre_process: bool = True
    needs: ClassVar[Needs] = Needs(calibration=True)

    def __post_init__(self) -> None:
        require_one_of("quant_format", self.quant_format, FORMATS)
        require_one_of("calibrate_method", self.calibrate_method, CALIBRATIONS)
        require_one_of("activation_type", self.activation_type, TYPES)
        require_one_of("weight_type", self.weight_type, TYPES)

    def compress(self, baseline: Program, context: Context) -> External:
        """Quantize the program with ONNX Runtime.

        Raises:
            MethodError: There is nothing to quantize or nothing to calibrate with, or ONNX Runtime cannot do it.
            RuntimeUnavailable: ONNX Runtime or ONNX is not installed.
        """
        folder = workplace(baseline, context)
        library: Any = import_extra("onnxruntime.quantization", EXTRA)
        source, made = folder / "float.onnx", folder / "model.onnx"
        save_onnx(baseline, source)
        with calling("onnxruntime"):
            if self.pre_process:
                prepared = folder / "prepared.onnx"
                library.quant_pre_process(str(source), str(prepared))
                source = prepared
            library.quantize_static(
                str(source),
                str(made),
                _Reader(context.calibration),
                quant_format=library.QuantFormat[self.quant_format],
                calibrate_method=library.CalibrationMethod[self.calibrate_method],
                per_channel=self.per_channel,
                reduce_range=self.reduce_range,
                activation_type=library.QuantType[self.activation_type],
                weight_type=library.QuantType[self.weight_type],
            )
        return External(made, "onnxruntime")


class _Reader:
    """Calibration images in the form that ONNX Runtime asks for, one batch at a time.

    All batches have as many images, because Entropy and Percentile fail where the last one is shorter.
    """

    def __init__(self, batches: Sequence[Tensor]) -> None:
        self._batches = arrays(batches, size=math.gcd(*map(len, batches)))

    def get_next(self) -> dict[str, Any] | None:
        """The next batch under the name of the graph's input; None at the end."""
        batch = next(self._batches, None)
        return None if batch is None else {"input": batch}
