"""The command line: a thin dispatcher. Nothing heavy is imported before a verb needs it."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Sequence

from qbench import __version__

HELP = f"""qbench {__version__}: what does quantizing a network cost in accuracy, and what does it buy?

usage: qbench VERB [...]

  run [-m] [--config-dir DIR] [KEY=VALUE ...]   train, quantize, evaluate; -m sweeps over comma lists
  study [NAME [KEY=VALUE | ROW:KEY=VALUE ...]]   all runs of a published study (a, b, c, d, e), its numbers beside ours;
                                                tiny=true in a minute; [--config-dir DIR] for studies of your own
  list [GROUP]                                  data sets, models, methods, ... and their parameters
  report [PATH]                                 the table of all records (default: outputs/records); or as a page
                                                (--html), its figures (--figures DIR), a Pareto front (--pareto size),
                                                text (--format latex)
  inspect FILE [--baseline FILE]                what is inside an artefact, layer by layer
  evaluate FILE dataset=NAME [KEY=VALUE ...]    accuracy of an artefact on a data set's test images
  predict FILE IMAGE... [--json] [--top N]      the classes an artefact sees in image files
  export RUN_OR_FILE --format FORMAT            as onnx, openvino, c or torch; [--output PATH] [--images N]
  store ls|gc|verify                            what the store has; bound it (--keep-bytes 5GB, --older-than 30d,
                                                --dry-run); check every entry (--repair); --store DIR
  doctor                                        versions, instruction sets, data sets and store of this machine
  help                                          this text

examples
  qbench run method=kmeans bits=4                               the embedded digits, a small network
  qbench run -m method=linear,kmeans bits=8,4,2                 a sweep; the float baseline is trained once
  qbench run -m method=linear,kmeans hydra/launcher=joblib      several at once; submitit_slurm, ray: on clusters
  qbench run -m bits=2,4,8 method=linear,qat hydra/sweeper=optuna    Optuna chooses which to run: docs/search.md
  qbench run dataset=cifar10 model=vgg16 method=kmeans bits=4   downloads CIFAR-10 where it is missing
  qbench run model=vgg16 dry=true                               print the plan and stop
  qbench study b seed=0,1,2                                     three networks on Fashion-MNIST, PTQ and QAT
  qbench run method=kmeans --cfg job                            print the composed config
  qbench evaluate model.qbench dataset=digits runtime=integer   accuracy from the file alone
  qbench export model.qbench --format c --output my_net         integer C99, compiled and checked before it is there
  eval "$(qbench -sc install=bash)"                             completion of groups, options and keys

