"""Measures all lines of one table in a single run: the server against the limits of its machine, and against its peers.

The arms of a line take turns, and medians of their runs are compared, so that a machine that gets slower in between slows all of
them. What cannot be measured is a row with its reason, never an end of the run.
"""
