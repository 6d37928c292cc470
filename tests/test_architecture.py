"""The import rule: a module may import what stands in a layer before its own. Read from the source."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "qbench"
FILES = sorted(PACKAGE.rglob("*.py"))

# Parts of qbench from left to right. A top-level module that is not listed is one of the command line's, at the far
# right: it may import everything and nothing listed may import it.
LAYERS = (
    {"errors", "record", "details", "config", "files", "machine", "progress", "steps"},
    {"quant"},
    {"program"},
    {"artifact", "training"},
    {"methods", "runtime", "measure"},
    {"peers"},
    {
        "stages",
        "identity",
        "plan",
        "profiling",
        "store",
        "durations",
        "report",
        "trackers",
        "assets",
        "assess",
        "collect",
        "choose",
        "exclusive",
        "rows",
        "timed",
        "foreign",
        "tuner",
    },
    {"runner"},
)
GROUND, COMMAND_LINE = 0, len(LAYERS)
WITHIN_A_LAYER = {("measure", "runtime")}  # layers of packages keep apart but for these; other layers are one group
PACKAGE_LAYERS = range(1, 6)
INPUTS = {"data", "models"}  # beside the layers: for training and for what puts a run together
INPUTS_MAY_USE = {"errors", "config", "files"}
METHODS_MAY_USE = {"errors", "progress", "quant", "program", "artifact", "training"}  # no config, data, metric, path
PEERS_MAY_USE = {"errors", "progress", "program", "methods", "runtime"}  # as methods, and engines' writers and loaders

LIBRARIES = {
    "quant": {"torch", "numpy", "scipy"},
    "program": {"torch"},
    "methods": {"torch"},
    "peers": {"torch", "numpy"},  # what they wrap is imported when it is called
    "data": {"torch", "torchvision", "numpy", "PIL", "safetensors", "sklearn", "filelock"},
    "models": {"torch", "torchvision", "timm"},
}
WITHOUT_TORCH = (
    "cli",
    "catalog",
    "limits",
    "compose",
    "composition",
    "hydra_settings",
    "identity",
    "plan",
    "config",
    "errors",
    "store",
    "data.presence",
    "steps",
)
LONGEST_FILE = 300


def module_of(path: Path) -> str:
    """'qbench.quant.affine'; a package's __init__ is the package."""
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES}


def part_of(module: str) -> str:
    """The first name below qbench: 'quant' of 'qbench.quant.affine', '' of qbench itself."""
    return module.split(".")[1] if "." in module else ""


