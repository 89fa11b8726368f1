"""Loaded by the process that those for calls are copies of (multiprocessing's fork server), and by no other.

A signal to end that is sent to a whole group of processes is the server's, which finishes what runs in its drain, and
may need new processes for that. This one ends when there is nobody left who could ask for a copy.
"""

import importlib
import signal

from app.flow.process_start import SIGNALS_OF_THE_SERVER

for _signal in SIGNALS_OF_THE_SERVER:
    signal.signal(_signal, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS_OF_THE_SERVER)

# What each copy would load by itself before its first call.
for _name in ("_trio_parallel_workers", "multiprocessing.popen_forkserver", "pkgutil"):
    importlib.import_module(_name)
