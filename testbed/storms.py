"""
A storm: many requests through a real gateway to a real emulator whose accounts fail in every way at once.

:func:`run` starts both as processes, lets threads ask, and holds what the emulator's log and the answers say to what
the gateway promises.  It knows nothing of the gateway but its HTTP.  ``tests/faults/test_storm.py`` runs a small one,
``bench/storm.py`` a large one.
"""

from __future__ import annotations

import http.client
import json
import random
import re
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from testbed.processes import PATIENCE, Twistd, connection, environment, running

MODELS = ("gemini-2.5-flash", "gemini-2.5-pro", "gemini-2.0-flash")
#: As many as the configuration allows: a request is to fail only if it may not be sent again.
MAX_ATTEMPTS = 10
MAX_CONCURRENCY = 3
#: The life of a token, and the step of the emulator's clock that ends it.  The gateway renews none ahead of that.
TOKEN_LIFE, LEAP = 600, 700
#: How often all tokens end while the storm lasts.
EXPIRIES = 2

#: What happens to a call of an account, and how often in a thousand.
WEATHER = {
    "503": 40,
    "500": 10,
    "504": 10,
    "429-0.3": 30,  # waited out on the account
    "429rpm-3": 15,
    "quota-4": 10,
    "emptystream": 15,
    "close": 8,
    "cut": 6,
    "rst-1": 6,
    "ttft-200": 30,
    "latency-150": 30,
    "chunks-30": 40,
    "drip-40": 5,
    "slow": 2,
}
#: What happens once, to the first, the second, … account of the plan.
STROKES = ("429day", "403disabled", "404", "403validation", "429nodetails")


@attrs.frozen
class Plan:
    """How large a storm is, and the seed that decides what happens to whom."""

    accounts: int = 20
    requests: int = 2000
    clients: int = 24
    seed: int = 1


@attrs.frozen
class Player:
    """An account of the storm: `sort` says what its credential is, `steps` are its script."""

    name: str
    kind: str
    sort: str
    table: str
    credentials: tuple[str, ...]
    steps: tuple[str, ...]

    @property
    def own_model(self) -> str:
        """The name of a model that nobody else serves."""
        return f"own-{self.name}"

    @property
    def refreshes(self) -> bool:
        """Whether its tokens come from the token endpoint."""
        return self.sort in ("service account", "user")


@attrs.frozen
class Outcome:
    """What a client saw: `how` is ``served``, ``broken`` (after the first byte), or the status of an error."""

    number: int
    how: str
    detail: str = ""


@attrs.frozen
class Call:
    """A request that reached the emulator, by its log."""

    seq: int
    time: float
    connection: int
    account: str | None
    rpc: str | None
    number: int | None
    status: int | None
    sent: int
    finished: bool

    @property
    def began(self) -> bool:
        """Whether the first byte of a good answer was sent."""
        return self.status == 200 and self.sent > 0

    @property
    def good(self) -> bool:
        return self.began and self.finished

    @property
    def broken(self) -> bool:
        """Whether the connection went before the answer was complete, so that nobody knows what came of it."""
        return self.status == 200 and not self.finished


@attrs.frozen
class Report:
    """What happened, and in `violations` what must not have."""

    plan: Plan
    players: Sequence[Player]
    outcomes: Sequence[Outcome]
    calls: Sequence[Call]
    seconds: float
    violations: Sequence[str]

    def table(self) -> str:
        """Write the storm for a person to read."""
        lines = [
            f"{'account':<10}{'kind':<13}{'credential':<17}{'calls':>6}{'good':>6}{'broken':>8}{'tokens':>8}  errors"
        ]
        for player in self.players:
            own = [call for call in self.calls if call.account == player.name]
            asked = [call for call in own if call.number is not None]
            errors = Counter(call.status for call in asked if call.status != 200)
            empty = sum(call.status == 200 and call.finished and not call.sent for call in asked)
            told = [f"{status}×{count}" for status, count in sorted(errors.items(), key=str)]
            lines.append(
                f"{player.name:<10}{player.kind:<13}{player.sort:<17}{len(asked):>6}{sum(c.good for c in asked):>6}"
                f"{sum(c.broken for c in asked):>8}{sum(c.rpc == 'token' for c in own):>8}  "
                + " ".join([*told, *([f"empty×{empty}"] if empty else [])])
            )
        attempts = Counter(Counter(call.number for call in self.calls if call.number is not None).values())
        hows = Counter(outcome.how for outcome in self.outcomes)
        lines += [
            "",
            "answers   " + ", ".join(f"{how} {count}" for how, count in hows.most_common()),
            "attempts  " + ", ".join(f"{many}: {count}" for many, count in sorted(attempts.items())),
            f"time      {self.seconds:.1f} s",
            *(f"VIOLATED  {violation}" for violation in self.violations),
        ]
        return "\n".join(lines)


