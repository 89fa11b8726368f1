"""Loaded by the process that those for calls are copies of (multiprocessing's fork server), and by no other.

A signal to end that is sent to a whole group of processes is the server's, which finishes what runs in its drain, and
may need new processes for that. This one ends when there is nobody left who could ask for a copy.
"""

import importlib
import signal

# What each copy would load by itself before its first call.
for _name in ("_trio_parallel_workers", "multiprocessing.popen_forkserver", "pkgutil"):
    importlib.import_module(_name)

for _signal in (signal.SIGTERM, signal.SIGINT):
    signal.signal(_signal, signal.SIG_IGN)
