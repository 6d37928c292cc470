"""The program of docs/export.md, as it stands there, compiled and run."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import torch
from calling import ROOT
from export.programs import integer_program, saved

from qbench.data.augment import normalise
from qbench.data.digits import Digits
from qbench.export.verb import export_file
from qbench.program.lower import lower
from qbench.runtime.c import to_c
from qbench.runtime.c.compiled import find_compiler
from qbench.runtime.integer import IntegerRuntime

from .building import reference

DOCUMENT = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```c\n(.*?)```", DOCUMENT, re.DOTALL)
STRICT = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"]


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """A network exported as the document does it, with the document's program beside it."""
    folder, _ = export_file(saved(integer_program(), tmp_path), "c", tmp_path / "model", 2)
    (folder / "main.c").write_text(BLOCKS[0])
    return folder


def test_the_program_of_the_document(exported: Path, tmp_path: Path) -> None:
    command = re.search(r"^cc (.*)$", DOCUMENT, re.MULTILINE)
    assert command is not None
    words = command[1].split()
    assert {"-std=c99", "model.c", "main.c"} <= set(words)
    subprocess.run([*find_compiler(), *STRICT, *words], cwd=exported, check=True)
    test = Digits().load_test(tmp_path, tmp_path)
    for pixels in test.images[:8]:
        (exported / "image.raw").write_bytes(pixels.permute(1, 2, 0).contiguous().numpy().tobytes())
        done = subprocess.run(["./classify", "image.raw"], cwd=exported, capture_output=True, text=True, check=True)
        numbers, chosen = done.stdout.splitlines()
        logits = IntegerRuntime().prepare(integer_program())(normalise(pixels[None], [0.4], [0.3]))[0]
        sums = torch.tensor([int(number) for number in numbers.split()])
        assert torch.equal(sums.to(torch.float32) * lower(integer_program()).output_scale, logits)
        assert chosen == f"class {int(logits.argmax())}"
    (exported / "image.raw").write_bytes(b"too short")
    done = subprocess.run(["./classify", "image.raw"], cwd=exported, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr == "usage: ./classify FILE, of 1024 bytes\n"


def test_the_lines_of_the_document_that_map_a_file(tmp_path: Path) -> None:
    """In a function of their own, beside a network that keeps its weights in a file."""
    to_c(lower(integer_program()), name="model", weights="blob").write(tmp_path)
    includes = (
        '#define _GNU_SOURCE\n#include <fcntl.h>\n#include <stdio.h>\n#include <sys/mman.h>\n#include "model.h"\n'
    )
    body = f"static int run(const int8_t *input, int32_t *logits)\n{{\n{BLOCKS[1]}return 0;\n}}\n"
    main = """int main(void) {
        static int8_t input[MODEL_INPUT_BYTES];
        int32_t logits[MODEL_CLASSES];
        int failed = run(input, logits);
        for (int k = 0; k < MODEL_CLASSES; k++) printf("%d ", failed ? 0 : (int)logits[k]);
        return failed; }
    """
    (tmp_path / "map.c").write_text(includes + body + main)
    subprocess.run([*find_compiler(), *STRICT, "map.c", "model.c", "-o", "map"], cwd=tmp_path, check=True)
    done = subprocess.run(["./map"], cwd=tmp_path, capture_output=True, text=True, check=True)
    codes = torch.zeros(1, 32, 32, 1, dtype=torch.int8)
    assert [int(number) for number in done.stdout.split()] == reference(lower(integer_program()), codes)[0].tolist()
    (tmp_path / "model.bin").write_bytes(bytes((tmp_path / "model.bin").stat().st_size))
    assert subprocess.run(["./map"], cwd=tmp_path, capture_output=True, check=False).returncode == 1
