"""What the documents show of a terminal: commands as they are typed, and what they print."""

import dataclasses
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator

import places
from server import PATIENCE_S

# Between `<!-- console -->` and `<!-- /console -->`, every fenced block is such a terminal.
CONSOLE = re.compile(r"^<!-- console -->$(.*?)^<!-- /console -->$", re.MULTILINE | re.DOTALL)
FENCED = re.compile(r"^```\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEREDOC = re.compile(r"<<'(\w+)'")
# A figure with its unit, and the blanks by which tables are aligned.
FIGURE = re.compile(r"\d[\d.,]*(?:ns|µs|ms|s|k|%)?|[^\S\n]+")


@dataclasses.dataclass(frozen=True)
class Typed:
    """One command, and what is shown below it."""

    command: str
    shown: str

    def is_exact(self) -> bool:
        """Times and counts differ from run to run; what the Open Inference Protocol and Python programs print does not."""
        return not any(part in self.command for part in ("tidemill ", "/metrics", "/tidemill/v1/"))

    def agrees(self, printed: str) -> bool:
        """Whether it printed what is shown, figures of this machine aside."""
        if self.is_exact():
            return self.shown.strip() == printed.strip()
        return FIGURE.sub("0", self.shown.strip()) == FIGURE.sub("0", printed.strip())


def commands(page: str) -> list[Typed]:
    """All commands of a page's terminals, in their order."""
    text = (places.ROOT / page).read_text()
    blocks = [block for console in CONSOLE.findall(text) for block in FENCED.findall(console)]
    return [typed for block in blocks for typed in _typed(iter(block.splitlines()))]


def _typed(lines: Iterator[str]) -> Iterator[Typed]:
    command, shown = None, []
    for line in lines:
        if line.startswith("$ "):
            if command is not None:
                yield Typed(command, "\n".join(shown))
            command, shown = line[2:], []
            while not _is_whole(command):
                command += "\n" + next(lines)
        else:
            assert command is not None, f"{line!r} follows no command"
            shown.append(line)
    if command is not None:
        yield Typed(command, "\n".join(shown))


def _is_whole(command: str) -> bool:
    if heredoc := HEREDOC.search(command):
        return command.endswith(f"\n{heredoc[1]}")
    return not command.endswith("\\") and command.count("'") % 2 == 0


class Terminal:
    """Where the commands of one page are typed, one after the other. What they write into the working folder is theirs."""

    def __init__(self, server) -> None:
        self._server = server
        self._folder = tempfile.TemporaryDirectory()
        folder = self._folder.name
        # The page's own paths lead here: built programs and what set-up has made are found where a user has them.
        built = f"{folder}/target/release"
        os.makedirs(built)
        os.symlink(places.SERVER, f"{built}/tidemill")
        os.symlink(places.RUST_EXAMPLES, f"{built}/examples")
        os.symlink(places.CACHE, f"{folder}/.cache")
        for name in ("examples", "proto"):
            os.symlink(places.ROOT / name, f"{folder}/{name}")
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDEMILL_")}
        self._environment |= {"TIDEMILL_ADDR": server.address, "PATH": f"{built}:{os.environ['PATH']}"}

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_) -> None:
        self._folder.cleanup()

    def type(self, command: str) -> str:
        """What a command prints, notes on standard error included, as a terminal shows both; it must end well."""
        ports = {"50051": self._server.address, "8080": self._server.http_address, "9464": self._server.admin_address}
        command = re.sub(r"\b(?:localhost|127\.0\.0\.1):(50051|8080|9464)\b", lambda match: ports[match[1]], command)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=self._folder.name,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE_S,
        )
        assert done.returncode == 0, done
        return done.stdout
