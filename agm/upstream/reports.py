"""
What the accounts report about their models: asked for when somebody lists models, kept for a while.

A kind says where its list is, that an account may read in one call; Code Assist has one of its own form.  An account
that does not answer in time is left out, and asked again later; a list of models never fails because of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger

from agm.core import documents
from agm.core.request import Account
from agm.core.wire.target import bare_model
from agm.upstream.client import UpstreamClient, UpstreamFailed, WholeAnswer
from agm.upstream.codeassist import CodeAssist, Refused
from agm.upstream.credentials.credential import Credential, CredentialError

#: Seconds for which a report is kept, and after which an account that failed is asked again.
FRESH_SECONDS = 600.0
#: Seconds that a list of models waits for reports.
PATIENCE = 3.0
MAX_REPORT = 4 * 1024 * 1024

log = Logger()


class ModelReports:
    """The models of all accounts, as their upstreams describe them."""

    def __init__(
        self, reactor: Any, client: UpstreamClient, credentials: Mapping[str, Credential], code_assist: CodeAssist
    ) -> None:
        self._reactor = reactor
        self._client = client
        self._accounts: list[Account] = []
        self._credentials = credentials
        self._code_assist = code_assist
        self._reports: dict[str, Sequence[Mapping[str, Any]]] = {}
        self._asked: float | None = None
        self._waiting: list[Deferred[None]] = []
        self._running = False
        #: The model resources reported so far, in the order of the accounts; a new list whenever they change.
        self.known: Sequence[Mapping[str, Any]] = []

    def of(self, accounts: Iterable[Account]) -> None:
        """From now on report the models of these accounts."""
        self._accounts = [a for a in accounts if a.upstream.models is not None or a.kind == "code-assist"]
        self._asked = None
        self._put_together()

    def _put_together(self) -> None:
        self.known = [m for account in self._accounts for m in self._reports.get(account.name, ())]

    async def fresh(self) -> None:
        """Ask the accounts if it is time to, and wait for them a little."""
        now = self._reactor.seconds()
        if self._accounts and (self._asked is None or now - self._asked > FRESH_SECONDS or self._running):
            if not self._running:
                self._asked, self._running = now, True
                asked = DeferredList([Deferred.fromCoroutine(self._ask(account)) for account in self._accounts])
                asked.addBoth(self._finished)
            if self._running:
                waiting: Deferred[None] = Deferred(lambda d: d.callback(None))
                waiting.addTimeout(PATIENCE, self._reactor)
                self._waiting.append(waiting)
                await waiting

    def _finished(self, _: object) -> None:
        self._running = False
        waiting, self._waiting = self._waiting, []
        for d in waiting:
            if not d.called:
                d.callback(None)

    async def _ask(self, account: Account) -> None:
        try:
            models = await (self._code_assist.models if account.kind == "code-assist" else self._listed)(account)
            self._reports[account.name] = [
                model
                for model in models
                if isinstance(model, dict) and bare_model(str(model.get("name", ""))) in account.models
            ]
            self._put_together()
        except (
            UpstreamFailed,
            Refused,
            CredentialError,
            msgspec.DecodeError,
            UnicodeDecodeError,
            AttributeError,
            TypeError,
        ) as e:
            log.info(
                "account {account} did not report its models: {why}",
                account=account.name,
                why=type(e).__name__,
            )
        except Exception:
            log.failure("account {account} could not be asked for its models", account=account.name)

    async def _listed(self, account: Account) -> list[Any]:
        answer = await ask_for_models(self._client, account, self._credentials[account.name], PATIENCE * 2)
        return models_in(answer, account)


async def ask_for_models(
    client: UpstreamClient, account: Account, credential: Credential, timeout: float
) -> WholeAnswer:
    """
    Ask an account for its models; its kind has a list.

    :param timeout: seconds.
    :raises CredentialError: if there is no credential.
    :raises UpstreamFailed: if there is no answer.
    """
    where = account.upstream.models
    assert where is not None, "nobody else is asked"
    return await client.fetch(
        "GET",
        account.endpoints[0] + where.path,
        await credential.headers(),
        None,
        timeout=timeout,
        limit=MAX_REPORT,
        network=account.network,
    )


def models_in(answer: WholeAnswer, account: Account) -> list[Any]:
    """
    Return the models that such an answer lists; none where it is an error.

    :raises msgspec.DecodeError: if it is no JSON; whatever the kind raises if it is another document.
    """
    where = account.upstream.models
    assert where is not None, "nobody else is asked"
    return list(where.read(documents.decode(answer.body))) if answer.status == 200 else []
