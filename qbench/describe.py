"""The verbs that only look: list, inspect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qbench.catalog import DESCRIPTIVE, GROUPS, PLUGIN_GROUPS, Option, nearest, options
from qbench.console import make_console
from qbench.errors import ArtifactError, ConfigError
from qbench.limits import describe
from qbench.steps import flat, flat_limits
from qbench.words import take_option

if TYPE_CHECKING:
    from qbench.artifact import SizeReport
    from qbench.program.encodings import Encoding
    from qbench.program.graph import Program

LISTED = (*GROUPS, *PLUGIN_GROUPS)
OTHER_NAMES = {f"{group}s": group for group in GROUPS} | {group.rpartition("/")[2]: group for group in PLUGIN_GROUPS}


def list_options(words: Sequence[str]) -> int:
    """``qbench list [GROUP] [--config-dir DIR]``: the options of one group, or of all."""
    extra, names = _config_dir(words)
    wanted = []
    for name in names:
        group = OTHER_NAMES.get(name, name)
        if group not in LISTED:
            raise ConfigError(f"list {name}: unknown group.{nearest(name, LISTED)} Groups: {', '.join(LISTED)}.")
        wanted.append(group)
    console = make_console()
    for group in wanted or LISTED:
        found = options(group, extra)
        if not found:
            continue
        table = Table(title=f"{group}=", title_justify="left", box=box.SIMPLE_HEAD, header_style="bold")
        table.add_column("name", no_wrap=True)
        table.add_column("what it is", overflow="fold")
        table.add_column("parameters = default (allowed)", overflow="fold")
        for option in found.values():
            content = option.load()
            cells = (option.name, str(content.get("summary", "")), _parameters(option, content))
            table.add_row(*map(escape, cells))
        console.print(table)
    return 0


def inspect(words: Sequence[str]) -> int:
    """``qbench inspect FILE [--baseline FILE]``: what is inside an artefact, layer by layer."""
    baseline, names = take_option("--baseline", words)
    if len(names) != 1 or names[0].startswith("-"):
        raise ConfigError("inspect: give one artefact, and --baseline FILE to see the error against float weights.")
    _print_artifact(make_console(), Path(names[0]), Path(baseline) if baseline else None)
    return 0


def _print_artifact(console: Console, path: Path, baseline: Path | None) -> None:
    from qbench.artifact import load, size_report

    program, sizes = load(path), size_report(path)
    table = _layer_table(program, sizes, _sqnr(program, path, baseline))
    table.title = escape(str(path))
    console.print(table)
    if "sensitivity" in program.provenance:
        console.print(_sensitivity_table(program.provenance["sensitivity"]))
    for name, text in _facts(program, sizes).items():
        console.print(f"{name:<12}{text}", highlight=False, markup=False, soft_wrap=True)


def _sqnr(program: Program, path: Path, baseline: Path | None) -> dict[str, float]:
    """SQNR of each layer against the float weights of ``baseline``; empty without one."""
    from qbench.artifact import load
    from qbench.measure.sqnr import weight_sqnr
    from qbench.program.transform import fold_batch_norm

    if baseline is None:
        return {}
    reference = load(baseline)
    if {node.name for node in reference.nodes} != {node.name for node in program.nodes}:
        reference = fold_batch_norm(reference)
    if not {node.name for node in program.layers()} <= {node.name for node in reference.layers()}:
        raise ArtifactError(f"{baseline}: is of another network than {path}")
    return weight_sqnr(reference, program)


def _layer_table(program: Program, sizes: SizeReport, sqnr: Mapping[str, float]) -> Table:
    from qbench.measure.complexity import input_bits, layer_bops, layer_macs
    from qbench.measure.energy import PICO_PER_MICRO, node_energies

    stored = {tensor.name: tensor for tensor in sizes.tensors}
    macs, bops = layer_macs(program), layer_bops(program)
    energies = node_energies(program, {tensor.name: tensor.bytes for tensor in sizes.tensors})
    table = Table(title_justify="left", box=box.SIMPLE_HEAD, header_style="bold")
    for heading in ("layer", "op", "shape", "encoding"):
        table.add_column(heading, no_wrap=True)
    for heading in ("bits", "a bits", "bytes", "MACs", "BOPs", "µJ", *(["SQNR dB"] if sqnr else [])):
        table.add_column(heading, justify="right")
    octal_notation = program.provenance.get("notation") == "octal"
    if octal_notation:
        table.add_column("first codes", no_wrap=True)
    for node in program.layers():
        tensor = stored[f"{node.name}.weight"]
        shape = "x".join(str(size) for size in tensor.shape)
        cells = [node.name, node.op, shape, tensor.encoding, str(tensor.bits), str(input_bits(program, node.name))]
        cells += [f"{count:,}" for count in (tensor.bytes, macs[node.name], bops[node.name])]
        cells.append(f"{energies[node.name].total_pJ / PICO_PER_MICRO:.3g}")
        cells += [f"{sqnr.get(node.name, float('nan')):.1f}"] if sqnr else []
        table.add_row(*cells, *([_first_octals(program.tensors[tensor.name])] if octal_notation else []))
    return table


def _facts(program: Program, sizes: SizeReport) -> dict[str, str]:
    """What holds of the whole artefact, by heading."""
    from qbench.measure.activations import activation_bytes_peak
    from qbench.measure.complexity import bops, effective_parameters, macs, num_parameters
    from qbench.measure.energy import energy_modelled_uJ, energy_table

    made = program.provenance
    energy = energy_modelled_uJ(program, {tensor.name: tensor.bytes for tensor in sizes.tensors})
    return {
        "made by": " ".join([str(made.get("method", "?")), *_settings(flat(made.get("params") or {}))]),
        "network": f"{made.get('model', '?')} on {made.get('dataset', '?')}, input {program.input_shape}",
        "operations": f"{macs(program):,} MACs, {bops(program):,} BOPs per image",
        "energy": f"{energy:,.4g} µJ per image, modelled ({energy_table().name})",
        "parameters": f"{num_parameters(program):,}",
        "effective": f"{effective_parameters(sizes.size_bytes):,.1f} parameters of 32 bits would take as many bytes",
        "activations": f"{len(program.edges)} quantized edges" if program.edges else "float",
        "memory": f"{activation_bytes_peak(program):,} bytes of activations at once, for one image",
        "bytes": f"{sizes.size_bytes:,} = codes {sizes.codes_bytes:,} + codebooks {sizes.codebooks_bytes:,} + "
        f"scales {sizes.scales_bytes:,} + floats {sizes.floats_bytes:,} + masks {sizes.masks_bytes:,} + "
        f"container {sizes.container_bytes:,}; theoretical {sizes.theoretical_bits / 8:,.1f}"
        + (f"; {sizes.fixed_width_bytes:,} without entropy coding" if program.entropy_coding else "")
        + (f"; {sizes.pruned_bytes:,} with what was kept as floats" if sizes.pruned_bytes is not None else ""),
    }


def _first_octals(encoding: Encoding) -> str:
    """The first codes of a tensor as octal text."""
    from qbench.program.encodings import Affine
    from qbench.quant.octal import octal

    return " ".join(map(octal, encoding.codes.flatten()[:3].tolist())) if isinstance(encoding, Affine) else ""


def _sensitivity_table(measured: Mapping[str, Any]) -> Table:
    """What mixed precision was decided by: every option of every layer, the chosen one marked."""
    columns = list(dict.fromkeys((kind, bits) for row in measured["layers"] for kind, bits, _, _ in row["options"]))
    title = f"sensitivity ({measured['kind']}) of each layer alone; * chosen"
    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, header_style="bold")
    table.add_column("layer", no_wrap=True)
    for kind, bits in columns:
        table.add_column(f"{kind} {bits}", justify="right", no_wrap=True)
    for row in measured["layers"]:
        cells = dict.fromkeys(columns, "")
        for index, (kind, bits, _, harm) in enumerate(row["options"]):
            cells[kind, bits] = f"{harm:.2g}" + ("*" if index == row["chosen"] else "")
        table.add_row(escape(row["layer"]), *cells.values())
    return table


def _parameters(option: Option, content: dict[str, Any]) -> str:
    if option.group == "experiment":
        return "\n".join(_settings(_chosen(content)))
    limits = flat_limits(content)
    plugin = option.group in PLUGIN_GROUPS
    parameters = _dotted(option.parameters()) if plugin else flat(option.parameters())
    allowed = [f" ({describe(limits[name])})" if name in limits else "" for name in parameters]
    return "\n".join(text + limit for text, limit in zip(_settings(parameters), allowed))


def _chosen(experiment: dict[str, Any]) -> dict[str, Any]:
    """What an experiment sets, as overrides: its options of other groups, then single keys."""
    found: dict[str, Any] = {}
    for entry in experiment.get("defaults") or []:
        if isinstance(entry, dict):
            found.update({key.removeprefix("override ").strip("/"): value for key, value in entry.items()})

    return {
        **found,
        **_dotted({key: value for key, value in experiment.items() if key not in ("defaults", *DESCRIPTIVE)}),
    }


def _dotted(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings that hold anything as one, by dotted keys."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        nested = isinstance(value, Mapping) and value
        found.update(_dotted(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value})
    return found


def _settings(parameters: Mapping[str, Any]) -> list[str]:
    """``key=value`` each, as the command line takes them."""
    words = {None: "null", True: "true", False: "false"}
    return [
        f"{name}={words[value] if value is None or isinstance(value, bool) else value}"
        for name, value in parameters.items()
    ]


def _config_dir(words: Sequence[str]) -> tuple[Path | None, list[str]]:
    folder, rest = take_option("--config-dir", words)
    if folder is not None and not Path(folder).is_dir():
        raise ConfigError(f"--config-dir {folder}: no such folder.")
    return Path(folder) if folder else None, rest
