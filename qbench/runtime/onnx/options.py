"""How a program is written as an ONNX graph."""

from __future__ import annotations

from dataclasses import dataclass

FORMS = ("qdq", "qoperator")
SIGNEDNESS = ("u8s8", "s8s8")
ENGINES = ("onnxruntime", "openvino")


@dataclass(frozen=True)
class OnnxOptions:
    """How a program is written.

    Args:
        form: qdq: float operators between QuantizeLinear and DequantizeLinear, which the engine turns into integer
            kernels. qoperator: those kernels themselves (QLinearConv, QGemm, ...), of which some are of ONNX Runtime's
            own domain ``com.microsoft``.
        signedness: Of activations and weights: uint8 and int8, or int8 and int8. Activations of any sign fit either
            type: the zero point moves with it.
        batch: Images per call; None leaves it to the caller.
        engine: Whose fusions the graph is written for. They differ where a value has no grid of its own, see
            ``docs/runtimes.md``.
        int16_pairs: Whether the engine adds the products of two neighbours in 16 bits, see :mod:`qbench.runtime.pairs`.
        exact: Whether layers whose pairs could overflow there are written with decoded weights.

    Raises:
        ValueError: An unknown value, or a form that the engine does not read.
    """

    form: str = "qdq"
    signedness: str = "u8s8"
    batch: int | None = None
    engine: str = "onnxruntime"
    int16_pairs: bool = False
    exact: bool = True

    def __post_init__(self) -> None:
        for name, known in (("form", FORMS), ("signedness", SIGNEDNESS), ("engine", ENGINES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r}: allowed are {', '.join(known)}")
        if self.batch is not None and self.batch < 1:
            raise ValueError(f"batch={self.batch}: must be at least 1, or None")
        if self.form == "qoperator" and self.engine != "onnxruntime":
            raise ValueError(f"form=qoperator: {self.engine} reads the qdq form alone")

    @property
    def signed(self) -> bool:
        """Whether activations are int8."""
        return self.signedness == "s8s8"

    @property
    def qoperator(self) -> bool:
        """Whether integer operators are written as such."""
        return self.form == "qoperator"

    @property
    def for_openvino(self) -> bool:
        """Whether the graph is written for OpenVINO's fusions."""
        return self.engine == "openvino"
