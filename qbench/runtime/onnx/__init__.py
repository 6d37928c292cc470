"""Programs as ONNX graphs, written from the encodings: no tracing, no calibration, no quantizer of another library.

to_onnx(program, options)            the model, in memory
save_onnx(program, path, options)    the same, checked and written to a file
"""

from qbench.runtime.onnx.options import OnnxOptions
from qbench.runtime.onnx.writer import save_onnx, to_onnx, why_not

__all__ = ["OnnxOptions", "save_onnx", "to_onnx", "why_not"]
