"""Prints one line about this Python: its version, its executable, and why the reactor cannot be built with it (nothing
if it can), apart by tabs.

It must run on the Pythons that are refused: no syntax that is younger than they are.
"""

import os
import sys

from check_python import problem

version = ".".join(str(number) for number in sys.version_info[:3])
sys.stdout.write("\t".join([version, os.path.realpath(sys.executable), problem() or ""]) + "\n")
