"""
``agm account test``: one real ``countTokens`` through an account, and what to do if it does not work.

The gateway that runs is not asked: the account is tried from here, as the configuration has it now.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs

from agm.cli.files import Refused
from agm.cli.running import json_text, printable
from agm.config import Config, find, load

if TYPE_CHECKING:
    from agm.diagnose.trial import Trial

__all__ = ["lines_of", "run_test", "try_accounts"]


def run_test(args: argparse.Namespace) -> int:
    """Try the accounts that are named; 0 if all of them work."""
    if (args.name is None) is not args.all:
        args.usage_error("name an account, or write --all")
    path = find(args.config, os.environ)
    if path is None:
        raise Refused("there is no configuration, and no account; `agm account add NAME` adds one")
    config = load(path, environ=os.environ)
    trials = try_accounts(config, args.name, args.model)
    if args.json:
        print(json_text([{"ok": trial.ok, **attrs.asdict(trial)} for trial in trials]))
    else:
        for trial in trials:
            print("\n".join(map(printable, lines_of(trial))))
    if not trials:
        print("no accounts; `agm account add NAME` adds one", file=sys.stderr)
    return 0 if trials and all(trial.ok for trial in trials) else 1


def lines_of(trial: "Trial") -> Sequence[str]:
    """Describe the result of a trial for people; the first line says whether the account works."""
    what = f"{trial.account} ({trial.kind})"
    if trial.ok:
        return [f"{what}: ok, {trial.answered} in {trial.seconds:.1f} s"]
    status = "" if trial.status is None else f"{trial.status} "
    lines = [f"{what}: failed, {status}{trial.reason or ''}".rstrip(", ")]
    if trial.message:
        lines.append(f"  {trial.message}")
    if trial.cure:
        lines.append(f"  fix: {trial.cure}")
    return lines


def try_accounts(config: Config, name: str | None, model: str | None) -> list["Trial"]:
    """
    Try one account of a configuration, or all that are enabled.

    :raises Refused: if there is none of this name, it is disabled, or a plugin cannot be used.
    """
    from agm.cli.reactor import run_in_reactor
    from agm.diagnose.trial import for_trials, try_account
    from agm.serving.assemble import make_gateway

    disabled = [entry.name for entry in config.accounts if not entry.enabled]
    if name in disabled:
        raise Refused(f"{name} is disabled; `agm account enable {name}` lets it be tried")

    async def trials(reactor: Any) -> list["Trial"]:
        gateway = make_gateway(reactor, for_trials(config), "off")
        await gateway.start()
        try:
            accounts = gateway.pool.accounts
            chosen = [account for account in accounts if name is None or account.name == name]
            if name is not None and not chosen:
                names = ", ".join(repr(account.name) for account in accounts)
                raise Refused(
                    f"no account of this name; {f'the names are {names}' if names else 'there is none at all'}"
                )
            return [await try_account(gateway, account, model) for account in chosen]
        finally:
            await gateway.stop()

    try:
        return run_in_reactor(trials)
    except SystemExit as ended:  # as twistd would end: a plugin cannot be used
        raise Refused(str(ended.code)) from None