def run(plan: Plan, folder: Path) -> Report:
    """Run a storm; `folder` holds the processes' files."""
    with emulating(folder / "emulator") as emulator:
        chance = random.Random(plan.seed)
        players = _players(plan, emulator, folder, chance)
        tell(emulator, "/_emu/accounts", {"accounts": [_declared(player) for player in players]})
        for player in players:
            tell(emulator, "/_emu/script", {"account": player.name, "steps": player.steps})
        path = folder / "agm.toml"
        path.write_text(_configuration(players, folder / "state.json"), encoding="utf-8")
        path.chmod(0o600)
        env = environment(folder)
        with running(folder / "gateway", "agm", "--port", "0", "--config", str(path), env=env) as gateway:
            url = gateway.url()
            began = time.monotonic()
            clients = _Clients(plan, url, emulator, chance)
            clients.run()
            seconds = time.monotonic() - began
            calls = log(emulator)
            violations = [] if len(clients.outcomes) == plan.requests else ["a client ended too early"]
            violations += [*judged(clients.outcomes, calls, players, clients.leaps)]
            for player in players:
                violations += _leases(player, url, emulator)
            violations += _ended(gateway)
    return Report(plan, players, clients.outcomes, calls, seconds, violations)


# -- The setting -------------------------------------------------------------------------------------


@contextmanager
def emulating(folder: Path) -> Iterator[str]:
    """Start an emulator as a process of its own; yields its address."""
    with running(folder, "agm-emulator", "--port", "0") as twistd:
        twistd.until_logged("starting on ")
        port = re.search(r"starting on (\d+)", twistd.log)
        assert port is not None, "the line has just been seen"
        yield f"http://127.0.0.1:{port[1]}"


def tell(url: str, path: str, document: object) -> Any:
    """Send a POST with a JSON body, and return the document of its answer, which must be a 200."""
    client = connection(url)
    try:
        client.request("POST", path, json.dumps(document).encode())
        answer = client.getresponse()
        body = answer.read()
        assert answer.status == 200, body
        return json.loads(body)
    finally:
        client.close()


#: The sorts of accounts, in turn: kind, and where the credential comes from.
SORTS = (
    ("api-key", "key"),
    ("vertex", "service account"),
    ("code-assist", "user"),
    ("vertex", "user"),
    ("api-key", "key"),
    ("code-assist", "token"),
)


def _players(plan: Plan, url: str, folder: Path, chance: random.Random) -> list[Player]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    players = []
    for place in range(plan.accounts):
        kind, sort = SORTS[place % len(SORTS)]
        name = f"a{place:02}"
        steps = chance.choices(
            [*WEATHER, "ok"], [*WEATHER.values(), 1000 - sum(WEATHER.values())], k=4 * plan.requests // plan.accounts
        )
        if place < len(STROKES):
            steps[chance.randrange(3, 8)] = STROKES[place]
        if not sort.endswith(("user", "service account")):
            steps[chance.randrange(8, 12)] = "401"  # once: it is good at the second try
        table = {"name": name, "kind": kind, "endpoints": [url], "max_concurrency": MAX_CONCURRENCY}
        table["models"] = ["gemini-*", f"own-{name}"]
        if kind != "api-key":
            table["project"] = f"project-{name}"
        credential = f"{sort.replace(' ', '-')}-{name}"
        if sort == "key":
            table["api_key"] = credential
        elif sort == "token":
            table["access_token"] = credential
        else:
            file = folder / f"{name}.json"
            file.write_text(json.dumps(_credentials(sort, credential, url, pem)), encoding="utf-8")
            file.chmod(0o600)
            table["credentials"] = str(file)
        toml = "[[accounts]]\n" + "".join(f"{k} = {json.dumps(value)}\n" for k, value in table.items())
        players.append(Player(name, kind, sort, toml, (credential,), tuple(steps)))
    return players


def _credentials(sort: str, credential: str, url: str, pem: str) -> Mapping[str, str]:
    if sort == "user":
        return {
            "type": "authorized_user",
            "client_id": "storm.apps.example",
            "client_secret": "storm",
            "refresh_token": credential,
            "token_uri": f"{url}/token",
        }
    return {
        "type": "service_account",
        "client_email": credential,
        "private_key": pem,
        "private_key_id": "1",
        "token_uri": f"{url}/token",
    }