Keys of a run: bits act_bits seed device threads limit_train limit_test tiny dry data_dir output_dir store_dir
traceback, and everything in the groups dataset model method train trainer runtime measure
tracker.
Folders: QBENCH_DATA, QBENCH_STORE, QBENCH_OUTPUTS. Packages that configs may name beside your own: QBENCH_TRUST.
Exit codes: 0 done, 1 a run failed, 2 bad input, 130 interrupted.
"""
HYDRA_FLAGS = (
    "--cfg",
    "-c",
    "--info",
    "-i",
    "--hydra-help",
    "--shell-completion",
    "-sc",
    "--package",
    "-p",
    "--resolve",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the ``qbench`` command."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _dispatch(words)
    except KeyboardInterrupt:
        print("interrupted; finished stages are kept, the same command goes on from there", file=sys.stderr)
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)


def _dispatch(words: list[str]) -> int:
    from qbench.errors import QBenchError

    if not words or words[0] in ("help", "--help", "-h"):
        print(HELP, end="")
        return 0
    if words[0] == "--version":
        print(f"qbench {__version__}")
        return 0
    if words[0] in ("-sc", "--shell-completion"):
        return _complete(words)
    verb = VERBS.get(words[0])
    try:
        if verb is None:
            from qbench.catalog import nearest
            from qbench.errors import ConfigError

            raise ConfigError(f"unknown verb {words[0]!r}.{nearest(words[0], list(VERBS))} Verbs: {', '.join(VERBS)}.")
        return verb(words[1:])
    except QBenchError as error:
        for line in str(error).splitlines():
            print(f"qbench: {line}", file=sys.stderr)
        return error.exit_code


def _run(words: list[str]) -> int:
    if any(word in ("-h", "--help") for word in words):
        print(HELP, end="")
        return 0
    if any(word.split("=")[0] in HYDRA_FLAGS for word in words):
        return _hydra(words)
    from qbench.sweep import run_sweep

    multirun, config_dir, overrides = _run_flags(words)
    return run_sweep(overrides, config_dir, multirun)


def _run_flags(words: list[str]) -> tuple[bool, str | None, list[str]]:
    """Split off -m and --config-dir; any other flag is refused."""
    from qbench.errors import ConfigError

    multirun, config_dir, overrides = False, None, []
    rest = iter(words)
    for word in rest:
        if word in ("-m", "--multirun"):
            multirun = True
        elif word.split("=")[0] in ("--config-dir", "-cd"):
            config_dir = word.partition("=")[2] or next(rest, None)
            if config_dir is None:
                raise ConfigError("--config-dir: a folder is missing after it.")
            if not os.path.isdir(config_dir):  # noqa: PTH112 - pathlib is not needed for a refusal
                raise ConfigError(f"--config-dir {config_dir}: no such folder.")
        elif word.startswith("-"):
            raise ConfigError(f"unknown flag {word!r}; flags of run are -m and --config-dir DIR, keys are KEY=VALUE.")
        else:
            overrides.append(word)
    return multirun, config_dir, overrides


def _hydra(words: list[str]) -> int:
    """Hydra's own flags (--cfg, --info, completion) are answered by Hydra."""
    import hydra
    from omegaconf import DictConfig

    from qbench.catalog import builtin_configs
    from qbench.hydra_settings import split

    sys.argv = ["qbench", *split(words)[1]]  # Hydra would hold these against the schemas of its plugins

    def ignore(_: DictConfig) -> None:
        """Run nothing: the flags that lead here only print."""

    hydra.main(version_base="1.3", config_path=str(builtin_configs().resolve()), config_name="config")(ignore)()
    return 0


def _complete(words: list[str]) -> int:
    """Print what may follow on the command line; keys and options of a run are Hydra's, which knows no verbs."""
    if not any("query" in word for word in words):
        return _hydra(words)  # install or uninstall
    line = os.environ.get("COMP_LINE", "")
    before = line.split()
    current = "" if line.endswith(" ") or not before else before.pop()
    verb = before[1] if len(before) > 1 else None
    if verb is None:
        found = list(VERBS)
    elif verb == "list":
        from qbench.catalog import GROUPS

        found = list(GROUPS)
    elif verb == "study" and len(before) == 2:
        from qbench.catalog import options

        found = list(options("study"))
    elif verb == "run" and before[-1] not in ("--config-dir", "-cd"):
        return _complete_run(before, current, words)
    else:
        found = []  # a path, which the shell completes
    print(" ".join(word for word in found if word.startswith(current)))
    return 0


def _complete_run(before: list[str], current: str, words: list[str]) -> int:
    line = " ".join([before[0], *before[2:], current])
    os.environ["COMP_LINE"], os.environ["COMP_POINT"] = line, str(len(line))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = _hydra(words)
    internal = ("hydra", "limits", "_target_", "summary", "peer")
    found = [word for word in printed.getvalue().split() if not {*word.rstrip("=.").split(".")} & {*internal}]
    print(" ".join(found))
    return code


def _study(words: list[str]) -> int:
    from qbench.study import study

    return study(words)


def _list(words: list[str]) -> int:
    from qbench.describe import list_options

    return list_options(words)


def _report(words: list[str]) -> int:
    from qbench.reporting import report

    return report(words)


def _inspect(words: list[str]) -> int:
    from qbench.describe import inspect

    return inspect(words)


def _evaluate(words: list[str]) -> int:
    from qbench.evaluate import evaluate

    return evaluate(words)


def _predict(words: list[str]) -> int:
    from qbench.predict import predict

    return predict(words)


def _export(words: list[str]) -> int:
    from qbench.export.verb import export

    return export(words)


def _store(words: list[str]) -> int:
    from qbench.store_verb import store_verb

    return store_verb(words)


def _doctor(words: list[str]) -> int:
    from qbench.doctor import doctor

    return doctor(words)


VERBS: dict[str, Callable[[list[str]], int]] = {
    "run": _run,
    "study": _study,
    "list": _list,
    "report": _report,
    "inspect": _inspect,
    "evaluate": _evaluate,
    "predict": _predict,
    "export": _export,
    "store": _store,
    "doctor": _doctor,
}
