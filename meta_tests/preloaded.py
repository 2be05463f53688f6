"""Imports of the fork server that sessions of tests are forked from, so that each begins with its work.

A session imports pytest's plug-ins and the suite's sessions: 2.6 CPU seconds, against 0.5 in a forked process that has
them (`test_bad_input_ends_with_one_message_and_code_2`). Half of that is collecting garbage among what was imported,
which freezing leaves out.
"""

import gc
from importlib.metadata import entry_points

import hypothesis  # noqa: F401  its plug-in imports it at the end of a session

import meta_tests.conftest  # noqa: F401

for _plug_in in entry_points(group="pytest11"):
    _plug_in.load()
gc.freeze()
