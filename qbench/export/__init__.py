"""Deployable files: one file per format, one small protocol (``base``), one verb (``verb``)."""
