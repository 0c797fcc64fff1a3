"""The short form: one server for all attacks that need no special settings, and a small part of each flood.

`--all` adds the slow faults; the attacks in full are run by `run --all`, which also times the bystander."""

import json
import pathlib

import pytest
import trial
from attack import Attack
from server import Server


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="the slow ones too")
    parser.addoption("--verdicts", help="file for what each test found, as lines of JSON")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: takes longer than CI has")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--all"):
        skipped = [item for item in items if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=skipped)
        items[:] = [item for item in items if item not in skipped]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    report = yield
    path = item.config.getoption("--verdicts")
    if path and (call.when == "call" or report.failed):
        said = {"name": item.name, "doc": (item.function.__doc__ or "").strip(), "verdict": report.outcome}
        said["wrong"] = str(call.excinfo.value).splitlines()[:1] if call.excinfo else []
        with pathlib.Path(path).open("a") as file:
            file.write(json.dumps(said) + "\n")
    return report


class Farm:
    """The server for an attack's settings: the one that has them, if it still runs, or a new one."""

    def __init__(self) -> None:
        self._servers: dict[tuple[str, ...], Server] = {}

    def server(self, attack: Attack) -> Server:
        found = self._servers.get(attack.settings)
        if found is None or not found.is_running():
            # Apart from the shared one there is at most one: tests come in the order of their settings.
            for settings in [settings for settings in self._servers if settings]:
                self._servers.pop(settings).kill()
            if found:
                found.kill()
            found = self._servers[attack.settings] = trial.start(attack)
        return found

    def forget(self, attack: Attack) -> None:
        """Gives the next attack a server that this one has not touched."""
        self._servers.pop(attack.settings).kill()

    def stop(self) -> None:
        for server in self._servers.values():
            server.kill()


@pytest.fixture(scope="session")
def farm():
    farm = Farm()
    yield farm
    farm.stop()
