"""Quantizers of activations whose ranges are fixed at calibration."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from qbench.errors import MethodError
from qbench.methods.base import Context
from qbench.program.graph import EdgeSpec, Program
from qbench.program.materialize import materialize
from qbench.program.transform import quantizable_edges
from qbench.quant.affine import choose_qparams, integer_grid


def with_static_edges(program: Program, context: Context, bits: int) -> Program:
    """Put a static affine quantizer on every quantizable edge, its range the min-max over the calibration images.

    Raises:
        MethodError: A value of an edge is not finite or too large; names the edge.
    """
    edges = quantizable_edges(program)
    seen: dict[str, list[Tensor]] = {name: [] for name in edges}

    def observe(name: str, value: Tensor) -> None:
        if name in seen:
            seen[name].append(torch.stack(torch.aminmax(value)).cpu())

    module = materialize(program).to(context.device)
    module.observe = observe
    with torch.no_grad():
        for batch in context.calibration:
            module(batch.to(context.device))
    qmin, qmax = integer_grid(bits)
    specs = {}
    for name in edges:
        ends = torch.stack(seen[name])
        try:
            qparams = choose_qparams(ends[:, 0].amin(), ends[:, 1].amax(), qmin, qmax, symmetric=False)
        except ValueError as error:
            raise MethodError(name, f"on the calibration images, {error}") from error
        specs[name] = EdgeSpec(bits, qmin, qmax, float(qparams.scale), int(qparams.zero_point))
    return replace(program, edges=specs)
