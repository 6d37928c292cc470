"""What `qbench VERB --help` prints. Imports nothing, so that help is there at once."""

from __future__ import annotations

from collections.abc import Sequence

_LIST = """\
usage: qbench list [GROUP] [--config-dir DIR]

The options of one group, or of all, with what they are, their parameters, defaults and allowed values.

  GROUP              dataset, model, method, train, trainer, runtime, measure, tracker, experiment, launcher or sweeper;
                     methods says the same as method
  --config-dir DIR   also your own options, in DIR/method/*.yaml and so on

examples
  qbench list methods
  qbench list runtime --config-dir my_configs
"""
_REPORT = """\
usage: qbench report [PATH] [--html [--output FILE] | --pareto METRIC | --format FORMAT]

Without a flag: the table of all records here, and tables and figures in files beside them.

  PATH               a folder of records or one record file (default: records in QBENCH_OUTPUTS or outputs)
  --html             one page with everything, which opens from disk, instead of tables
  --output FILE      where that page goes (default: report.html beside the folder of records)
  --pareto METRIC    the front of accuracy over size, latency or energy, and the command behind each of its points
  --format FORMAT    the table as csv, md, json or latex

examples
  qbench report --html
  qbench report outputs/records --pareto size
"""
_INSPECT = """\
usage: qbench inspect FILE [--baseline FILE]

What is inside an artefact, layer by layer: encodings, bits, bytes; and where it came from.

  FILE               a .qbench file
  --baseline FILE    the float artefact of the same network: adds the error of each layer's weights against it

examples
  qbench inspect model.qbench
"""
_EVALUATE = """\
usage: qbench evaluate FILE dataset=NAME [KEY=VALUE ...] [--config-dir DIR]

Accuracy of an artefact on a data set's test images, from the file alone.

  FILE               a .qbench file, or the folder or identifier of a run
  dataset=NAME       whose test images; qbench list dataset names them, dataset.KEY=VALUE sets their parameters
  runtime=NAME       what runs the file (default: torch); qbench list runtime names them
  threads=N  limit_test=N  data_dir=DIR  store_dir=DIR   as in qbench run
  --config-dir DIR   your own options

examples
  qbench evaluate model.qbench dataset=digits runtime=integer
"""
_PREDICT = """\
usage: qbench predict FILE IMAGE... [--json] [--top N] [runtime=NAME] [threads=N]

The classes an artefact sees in image files, with their probabilities.

  FILE               a .qbench file, or the folder or identifier of a run
  IMAGE              image files that Pillow opens; each is resized to what the network takes
  --json             as JSON instead of a table
  --top N            classes per image (default: 3)
  runtime=NAME       what runs the file (default: torch)
  threads=N          threads it may use

examples
  qbench predict model.qbench cat.png dog.png --top 1
"""
_EXPORT = """\
usage: qbench export RUN_OR_FILE --format FORMAT [--output PATH] [--images N]

An artefact as a file of another format. It is re-loaded and compared with the artefact before it is put in its place.

  RUN_OR_FILE        a .qbench file, or the folder or identifier of a run
  --format FORMAT    onnx: for any engine that reads ONNX
                     openvino: .xml and .bin
                     c: integer C99 without a library, in a folder
                     torch: a .pt2 file of torch.export
  --output PATH      the file, or the folder of a format with several files (default: beside the artefact)
  --images N         images to compare on (default: 128)

examples
  qbench export model.qbench --format c --output my_net
"""
_STORE = """\
usage: qbench store ls [--store DIR]
       qbench store gc [--keep-bytes SIZE] [--older-than TIME] [--dry-run] [--store DIR]
       qbench store verify [--repair] [--store DIR]

What the store of finished stages has; bound it; check every entry.

  --store DIR        another store than QBENCH_STORE or outputs/store
  --keep-bytes SIZE  remove what was used least recently until no more is left, such as 5GB
  --older-than TIME  remove what was not used for so long, such as 30d or 12h
  --dry-run          only say what would go
  --repair           remove damaged entries; the next run that needs them makes them anew

examples
  qbench store gc --keep-bytes 5GB --dry-run
"""
_STUDY = """\
usage: qbench study [NAME [KEY=VALUE | ROW:KEY=VALUE ...]] [--rows NAMES] [--records DIR] [--config-dir DIR]

All runs of a published study as one sweep, and its table with the study's numbers beside ours. Without a name: which
studies there are.

  NAME               a, b, c, d, e, or one of your own in DIR/study/*.yaml
  KEY=VALUE          as in qbench run -m, for every run of the study; tiny=true makes it a test of a minute
  ROW:KEY=VALUE      for the runs of one row, or of those that ROW is a pattern for
  --rows NAMES       these rows alone: names with commas between, * for any text
  --records DIR      run nothing: the tables of the records in DIR, wherever they were made
  --config-dir DIR   your own options and studies

examples
  qbench study e
  qbench study b seed=0,1,2 measure=none dry=true
  qbench study d --rows 'mnist_*'
  qbench study b --records docs/results/studies/records
"""
_DOCTOR = """\
usage: qbench doctor

Versions, instruction sets, threads, data sets and store of this machine; exit code 1 if something is broken.
"""
USAGES = {
    "list": _LIST,
    "report": _REPORT,
    "inspect": _INSPECT,
    "evaluate": _EVALUATE,
    "predict": _PREDICT,
    "export": _EXPORT,
    "store": _STORE,
    "study": _STUDY,
    "doctor": _DOCTOR,
}


def asks_for_help(words: Sequence[str]) -> bool:
    """Whether a verb's words ask for its usage instead of what it does."""
    return any(word in ("-h", "--help") for word in words)
