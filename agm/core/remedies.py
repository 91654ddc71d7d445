"""What a person can do about an account that is refused: for each reason a sentence, without capital and full stop."""

from __future__ import annotations

from collections.abc import Mapping

from agm.core.classify import Fault
from agm.core.kinds import SERVICES
from agm.core.pool.cooldown import KnownCooldown
from agm.core.pool.exclusions import Cause
from agm.core.request import Account

__all__ = ["fix_for", "remedy"]

_NETWORK = "check the account's endpoints, and this machine's network"
_NEW_KEY = "create a new key and replace this one with it"
_BILLING = "check the billing of the account's project"
_SUPPORT = "read what Google says about the account or its project; only Google can lift this"
_BY_REASON: Mapping[str, str | None] = {
    "VALIDATION_REQUIRED": "sign in to the account in a browser and confirm that it is you",
    "API_KEY_INVALID": _NEW_KEY,
    "API_KEY_EXPIRED": _NEW_KEY,
    "API_KEY_LEAKED": _NEW_KEY,
    "API_KEY_IP_ADDRESS_BLOCKED": "check which IP addresses the key is restricted to",
    "API_KEY_HTTP_REFERRER_BLOCKED": "remove the website restriction from the key",
    "SUSPENDED": _SUPPORT,
    "CONSUMER_SUSPENDED": _SUPPORT,
    "ACCESS_DENIED": _SUPPORT,
    "TERMS_OF_SERVICE": _SUPPORT,
    "LOCATION_NOT_SUPPORTED": "reach Google from a supported location: another network, no VPN, or a proxy in the"
    " configuration",
    "BILLING": _BILLING,
    "BILLING_DISABLED": _BILLING,
    "NO_LICENCE": "check the account's Code Assist licence and its project",
    "USER_PROJECT_DENIED": "grant roles/serviceusage.serviceUsageConsumer on the project that is billed",
    "CREDENTIAL_UNAVAILABLE": None,  # whose message names the cure
    "NO_PROJECT": None,
    "CONNECT_FAILED": _NETWORK,
    "CONNECT_TIMEOUT": _NETWORK,
    "DNS_FAILED": _NETWORK,
    "TLS_FAILED": "check the account's endpoints, and any proxy or firewall between this machine and Google;"
    " ca_file in the configuration adds a custom CA certificate",
    "PROXY_FAILED": "check proxy in the configuration, and HTTPS_PROXY and NO_PROXY in the environment",
    "NOT_AN_ANSWER": "look for a proxy, filter or sign-in page between this machine and Google",
}


def remedy(account: Account, fault: Fault | None, reason: str) -> str | None:
    """
    Say what a person can do about a failure.

    :param fault: what it was about; None where nothing was told.
    :param reason: Google's word for it, or agm's.
    :returns: None where there is nothing to do, or where the failure's own message names it.
    """
    if reason in _BY_REASON:
        return _BY_REASON[reason]
    if reason in ("SERVICE_DISABLED", "API_KEY_SERVICE_BLOCKED", "API_KEY_BLOCKED"):
        service = SERVICES[account.kind][-1] if account.kind in SERVICES else "its API"
        return f"enable {service} for the project, or for the key"
    match fault:
        case Fault.CREDENTIAL | Fault.LOCKED if account.kind in ("vertex", "code-assist") and not account.express:
            return f"sign in again: agm login {account.name}, or put new credentials in place"
        case Fault.CREDENTIAL | Fault.LOCKED:
            return _NEW_KEY
        case Fault.FORBIDDEN | Fault.BLOCKED | Fault.UNCLEAR if account.kind == "vertex":
            return f"grant roles/aiplatform.user on project {account.project} to the owner of the credentials"
        case Fault.FORBIDDEN | Fault.BLOCKED | Fault.UNCLEAR if account.kind == "code-assist":
            return "check the account's Code Assist licence and its project"
        case Fault.FORBIDDEN | Fault.BLOCKED | Fault.UNCLEAR:
            return "check the key's restrictions"
        case Fault.NO_MODEL:
            return "choose another model with --model"
        case Fault.RATE | Fault.QUOTA:
            return "none: the account is fine, its quota is used up for now"
        case Fault.CAPACITY | Fault.ENDPOINT:
            return "try again later"
    return None


def fix_for(account: Account, cooldown: KnownCooldown) -> str | None:
    """Say what a person can do about a cooldown, and how the gateway is told; None where it ends well by itself."""
    if account.unusable is not None:  # which names what helps, and the account comes back by itself then
        return None
    if cooldown.cause == Cause.DISABLED.name:
        credential = cooldown.reason.startswith("its credential is refused")
        done = remedy(account, Fault.CREDENTIAL if credential else None, cooldown.reason)
        reset = f"agm account reset {account.name}"
        return f"{done}; then: {reset}" if done else f"then: {reset}"
    if cooldown.cause == Cause.ASIDE.name:
        done = remedy(account, Fault.FORBIDDEN, cooldown.reason)
        return f"{done}; it is retried automatically" if done else "none needed; it is retried automatically"
    return None
