"""Callbacks that are part of every run of the command line."""
