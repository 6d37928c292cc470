"""Quantizers of other libraries as methods: they hand in a file, which is scored and timed like any artefact.

One file per library, named by ``_target_`` in a YAML that says ``peer: {runtime: ..., packages: [...]}``. They call the
library with its own defaults and its own options; nothing of it is done again here.
"""
