"""How long a task is computed for a client that has left, by a server of which that is known."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager

import pytest

from tests.bench.leave import leave
from tests.bench.peer import Server

# A child begins to compute for the first client, and is killed so long after that has left.
_SERVER = """
import os, signal, socket, time
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
child = os.fork()
if child == 0:
    signal.sigwait([signal.SIGUSR1])
    while True: pass
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
connection, _ = listener.accept()
connection.recv(10000)
{begin}
while connection.recv(10000): pass
time.sleep({later})
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
signal.pause()
"""
_COMPUTE = "os.kill(child, signal.SIGUSR1)"
_REFUSE = "connection.sendall(b'HTTP/1.1 404 Not Found')"


@contextmanager
def _serving(begin: str, later: float) -> Generator[Server]:
    command = [sys.executable, "-c", _SERVER.format(begin=begin, later=later)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        try:
            yield Server(process.pid, int(process.stdout.readline()))
        finally:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("later", [0, 0.2, 1.5])
def test_it_is_timed_from_the_disconnect_to_the_end_of_the_computing(later: float) -> None:
    with _serving(_COMPUTE, later) as server:
        found = leave(server, "any")
    assert later * 1000 < found < later * 1000 + 5000


def test_an_answer_is_told_where_there_should_be_none() -> None:
    with _serving(_REFUSE, 0) as server, pytest.raises(RuntimeError, match="404 Not Found"):
        leave(server, "any")
