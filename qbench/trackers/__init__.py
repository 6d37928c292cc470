"""Experiment trackers: told of a run when its record is written. One file each, one small protocol."""
