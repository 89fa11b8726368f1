"""Real servers, with the tasks of a plug-in."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.exchange import Answer, Fields, ask
from tests.faults.traffic import RawClient, wait_until
from tests.processes import ROOT, SluiceProcess, run, running

JSON = (("Content-Type", "application/json"),)


@dataclass(frozen=True)
class Site:
    """A server, and a folder for what its tasks leave behind."""

    server: SluiceProcess
    folder: Path

    def ask(self, path: str, method: str = "GET", fields: Fields = (), body: bytes | None = None) -> Answer:
        return ask(self.server.port, method, path, fields, body)

    def post(self, body: bytes, fields: Fields = JSON) -> Answer:
        return self.ask("/api/process", "POST", fields, body)

    def run(self, task: str, fields: Fields = (), **arguments: object) -> Answer:
        return self.post(request(task, **arguments), [*JSON, *(fields.items() if isinstance(fields, dict) else fields)])

    def place(self, name: str) -> Path:
        """A file that is not there yet."""
        path = self.folder / name
        assert not path.exists()
        return path

    def job(self, accepted: Answer, *states: str) -> Any:
        """The job that an answer tells of, once it is in one of ``states``."""
        shown: dict[str, Any] = {}

        def is_there() -> bool:
            answer = self.ask(accepted.fields["location"])
            assert answer.status == 200, answer.body
            shown.update(json.loads(answer.body))
            return shown["state"] in states

        wait_until(is_there, f"the job is {' or '.join(states)}")
        return shown

    @contextmanager
    def holding(self, name: str) -> Generator[RawClient]:
        """A client whose task runs, until the block ends or there is a file ``NAME.go``."""
        begun = self.place(name)
        with RawClient(self.server.port) as holder:
            send(holder, request("hold", begun=str(begun), then=f"{begun}.go"))
            wait_until(begun.exists, "the task has begun")
            yield holder


def request(task: str, **arguments: object) -> bytes:
    return json.dumps({"task": task, "args": arguments}).encode()


def result(answer: Answer) -> Any:
    assert (answer.status, answer.fields["content-type"]) == (200, "application/json"), answer.body[:500]
    found = json.loads(answer.body)
    assert set(found) == {"result"}
    return found["result"]


def told(answer: Answer) -> tuple[int, str]:
    """Of a problem: the status, and the name of the error."""
    problem = answer.problem
    assert problem["status"] == answer.status
    return answer.status, problem["type"].removeprefix("urn:sluice:error:")


def begin(client: RawClient, length: int, fields: str = "") -> None:
    """The head of a request whose body is ``length`` bytes."""
    head = f"POST /api/process HTTP/1.1\r\nHost: sluice\r\nContent-Type: application/json\r\n{fields}"
    client.send(f"{head}Content-Length: {length}\r\n\r\n".encode())


def send(client: RawClient, body: bytes, fields: str = "") -> None:
    begin(client, len(body), fields)
    client.send(body)


@contextmanager
def serving(folder: Path, **variables: str) -> Generator[Site]:
    assert run(folder, "migrate").returncode == 0
    (folder / "sluice.toml").write_text('[tasks]\nmodules = ["tests.compute.behaving", "tests.compute.plugin"]\n')
    variables = {"SLUICE_CONFIG": "sluice.toml", "PYTHONPATH": str(ROOT), "SLUICE_TASK_GRACE": "0.3s"} | variables
    with running(folder, None, workers=1, **variables) as server:
        yield Site(server, folder)


@pytest.fixture(scope="package")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with serving(tmp_path_factory.mktemp("site"), SLUICE_COMPUTE_WORKERS="2", SLUICE_COMPUTE_QUEUE="20") as site:
        yield site


@pytest.fixture(scope="package")
def narrow_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One worker, one that waits, and bodies of 3 MiB at most."""
    limits = {"SLUICE_COMPUTE_WORKERS": "1", "SLUICE_COMPUTE_QUEUE": "1", "SLUICE_MAX_TASK_BODY": "3MiB"}
    with serving(tmp_path_factory.mktemp("narrow"), **limits) as site:
        yield site
