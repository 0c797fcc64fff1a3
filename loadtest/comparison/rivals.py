"""The lines against peers: one model on this server and on a peer, loaded in turns by the same client, and that client's limit."""

import dataclasses

from . import perf
from .loads import MODELS, OFFICIAL, REWRITTEN, STATELESS, Arm, Found, load
from .processes import Failed
from .rows import Figures, Line, Row, ratio
from .servers import CANNED, KEEP_STATE, OURS, PEERS, Kept, Server
from .tool import Bench, say
from .turns import middle, turns

HTTP_PEERS = ("mosec", "litserve", "bentoml", "rayserve")


@dataclasses.dataclass(frozen=True)
class Client:
    """What loads a server, and with how many calls under way: perf_analyzer, `unary` or `streaming`, or this tool over `http`."""

    way: str
    concurrency: int
    model: str = OFFICIAL

    @property
    def limit(self) -> "Client":
        """The same client for a model with the same tensors, from which canned answers are made."""
        return dataclasses.replace(self, model=MODELS[self.model].limit)

    def run(self, bench: Bench, server: Server, commands: list[str]) -> perf.Perf | Found:
        if self.way != "http":
            return perf.run(bench.effort, server, self.model, self.concurrency, streaming=self.way == "streaming", commands=commands)
        arm = Arm(server, "http_infer" if server.name == OURS else "http_post")
        return load(bench, arm, MODELS[self.model], in_flight=self.concurrency, seconds=bench.effort.load_seconds, commands=commands)

    def what(self) -> str:
        if self.way == "http":
            return f"{self.model} items/s, HTTP, {self.concurrency} callers"
        return f"{self.model} infer/s, perf_analyzer {self.way}, concurrency {self.concurrency}"


@dataclasses.dataclass(frozen=True)
class Duel:
    """One line: against whom, and how it is loaded."""

    line: Line
    peer: str
    client: Client


def duels(levels: tuple[int, ...]) -> list[Duel]:
    """All lines against peers at these concurrencies."""

    def lines(peer: str, way: str, name: str, title: str, reach: float) -> list[Duel]:
        kind = "" if peer in KEEP_STATE else STATELESS
        files = (("", OFFICIAL), ("-rewritten", REWRITTEN))
        clients = [(suffix, Client(way, level, f"{file}{kind}")) for suffix, file in files for level in levels]
        return [
            Duel(Line(f"{name}{suffix}-{client.concurrency}", client.what(), title, reach), peer, client) for suffix, client in clients
        ]

    return [
        *lines("triton", "unary", "perf-triton-unary", PEERS["triton"], 5),
        *lines("triton", "streaming", "perf-triton-streaming", PEERS["triton"], 5),
        *lines("mlserver", "unary", "peer-mlserver-unary", "MLServer", 8),
        *(duel for peer in HTTP_PEERS for duel in lines(peer, "http", f"peer-{peer}", f"{PEERS[peer]}, HTTP", 8)),
    ]


@dataclasses.dataclass(frozen=True)
class Limit:
    """What a client gets out of canned answers: with this client, no server can show more on this machine."""

    client: Client
    figures: Figures
    commands: list[str]
    reason: str = ""

    def json(self) -> Figures:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, limit: Figures) -> "Limit":
        return cls(Client(**limit["client"]), limit["figures"], limit["commands"], limit["reason"])


def limit(bench: Bench, canned: Kept, client: Client) -> Limit:
    """If it cannot be measured, the limit says why."""
    say(f"  {client.what()}")
    commands: list[str] = []
    runs = turns(bench.effort.runs, {CANNED: lambda: client.run(bench, canned.server(), commands)})[CANNED]
    if isinstance(runs, Failed):
        return Limit(client, {}, commands, str(runs))
    return Limit(client, middle(runs).figures(), [canned.server().command, *commands])


def measure(bench: Bench, ours: Kept, theirs: Kept, duel: Duel) -> Row:
    """The row of a duel. If one side fails, the row says why, and has the figures of the other side."""
    say(f"  {duel.line.name}")
    commands: list[str] = []
    sides = {OURS: ours, duel.peer: theirs}
    runs = turns(bench.effort.runs, {name: lambda side=side: _run(bench, side, duel, commands) for name, side in sides.items()})
    figures: Figures = {}
    for prefix, name in (("", OURS), ("peer_", duel.peer)):
        if not isinstance(measured := runs[name], Failed):
            found = middle([run for _, run in measured])
            figures |= {f"{prefix}{key}": value for key, value in found.figures().items()}
            server = measured[0][0]
            figures[f"{prefix}version"] = server.version
            commands.insert(0 if name == OURS else min(1, len(commands)), server.command)
    figures |= {"peer": duel.peer, "model": duel.client.model}
    failed = [f"{name}: {reason}" for name, reason in runs.items() if isinstance(reason, Failed)]
    if failed:
        return dataclasses.replace(duel.line.missing("; ".join(failed), commands), figures=figures)
    return duel.line.measured(ratio(figures["per_s"], figures["peer_per_s"]), bench.effort.runs, figures, commands)


def _run(bench: Bench, side: Kept, duel: Duel, commands: list[str]) -> tuple[Server, perf.Perf | Found]:
    server = side.server()
    return server, duel.client.run(bench, server, commands)


def with_limit(row: Row, client: Client | None, limits: list[Limit]) -> Row:
    """The row, with the most that its client could show, if known, also as the largest ratio that any server could reach."""
    found = next((limit for limit in limits if client is not None and limit.client == client.limit and limit.figures), None)
    if found is None:
        return row
    per_s = found.figures["per_s"]
    figures = {"limit_per_s": per_s}
    for share, rate in (("limit_share", "per_s"), ("peer_limit_share", "peer_per_s")):
        if rate in row.figures:
            figures[share] = ratio(row.figures[rate], per_s)
    if "peer_per_s" in row.figures:
        figures["limit_ratio"] = ratio(per_s, row.figures["peer_per_s"])
    return dataclasses.replace(row, figures=row.figures | figures)
