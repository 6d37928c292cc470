"""The header of a network in C: what a caller must know, as integers; and the small functions around the network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qbench.program.integer.network import IntegerProgram
from qbench.runtime.c.constants import HEAD, MAGIC, define
from qbench.runtime.c.emit import comment

_MANTISSA_BITS = 24  # of a 32-bit float: a scale is exactly MANTISSA / 2^SHIFT
_RELATIVE_BITS = 30


@dataclass(frozen=True)
class Facts:
    """What the header says beside the program itself.

    Args:
        name: Prefix of everything public.
        about: Lines on where the network comes from.
        classes: Number of logits.
        arena_bytes: Static memory for activations.
        constant_bytes: Bytes of weights, biases, factors and tables.
        blob_bytes: Length of the weights' file; None where they are arrays.
        pixels: Whether ``NAME_quantize`` is there.
    """

    name: str
    about: Sequence[str]
    classes: int
    arena_bytes: int
    constant_bytes: int
    blob_bytes: int | None
    pixels: bool

    @property
    def parameters(self) -> str:
        """Parameters of ``NAME_infer``."""
        given = "const int8_t *input, int32_t *logits"
        return given if self.blob_bytes is None else f"const void *weights_file, {given}"


def mantissa_and_shift(scale: float) -> tuple[int, int]:
    """Integers with scale == mantissa / 2^shift exactly, for a positive 32-bit float; mantissa in [2^23, 2^24)."""
    fraction, exponent = math.frexp(scale)
    return int(fraction * (1 << _MANTISSA_BITS)), _MANTISSA_BITS - exponent


def header(program: IntegerProgram, facts: Facts) -> str:
    """The text of ``NAME.h``."""
    channels, height, width = program.input_shape
    grid = program.input
    mantissa, shift = mantissa_and_shift(float(torch.tensor(grid.scale, dtype=torch.float32)))
    numbers: dict[str, int] = {
        "HEIGHT": height,
        "WIDTH": width,
        "CHANNELS": channels,
        "INPUT_BYTES": height * width * channels,
        "CLASSES": facts.classes,
        "ARENA_BYTES": facts.arena_bytes,
        "CONSTANT_BYTES": facts.constant_bytes,
        **({} if facts.blob_bytes is None else {"WEIGHTS_FILE_BYTES": facts.blob_bytes}),
        "INPUT_SCALE_MANTISSA": mantissa,
        "INPUT_SCALE_SHIFT": shift,
        "INPUT_ZERO_POINT": grid.zero_point,
        "INPUT_QMIN": grid.qmin,
        "INPUT_QMAX": grid.qmax,
    }
    guard = f"QBENCH_{facts.name.upper()}_H"
    defines = "\n".join(f"#define {facts.name.upper()}_{key} ({value})" for key, value in numbers.items())
    about = "\n".join(f" * {comment(line)}" for line in facts.about)
    parts = [_USAGE.format(about=about, guard=guard, defines=defines, NAME=facts.name.upper(), name=facts.name)]
    if facts.pixels:
        parts.append(_QUANTIZE_DECLARED.format(name=facts.name))
    if facts.blob_bytes is not None:
        parts.append(_CHECK_DECLARED.format(name=facts.name, NAME=facts.name.upper()))
    parts.append(_INFER_DECLARED.format(name=facts.name, parameters=facts.parameters, NAME=facts.name.upper()))
    return "\n".join([*parts, f"#endif /* {guard} */\n"])


_USAGE = """\
/* An integer network, written by qbench. Needs nothing but a C99 compiler; no function here calls a library.
{about}
 */
#ifndef {guard}
#define {guard}

#include <stddef.h>
#include <stdint.h>

/* ARENA_BYTES: static memory of the activations, so that one call runs at a time. CONSTANT_BYTES: weights, biases,
 * factors, tables.
 * Input: one image as codes [HEIGHT][WIDTH][CHANNELS], channels last, each in [INPUT_QMIN, INPUT_QMAX]. A normalised
 * value v, (pixel / 255 - mean) / deviation of its channel, has the code
 *     q = v / S rounded to nearest (ties to even) + INPUT_ZERO_POINT, clamped to [INPUT_QMIN, INPUT_QMAX],
 * where S = INPUT_SCALE_MANTISSA / 2^INPUT_SCALE_SHIFT, exactly. */
{defines}

