"""
What the emulator remembers: its clock, accounts, scripts, quotas, tokens and the request log.

Accounts exist as soon as they are named: any credential that is not clearly bad belongs to the account that it names,
unless an account was declared with it.  :meth:`State.reset` forgets everything but the seed.  Time is asked of the
reactor that was passed in, moved by an offset that control may change.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from twisted.internet.interfaces import IReactorTime

from agm.emulator.faults import Fault, from_model, from_step
from agm.emulator.holdings import Holdings
from agm.emulator.requestlog import RequestLog
from agm.emulator.scenarios import SCENARIOS

#: Credentials in Google's own forms may be real ones, sent here by mistake: their accounts are named by a hash.
_GOOGLE_FORM = re.compile(r"AIza|AQ\.|ya29\.|1//|4/|ey[A-Za-z0-9_-]+\.")
_UNNAMEABLE = re.compile(r"[^A-Za-z0-9._@+-]+")
#: An access token or a refresh token that the emulator issued.
_ISSUED = re.compile(r"(?:ya29\.|1//)emu-(?P<account>.+)-(?P<number>[0-9]+)")


class Clock:
    """The emulator's time: the reactor's, and an offset."""

    def __init__(self, reactor: IReactorTime) -> None:
        self._reactor = reactor
        self._offset = 0.0

    def now(self) -> float:
        """
        Seconds since the epoch, as far as the reactor tells them: below ``twistd`` its clock is right at the start, and
        goes on when this machine's is set, as Google's does.
        """
        return self._reactor.seconds() + self._offset

    def advance(self, seconds: float) -> None:
        """Move the time on; timers do not notice."""
        self._offset += seconds

    def set(self, now: float) -> None:
        """Make it `now`, in seconds since the epoch."""
        self._offset = now - self._reactor.seconds()

    def reset(self) -> None:
        """Back to the reactor's time."""
        self._offset = 0.0


@attrs.frozen
class Quotas:
    """How many calls an account may make for each model, per minute and per day; None is no limit."""

    requests_per_minute: int | None = None
    requests_per_day: int | None = None


@attrs.define
class Account:
    """
    An account: what it is called and how it answers.

    `credentials` name it; `models` are wildcards of the models that it has; `disabled` is a reason of
    :data:`agm.emulator.errors.DISABLED_REASONS`; the `token_…` fields are about the OAuth token endpoint.
    """

    name: str
    credentials: frozenset[str] = frozenset()
    project: str | None = None
    tier: str | None = "standard-tier"
    quotas: Quotas = Quotas()
    models: tuple[str, ...] = ("*",)
    disabled: str | None = None
    token_latency_ms: int = 0
    token_status: int | None = None
    expires_in: int = 3600
    declared: bool = False

    def has_model(self, model: str) -> bool:
        """Return whether the account may call this model."""
        return any(fnmatch.fnmatchcase(model, pattern) for pattern in self.models)

    @property
    def project_or_default(self) -> str:
        """The declared project, or one that follows from the name."""
        return self.project or f"project-{self.name}"

    def document(self) -> dict[str, Any]:
        """Return the account as control shows it, without its credentials."""
        document = attrs.asdict(self, filter=lambda field, _: field.name != "credentials")
        document["models"] = list(self.models)
        document["credentials"] = len(self.credentials)
        return document


@attrs.define
class Script:
    """The faults of an account's next calls, one a call; `repeat` starts over at the end."""

    steps: Sequence[Fault | None]
    repeat: bool = False
    _left: deque[Fault | None] = attrs.field(init=False, factory=deque)

    def __attrs_post_init__(self) -> None:
        self._left.extend(self.steps)

    def next(self) -> Fault | None:
        """Return the next call's fault, and None once the script is over."""
        if not self._left and self.repeat:
            self._left.extend(self.steps)
        return self._left.popleft() if self._left else None

    @property
    def left(self) -> int:
        """How many steps are left."""
        return len(self._left)


@attrs.frozen
class Grant:
    """An access token that was issued: whose it is and when it ends, in seconds since the epoch."""

    account: str
    expires: float


@attrs.frozen
class AuthorizationCode:
    """A code that was handed out: to whom, for which account, under which PKCE challenge, and until when."""

    account: str
    client_id: str
    redirect_uri: str
    challenge: str | None
    method: str
    expires: float


