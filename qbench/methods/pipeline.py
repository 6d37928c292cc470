"""Several methods one after the other, on one network: pruning, then sharing what is kept, then fine-tuning ...

Paper: Han, Mao & Dally, "Deep Compression", arXiv:1510.00149 (pruning, sharing, fine-tuning, coding).
Idea: each step gets the program the step before it made. Zeros that pruning made stay zeros: later steps encode and
    train only what is kept, and a step that would not is refused. ``entropy_coding`` stores codes, indices and masks
    at their entropy where that is smaller; it changes no value.
Assumptions: those of the steps.
Cost: that of the steps; entropy coding adds a second for 15 M weights.
Deviations: asymmetric numeral systems in place of Huffman codes, and a mask in place of distances between kept weights.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from qbench.errors import MethodError
from qbench.methods.base import Context, External, Method, Needs
from qbench.program.encodings import Sparse
from qbench.program.graph import Program


@dataclass(frozen=True, init=False)
class Pipeline:
    """Named steps, in order.

    Args:
        entropy_coding: Whether the file is entropy-coded where that makes it smaller.
        steps: Methods by the name the command line has for them (``method.NAME.PARAMETER``).

    Example:
        >>> from qbench.methods.kmeans import KMeans
        >>> from qbench.methods.prune import Prune
        >>> made = Pipeline(entropy_coding=True, prune=Prune(sparsity=0.9), kmeans=KMeans(weight_bits=4))
        >>> [name for name, _ in made.steps]
        ['prune', 'kmeans']
    """

    entropy_coding: bool
    steps: tuple[tuple[str, Method], ...]

    def __init__(self, entropy_coding: bool = False, **steps: Method) -> None:
        for name, step in steps.items():
            if not callable(getattr(step, "compress", None)):
                raise ValueError(f"{name}={step!r} is no step: it needs a _target_ that names a method")
        if not steps:
            raise ValueError("a pipeline needs steps, each a mapping with a _target_")
        object.__setattr__(self, "entropy_coding", entropy_coding)
        object.__setattr__(self, "steps", tuple(steps.items()))

    @property
    def needs(self) -> Needs:
        """What any of the steps needs."""
        needs = [step.needs for _, step in self.steps]
        return Needs(any(one.calibration for one in needs), any(one.training for one in needs))

    def compress(self, baseline: Program, context: Context) -> Program:
        """Apply the steps.

        Raises:
            MethodError: As the step says; or a step gives up zeros of an earlier one, or makes no program.
        """
        program = baseline
        for name, step in self.steps:
            try:
                made = step.compress(program, context)
            except MethodError as error:
                parameter = error.where.startswith("method.")
                where = f"method.{name}.{error.where.removeprefix('method.')}" if parameter else error.where
                raise MethodError(where, error.reason) from error
            if isinstance(made, External):
                raise MethodError(f"method.{name}", "makes a file of another library, which no other step can work on")
            _check_zeros(program, made, name)
            program = made
        return replace(program, entropy_coding=self.entropy_coding)


def _check_zeros(before: Program, after: Program, step: str) -> None:
    """Raise MethodError unless everything pruned before is pruned after."""
    for key, encoding in before.tensors.items():
        now = after.tensors.get(key)
        if isinstance(encoding, Sparse) and not (
            isinstance(now, Sparse) and now.shape == encoding.shape and not bool((now.mask & ~encoding.mask).any())
        ):
            raise MethodError(f"method.{step}", f"does not keep the zeros that an earlier step made in {key}")
