"""Programs as ONNX graphs, written from the encodings: no tracing, no calibration, no quantizer of another library.

to_onnx(program, options)            the model, in memory
to_parts(program, options)           the same, its large constants apart: for engines, which copy them anyway
save_onnx(program, path, options)    the model, checked and written to a file
"""

from qbench.runtime.onnx.options import OnnxOptions
from qbench.runtime.onnx.parts import Parts
from qbench.runtime.onnx.writer import save_onnx, to_onnx, to_parts, why_not

__all__ = ["OnnxOptions", "Parts", "save_onnx", "to_onnx", "to_parts", "why_not"]