def nameable(credential: str) -> str:
    """Return the name of the account that an undeclared credential stands for."""
    if issued := _ISSUED.fullmatch(credential):
        return issued["account"]
    if _GOOGLE_FORM.match(credential) or len(credential) > 80:
        return "hashed-" + hashlib.sha256(credential.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    return _UNNAMEABLE.sub("_", credential)


class State:
    """Everything that changes while the emulator runs."""

    def __init__(self, reactor: IReactorTime, seed: int = 0) -> None:
        self.seed = seed
        self.clock = Clock(reactor)
        self.log = RequestLog()
        self.holdings = Holdings()
        self.accounts: dict[str, Account] = {}
        self.scripts: dict[str, Script] = {}
        self.scenario: str | None = None
        self._following: dict[str, Script] = {}  # the scenario, for each account that has called
        self.grants: dict[str, Grant] = {}
        # code-assist's operations: name to account, tier and project
        self.onboardings: dict[str, tuple[str, str, str | None]] = {}
        self.codes: dict[str, AuthorizationCode] = {}
        self.refresh_tokens: dict[str, str] = {}  # those that were issued here, to account
        self.revoked: set[str] = set()
        self._by_credential: dict[str, str] = {}
        self._happened: set[str] = set()
        self._used: dict[tuple[str, str, str], deque[float]] = {}
        self._issued: dict[str, int] = {}
        self._connections = 0

    def reset(self) -> None:
        """Forget accounts, scripts, tokens, faults that happened, the log, and the clock's offset."""
        self.clock.reset()
        self.log.clear()
        self.scenario = None
        self.holdings.clear()
        for forgotten in (
            self.accounts,
            self.scripts,
            self._following,
            self.grants,
            self.onboardings,
            self.codes,
            self.refresh_tokens,
            self.revoked,
            self._by_credential,
            self._happened,
            self._used,
            self._issued,
        ):
            forgotten.clear()

    def next_connection(self) -> int:
        """Return a number for a new connection; they never start over."""
        self._connections += 1
        return self._connections

    # -- accounts

    def declare(self, account: Account) -> None:
        """Declare an account, in place of one of the same name."""
        before = self.accounts.get(account.name)
        if before is not None:
            for credential in before.credentials:
                self._by_credential.pop(credential, None)
        self.accounts[account.name] = account
        for credential in account.credentials:
            self._by_credential[credential] = account.name

    def account_of(self, credential: str) -> Account:
        """Return the account that a credential stands for."""
        return self.account_named(self.name_of(credential))

    def account_named(self, name: str) -> Account:
        """Return the account of this name, which exists from now on."""
        account = self.accounts.get(name)
        if account is None:
            account = self.accounts[name] = Account(name=name)
        return account

    def name_of(self, credential: str) -> str:
        """Return the name of the account that a credential stands for, declared or not."""
        return self._by_credential.get(credential) or nameable(credential)

    def is_declared(self, credential: str) -> bool:
        """Return whether an account was declared with this credential."""
        return credential in self._by_credential

    # -- faults

    def script(self, account: str, steps: Sequence[str], *, repeat: bool = False) -> str:
        """
        Script an account, named by its name or by a credential; no steps end a script.

        :return: the account's name.
        :raises ValueError: for an unknown step.
        """
        name = account if account in self.accounts else self.name_of(account)
        read = [from_step(step) for step in steps]
        if read:
            self.scripts[name] = Script(read, repeat)
        else:
            self.scripts.pop(name, None)
        return name

    def follow(self, scenario: str | None) -> None:
        """
        Have accounts without a script of their own follow a scenario, each from its beginning; None ends it.

        :raises ValueError: if there is none of this name.
        """
        if scenario is not None and scenario not in SCENARIOS:
            raise ValueError(f"unknown scenario {scenario!r}; there are {', '.join(SCENARIOS)}")
        self.scenario = scenario
        self._following.clear()

    def _script_of(self, account: str) -> Script | None:
        if account in self.scripts or self.scenario is None:
            return self.scripts.get(account)
        if account not in self._following:
            found = SCENARIOS[self.scenario]
            self._following[account] = Script([from_step(step) for step in found.steps], found.repeat)
        return self._following[account]

    def fault_for(self, account: str, model: str) -> Fault | None:
        """The fault of this call: the script's, else the one that the model's name asks for and that is still due."""
        script = self._script_of(account)
        fault = script.next() if script is not None else None
        if fault is not None:
            return fault
        fault = from_model(model)
        if fault is not None and fault.nonce is not None:
            if model in self._happened:
                return None
            self._happened.add(model)
        return fault

    def quota_left(self, account: Account, model: str) -> tuple[str, int, float] | None:
        """
        Use up one call of the account's quotas.

        :return: None while there is quota, else the period, the limit, and the seconds until a call is free.
        """
        now = self.clock.now()
        limits = {"Minute": account.quotas.requests_per_minute, "Day": account.quotas.requests_per_day}
        windows = []
        for (period, limit), length in zip(limits.items(), (60.0, 86_400.0), strict=True):
            if limit is None:
                continue
            window = self._used.setdefault((account.name, model, period), deque())
            while window and window[0] <= now - length:
                window.popleft()
            if len(window) >= limit:
                return period, limit, window[0] + length - now if window else length
            windows.append(window)
        for window in windows:
            window.append(now)
        return None

    def quota_used(self, account: str) -> Mapping[str, int]:
        """Return the calls of the last day by model, of an account that has a quota per day."""
        return {
            model: len(window)
            for (name, model, period), window in self._used.items()
            if name == account and period == "Day"
        }

    # -- tokens

    def issue(self, account: Account) -> str:
        """Return a new access token of an account."""
        token = f"ya29.emu-{account.name}-{self._number(account.name)}"
        self.grants[token] = Grant(account.name, self.clock.now() + account.expires_in)
        return token

    def issue_refresh_token(self, account: Account) -> str:
        """Return a new refresh token of an account; it does not end."""
        token = f"1//emu-{account.name}-{self._number('refresh ' + account.name)}"
        self.refresh_tokens[token] = account.name
        return token

    def issue_code(self, code: AuthorizationCode) -> str:
        """Return the text of a new authorization code."""
        text = f"4/emu-{code.account}-{self._number('code ' + code.account)}"
        self.codes[text] = code
        return text

    def revoke(self, token: str) -> None:
        """End a token, or a refresh token with all the access tokens of its account."""
        self.revoked.add(token)
        owner = self.refresh_tokens.pop(token, None)
        now = self.clock.now()
        for issued, grant in list(self.grants.items()):
            if issued == token or grant.account == owner:
                self.grants[issued] = Grant(grant.account, now)

    def _number(self, series: str) -> int:
        number = self._issued[series] = self._issued.get(series, 0) + 1
        return number

    def expired(self, token: str) -> bool:
        """Return whether a token was revoked, or was issued here and has ended."""
        grant = self.grants.get(token)
        return token in self.revoked or (grant is not None and self.clock.now() >= grant.expires)