@cache
def imports(path: Path, top_level_only: bool = False) -> frozenset[str]:
    """Dotted names of what a file imports; ``from package import module`` counts as the module where it is one."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = (node.module or "") if not node.level else _absolute(path, node)
            found |= {f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base for alias in node.names}
    return frozenset(found)


def _absolute(path: Path, node: ast.ImportFrom) -> str:
    package = path.relative_to(PACKAGE.parent).with_suffix("").parts[: -node.level]
    return ".".join([*package, *([node.module] if node.module else [])])


def own(path: Path) -> set[str]:
    return {name for name in imports(path) if name.split(".")[0] == "qbench"}


def libraries(path: Path) -> set[str]:
    """Third-party packages a file imports, anywhere in it."""
    return {name.split(".")[0] for name in imports(path)} - {"qbench", *sys.stdlib_module_names}


def layer_of(part: str) -> int:
    return next((rank for rank, layer in enumerate(LAYERS) if part in layer), COMMAND_LINE)


def allowed(part: str, target: str) -> bool:
    """Whether a file of one part may import a module of another."""
    if target in ("", part):
        return True  # qbench itself holds the version alone; a part is free in itself
    if part in INPUTS:
        return target in INPUTS_MAY_USE
    if part == "methods":
        return target in METHODS_MAY_USE
    if part == "peers":
        return target in PEERS_MAY_USE
    here = layer_of(part)
    if target in INPUTS:
        return part == "training" or here > max(PACKAGE_LAYERS)
    if here == layer_of(target):
        return here not in PACKAGE_LAYERS or (part, target) in WITHIN_A_LAYER
    return layer_of(target) < here


def shown(path: Path) -> str:
    return str(path.relative_to(PACKAGE.parent))


def test_the_reader_of_imports_sees_them() -> None:
    edges = MODULES["qbench.methods.static_edges"]
    assert imports(edges) >= {"torch", "dataclasses", "qbench.quant.affine", "qbench.program.materialize"}
    assert libraries(edges) == {"torch"}
    assert "qbench.progress" in own(MODULES["qbench.sweep"]) - imports(MODULES["qbench.sweep"], top_level_only=True)
    assert len(FILES) >= 70
    assert {part for layer in LAYERS for part in layer} | INPUTS <= {part_of(module) for module in MODULES}


def test_the_rule_refuses_what_it_should() -> None:
    refused = {
        ("quant", "program"): "leftwards only",
        ("runtime", "methods"): "packages of a layer keep apart",
        ("artifact", "training"): "packages of a layer keep apart",
        ("runtime", "measure"): "only the other way round",
        ("methods", "config"): "methods see no configs",
        ("methods", "data"): "methods see no data sets",
        ("methods", "peers"): "methods need no other library",
        ("peers", "config"): "other libraries' methods see no configs either",
        ("peers", "measure"): "nor metrics",
        ("runtime", "peers"): "leftwards only",
        ("data", "progress"): "inputs know their configuration alone",
        ("measure", "models"): "measures see programs",
        ("stages", "compose"): "stages see no command line",
        ("measure", "trackers"): "what measures tells nobody",
        ("config", "store"): "the ground stands on nothing",
    }
    assert not [pair for pair in refused if allowed(*pair)]
    accepted = {("methods", "quant"), ("measure", "runtime"), ("training", "data"), ("stages", "assets")}
    accepted |= {("peers", "runtime"), ("peers", "methods")}
    accepted |= {("record", "files"), ("compose", "limits"), ("models", "errors"), ("methods", "progress")}
    assert all(allowed(*pair) for pair in accepted)


@pytest.mark.parametrize("path", FILES, ids=shown)
def test_imports_point_to_earlier_layers(path: Path) -> None:
    part = part_of(module_of(path))
    assert [name for name in sorted(own(path)) if not allowed(part, part_of(name))] == []


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {
        name: {target for target in imports(path, top_level_only=True) if target in MODULES and target != name}
        for name, path in MODULES.items()
    }
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the modules


def test_the_package_itself_imports_nothing() -> None:
    assert own(PACKAGE / "__init__.py") == libraries(PACKAGE / "__init__.py") == set()


def test_only_composing_and_the_command_line_know_hydra() -> None:
    users = {module_of(path) for path in FILES if libraries(path) & {"hydra", "omegaconf"}}
    known = ("cli", "compose", "composition", "hydra_launcher", "hydra_settings", "search_space")
    assert users == {f"qbench.{name}" for name in known}


@pytest.mark.parametrize("part", LIBRARIES)
def test_parts_use_their_own_libraries_only(part: str) -> None:
    files = [path for path in FILES if part_of(module_of(path)) == part]
    assert len(files) >= 4
    assert {shown(path): libraries(path) - LIBRARIES[part] for path in files if libraries(path) - LIBRARIES[part]} == {}


def test_refusing_a_config_does_not_wait_for_torch() -> None:
    """In a fresh interpreter, because this one has imported it long ago."""
    modules = ", ".join(f"qbench.{name}" for name in WITHOUT_TORCH)
    program = f"import sys, {modules}; print(*sorted({{'torch', 'torchvision', 'pandas', 'scipy'}} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout.strip(), run.stderr) == (0, "", "")


def test_files_are_short_enough_to_read() -> None:
    lengths = {shown(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}