def _declared(player: Player) -> Mapping[str, object]:
    slow = {"token_latency_ms": 400} if player.sort == "user" else {}
    return {"name": player.name, "credentials": player.credentials, "expires_in": TOKEN_LIFE, **slow}


def _configuration(players: Sequence[Player], state: Path) -> str:
    return (
        f"[pool]\nmax_attempts = {MAX_ATTEMPTS}\nmax_wait = {PATIENCE}\nstate = {json.dumps(str(state))}\n"
        # a stream that is silent, to hold a lease, must last for longer than a request waits for that lease
        f"[timeouts]\nfirst_byte = 20\nidle = {4 * PATIENCE}\n" + "\n".join(player.table for player in players)
    )


# -- The clients -------------------------------------------------------------------------------------


class _Clients:
    """
    Threads that ask, each on a connection of its own.

    Now and then they pause for the emulator's clock to leap: a token that is on its way meanwhile would be dead when it
    arrives, as no token ever is.
    """

    def __init__(self, plan: Plan, url: str, emulator: str, chance: random.Random) -> None:
        self._plan = plan
        self._address = urlsplit(url).netloc
        self._emulator = emulator
        self._changed = threading.Condition()
        self._busy = 0
        self._models = [chance.choice(MODELS) for _ in range(plan.requests)]
        self._streams = [chance.random() < 0.5 for _ in range(plan.requests)]
        self._next = 0
        self.outcomes: list[Outcome] = []
        #: The emulator's time after each leap of its clock.
        self.leaps: list[float] = []

    def run(self) -> None:
        """Ask everything."""
        threads = [threading.Thread(target=self._ask_all) for _ in range(self._plan.clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _take(self) -> int | None:
        """Return the number of the next request, once it is time for it; None if there is no more."""
        with self._changed:
            stretch = self._plan.requests // (EXPIRIES + 1) or 1
            while self._busy and len(self.leaps) < min(self._next // stretch, EXPIRIES):
                self._changed.wait()
            if len(self.leaps) < min(self._next // stretch, EXPIRIES):
                self.leaps.append(tell(self._emulator, "/_emu/clock", {"advance": LEAP})["now"])
            if self._next == self._plan.requests:
                return None
            number, self._next = self._next, self._next + 1
            self._busy += 1
            return number

    def _done(self, outcome: Outcome) -> None:
        with self._changed:
            self.outcomes.append(outcome)
            self._busy -= 1
            self._changed.notify_all()

    def _ask_all(self) -> None:
        client = http.client.HTTPConnection(self._address, timeout=2 * PATIENCE)
        while (number := self._take()) is not None:
            outcome = Outcome(number, "broken", "the client failed")
            try:
                outcome = self._ask(client, number)
            except (OSError, http.client.HTTPException) as e:
                outcome = Outcome(number, "broken", type(e).__name__)
            finally:
                self._done(outcome)
            if outcome.how == "broken":
                client.close()
        client.close()

    def _ask(self, client: http.client.HTTPConnection, number: int) -> Outcome:
        streams = self._streams[number]
        method = "streamGenerateContent?alt=sse" if streams else "generateContent"
        client.request("POST", f"/v1beta/models/{self._models[number]}:{method}", _prompt(number))
        answer = client.getresponse()
        body = answer.read()
        if answer.status != 200:
            return Outcome(number, str(answer.status), body.decode("utf-8", "replace"))
        documents = [line[6:] for line in body.splitlines() if line.startswith(b"data: ")] if streams else [body]
        try:
            last = json.loads(documents[-1])
            finished = last["candidates"][0]["finishReason"] == "STOP"
        except (ValueError, LookupError, TypeError):
            finished = False
        if finished:
            return Outcome(number, "served")
        return Outcome(number, "incomplete", body[-300:].decode("utf-8", "replace"))


def _prompt(number: int) -> bytes:
    """Make a turn of one of many conversations, with a number by which the emulator's log knows it."""
    turns = (("user", f"conversation {number % 97}"), ("model", "go on"), ("user", f"storm-{number}-end"))
    return json.dumps({"contents": [{"role": role, "parts": [{"text": text}]} for role, text in turns]}).encode()


# -- What the log says -------------------------------------------------------------------------------


def log(emulator: str) -> list[Call]:
    """Read what has reached the emulator."""
    client = connection(emulator)
    try:
        client.request("GET", "/_emu/log?body=1")
        entries = json.loads(client.getresponse().read())["entries"]
    finally:
        client.close()
    return [_call(entry) for entry in entries]


def _call(entry: Mapping[str, Any]) -> Call:
    asked = re.search(r"storm-(\d+)-end", entry["body"])
    return Call(
        seq=entry["seq"],
        time=entry["time"],
        connection=entry["connection"],
        account=entry["account"],
        rpc=entry["rpc"],
        number=None if asked is None else int(asked[1]),
        status=entry["status"],
        sent=entry["response_bytes"],
        finished=entry["finished"],
    )


def judged(
    outcomes: Sequence[Outcome], calls: Sequence[Call], players: Sequence[Player], leaps: Sequence[float]
) -> Iterator[str]:
    """List what the gateway promises, and did not keep."""
    sent: dict[int, list[Call]] = defaultdict(list)
    for call in calls:
        if call.number is not None:
            sent[call.number].append(call)
    numbers = Counter(outcome.number for outcome in outcomes)
    for number, count in numbers.items():
        if count != 1:
            yield f"request {number} has {count} outcomes"
    first_use: dict[int, int] = {}
    for call in calls:
        first_use.setdefault(call.connection, call.seq)
    for outcome in outcomes:
        yield from _one(outcome, sent[outcome.number], first_use)
    for player in players:
        yield from _refreshes(player, calls, leaps)


def _one(outcome: Outcome, tries: Sequence[Call], first_use: Mapping[int, int]) -> Iterator[str]:
    what = f"request {outcome.number} ({outcome.how}; upstream: {', '.join(map(_told, tries)) or 'nothing'})"
    if not tries:
        yield f"{what} was never sent: {outcome.detail[:200]}"
        return
    for earlier, later in pairwise(tries):
        # a connection that was kept alive and closes without a byte is taken for a stale one; nothing else is
        stale = first_use[earlier.connection] < earlier.seq and first_use[later.connection] == later.seq
        if earlier.began or (earlier.broken and not stale):
            yield f"{what} was sent again after its first byte, or after a failure that leaves open what came of it"
    if len(tries) > MAX_ATTEMPTS + sum(call.broken for call in tries[:-1]):
        yield f"{what} was sent more than {MAX_ATTEMPTS} times"
    last = tries[-1]
    if outcome.how == "served" and not last.good:
        yield f"{what} looks complete, and is not"
    if outcome.how != "served" and not last.broken:
        yield f"{what} could have been served: {outcome.detail[:200]}"


def _told(call: Call) -> str:
    return f"{call.account} {call.status}{' broken off' if call.broken else ''}"


def _refreshes(player: Player, calls: Sequence[Call], leaps: Sequence[float]) -> Iterator[str]:
    """Between two expiries of all tokens an account gets one token; one that cannot be refreshed asks for none."""
    for epoch in range(len(leaps) + 1):
        begin = leaps[epoch - 1] if epoch else 0.0
        end = leaps[epoch] if epoch < len(leaps) else float("inf")
        count = sum(c.rpc == "token" and c.account == player.name and begin <= c.time < end for c in calls)
        if count > player.refreshes:
            yield f"{player.name} got {count} tokens between two expiries"


def _leases(player: Player, url: str, emulator: str) -> Iterator[str]:
    """
    Whether an account has got all of its leases back.

    All but one are held by streams that fall silent after an event: one more request is served if the last is there.
    """
    silent = ["hang-1"] * (MAX_CONCURRENCY - 1)
    tell(url, f"/_agm/accounts/{player.name}/reset", {})  # what the storm has left held against it is no lost lease
    tell(emulator, "/_emu/script", {"account": player.name, "steps": silent})
    held: list[http.client.HTTPConnection] = []
    try:
        for _ in silent:
            client = connection(url)
            held.append(client)
            client.request("POST", f"/v1beta/models/{player.own_model}:streamGenerateContent?alt=sse", _prompt(0))
            answer = client.getresponse()
            first = answer.readline()
            if answer.status != 200 or not first.startswith(b"data: "):
                yield f"{player.name} serves no more: {answer.status} {first[:200]!r}"
                return
        client = connection(url)
        held.append(client)
        client.request("POST", f"/v1beta/models/{player.own_model}:generateContent", _prompt(0))
        answer = client.getresponse()
        if answer.status != 200:
            yield f"{player.name} is short of a lease: {answer.status} {answer.read()[:200]!r}"
    except (OSError, http.client.HTTPException) as e:
        yield f"{player.name} is short of a lease: {type(e).__name__}"
    finally:
        for client in held:
            client.close()


def _ended(gateway: Twistd) -> Iterator[str]:
    """Whether it stops as it should, and has logged no error that nobody expected."""
    status = gateway.stop()
    if status:
        yield f"the gateway ended with status {status}"
    for sign in ("Traceback", "Unhandled"):
        if sign in gateway.log:
            yield f"the gateway's log holds {sign!r}: " + gateway.log[gateway.log.index(sign) :][:1500]