/* The real logit of class k is logits[k] * {name}_logit_mantissa[k] / 2^{name}_logit_shift[k]. */
extern const int32_t {name}_logit_mantissa[{NAME}_CLASSES];
extern const int32_t {name}_logit_shift[{NAME}_CLASSES];
"""

_QUANTIZE_DECLARED = """\
/* Pixels of 0 to 255, [HEIGHT][WIDTH][CHANNELS], to the codes above, by mean and deviation of the training data. */
void {name}_quantize(const uint8_t *pixels, int8_t *input);
"""

_CHECK_DECLARED = """\
/* Whether the content of a file is the weights of this network: 1 or 0. The memory is aligned to 16 bytes (as memory
 * that maps a file is), and the machine is little-endian: elsewhere the answer is 0. */
int {name}_weights_fit(const void *weights_file, size_t bytes);
"""

_INFER_DECLARED = """\
/* One image to {NAME}_CLASSES integers. */
void {name}_infer({parameters});

/* The class of the largest real logit, of equal ones the first. */
int32_t {name}_top1(const int32_t *logits);
"""


def around(program: IntegerProgram, facts: Facts, pixel_codes: Tensor | None) -> str:
    """The definitions of everything public but ``NAME_infer``."""
    scales = program.output_scale.reshape(-1).expand(facts.classes).tolist()
    pairs = torch.tensor([mantissa_and_shift(scale) for scale in scales], dtype=torch.int32)
    relative = [round(scale / max(scales) * (1 << _RELATIVE_BITS)) for scale in scales]
    parts = [
        define(f"const int32_t {facts.name}_logit_mantissa", pairs[:, 0]),
        define(f"const int32_t {facts.name}_logit_shift", pairs[:, 1]),
        define("static const int32_t qb_relative_scale", torch.tensor(relative, dtype=torch.int32)),
        _TOP1.format(name=facts.name, NAME=facts.name.upper()),
    ]
    if pixel_codes is not None:
        parts += [define("static const int8_t qb_pixel_codes", pixel_codes)]
        parts += [_QUANTIZE.format(name=facts.name, NAME=facts.name.upper())]
    return "\n".join(parts)


def blob_check(facts: Facts, blob: bytes) -> str:
    """The definition of ``NAME_weights_fit``."""
    words = ", ".join(f"{word}u" for word in HEAD.unpack(blob[: HEAD.size]))
    assert words.startswith(f"{MAGIC}u")  # the blob is one of ours
    return _CHECK.format(name=facts.name, NAME=facts.name.upper(), words=words)


_TOP1 = """\
int32_t {name}_top1(const int32_t *logits)
{{
    int32_t best = 0;
    for (int32_t k = 1; k < {NAME}_CLASSES; k++)
        if ((int64_t)logits[k] * qb_relative_scale[k] > (int64_t)logits[best] * qb_relative_scale[best])
            best = k;
    return best;
}}
"""

_QUANTIZE = """\
void {name}_quantize(const uint8_t *pixels, int8_t *input)
{{
    for (int32_t i = 0; i < {NAME}_HEIGHT * {NAME}_WIDTH; i++)
        for (int32_t c = 0; c < {NAME}_CHANNELS; c++)
            input[i * {NAME}_CHANNELS + c] = qb_pixel_codes[256 * c + pixels[i * {NAME}_CHANNELS + c]];
}}
"""

_CHECK = """\
int {name}_weights_fit(const void *weights_file, size_t bytes)
{{
    static const uint32_t head[4] = {{{words}}};
    if (weights_file == NULL || bytes != {NAME}_WEIGHTS_FILE_BYTES || (uintptr_t)weights_file % 16 != 0)
        return 0;
    for (int32_t i = 0; i < 4; i++)
        if (((const uint32_t *)weights_file)[i] != head[i])
            return 0;
    return 1;
}}
"""
