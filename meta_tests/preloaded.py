"""Imports of the fork server that sessions of tests are forked from, so that each begins with its work.

Collecting the tests of a spec takes a session 2.7 CPU seconds, and 0.3 to 0.8 s where it is forked from a process that
has imported its plug-ins and modules. Half of the difference is collecting garbage among what was imported, which
freezing leaves out.
"""

import gc
from importlib.metadata import entry_points

import hypothesis  # noqa: F401  its plug-in imports it at the end of every session
import torch._dynamo  # noqa: F401  an export imports it

import fixtures.export.graphs  # noqa: F401  an export imports it
import meta_tests.conftest  # noqa: F401
from fixtures.sessions import bench_session, export_session  # noqa: F401
from meta_tests.operator_table import keep_operator_table
from meta_tests.references import keep_references

for _plug_in in entry_points(group="pytest11"):
    _plug_in.load()
keep_operator_table()
keep_references()
gc.freeze()
