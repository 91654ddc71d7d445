"""
What a failed answer of an upstream is about: the request, the account, the model or the endpoint.

Only an error that is about the account or the model may change what other requests meet, so each of these has to be
said in words that this module knows: in an ErrorInfo, or in the sentences of the tables below.  A refusal of Google's
that says neither is about the request, as far as anybody can tell.

An ErrorInfo counts only where it is about the account's own API and project: a tool whose service is off, a bucket or a
cache of another project say nothing of the account that was asked.  Several hints of one error may contradict each
other, so they are read in a fixed order: what a person has to mend first, then quotas, capacity and short waits.

This module only reads; the pool draws the consequences.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import Enum

import attrs

from agm.core import kinds
from agm.core.durations import parse_duration, parse_retry_after, seconds_until, until_pacific_midnight
from agm.core.google_error import ErrorInfo, GoogleError, QuotaViolation, read_error

__all__ = ["MAX_COOLDOWN", "SHORT_DELAY", "UNSTATED_DELAY", "Fault", "Verdict", "classify"]

#: A stated delay up to this many seconds is waited out on the same account.
SHORT_DELAY = 2.0
#: A cooldown is never longer than this many seconds, whatever the upstream says: afterwards one request probes.
MAX_COOLDOWN = 3600.0
#: The wait after a 429 that states none, by what the quota's name tells.
PER_MINUTE_DELAY = 60.0
UNSTATED_DELAY = 10.0
#: What is read of Google's message, and what of it is kept with an account's state, in characters.
MAX_READ = 4000
MAX_MESSAGE = 500


class Fault(Enum):
    """What a failure is about, as far as routing is concerned."""

    FINAL = "final"  # the request: the answer goes to the client as it is
    MISSING = "missing"  # a file, store or cache that the request names is not this account's, or is gone
    UNCLEAR = "unclear"  # refused in words that do not tell whom it is about: another account may be asked
    CREDENTIAL = "credential"  # the account's credential was refused: refresh it once, then manual action is needed
    LOCKED = "locked"  # the account, for all models, until somebody acts: its key is leaked, say
    BLOCKED = "blocked"  # the account, for all models, for now: location, billing, a service that is off
    FORBIDDEN = "forbidden"  # the account may not use this model, for now
    NO_MODEL = "no-model"  # the account lacks the model in this version and method
    RATE = "rate"  # too many requests just now: wait or take another account
    QUOTA = "quota"  # the account's quota for the model is used up
    CAPACITY = "capacity"  # the model is short of capacity, for everybody
    ENDPOINT = "endpoint"  # the endpoint failed: another may not


#: Faults after which the answer goes to the client, and nothing is held against anybody.
ABOUT_THE_REQUEST = frozenset({Fault.FINAL, Fault.MISSING})


@attrs.frozen
class Verdict:
    """
    What a failure means.

    `reason` is Google's own word for it where there is one, `delay` the seconds that it says to wait (already capped),
    None where it says nothing.  `message` is what Google wrote and `link` a page of Google's that mends it; both are
    kept with the account's state where the failure is about the account.
    """

    fault: Fault
    reason: str
    delay: float | None = None
    message: str = ""
    link: str | None = None


# -- Whom an ErrorInfo is about ----------------------------------------------------------------------

#: The APIs that an account of each kind is asked through; words about another one are about a tool or a file.
OWN_SERVICES: Mapping[str, frozenset[str]] = {
    kind: frozenset({*services, "serviceusage.googleapis.com"})  # this one lends a project for billing and quota
    for kind, services in kinds.SERVICES.items()
}
#: Reasons that no waiting mends.
_LOCKED = frozenset({"API_KEY_INVALID", "API_KEY_EXPIRED", "CONSUMER_SUSPENDED", "VALIDATION_REQUIRED"})
#: Reasons that may be mended without a change of the account's configuration.
_BLOCKED = re.compile(r"SERVICE_DISABLED|BILLING_DISABLED|USER_PROJECT_DENIED|CONSUMER_[A-Z_]+|API_KEY_[A-Z_]*BLOCKED")
_DENIED = "IAM_PERMISSION_DENIED"
#: How a denied permission is told where there is no ErrorInfo.
_DENIED_IN_WORDS = re.compile(r"Permission '([\w.]{1,100})' denied (?:on|for) resource '([^']{1,500})'")
_PROJECT = re.compile(r"(?:^|/)projects/([^/\s]+)")
_RESOURCE_OF_A_MODEL = re.compile(r"/publishers/[^/]+/models/[^/]+$|(?:^|/)models/[^/]+$")
_RESOURCE_OF_THE_PROJECT = re.compile(r"(?:^|/)projects/[^/]+(?:/locations/[^/]+)?$")


@attrs.frozen
class _Asked:
    """What was asked: the account's `kind` and `project`, and the `model`; tells whether words are about these."""

    kind: str
    project: str | None
    model: str

    def is_own_service(self, service: str) -> bool:
        """Tell whether an API is the kind's own; a location stands before its name (``us-central1-aiplatform…``)."""
        services = OWN_SERVICES.get(self.kind)
        return services is None or any(service == own or service.endswith((f"-{own}", f".{own}")) for own in services)

    def may_own(self, project: str) -> bool:
        """Tell whether a project may be the account's: an id and a number cannot be told apart."""
        return self.project is None or project == self.project or project.isdigit() != self.project.isdigit()

    def is_own(self, info: ErrorInfo) -> bool:
        """Tell whether an ErrorInfo is about the account's own API and project, as far as it says."""
        if info.service and not self.is_own_service(info.service):
            return False
        return all(
            self.may_own(found[1])
            for name in ("consumer", "resource", "containerInfo", "project")
            if (found := _PROJECT.search(info.metadata.get(name, "")))
        )


def _read_infos(error: GoogleError, asked: _Asked) -> Verdict | None:
    """Read what ErrorInfos say of the account, or of something that is not its own; None where they say nothing."""
    infos = error.infos
    if not infos and (denied := _DENIED_IN_WORDS.match(error.message)):
        infos = (ErrorInfo(_DENIED, metadata={"permission": denied[1], "resource": denied[2]}),)
    for info in infos:
        if info.reason == _DENIED:
            return Verdict(_denied(info, asked), _DENIED)
        if info.reason in _LOCKED or _BLOCKED.fullmatch(info.reason):
            if not asked.is_own(info):
                return Verdict(Fault.FINAL, info.reason)
            return Verdict(Fault.LOCKED if info.reason in _LOCKED else Fault.BLOCKED, info.reason)
    return None


def _denied(info: ErrorInfo, asked: _Asked) -> Fault:
    """Tell what a denied permission is about, by the resource that it was denied on."""
    permission, resource = info.metadata.get("permission", ""), info.metadata.get("resource", "")
    host = resource.removeprefix("//").partition("/")[0] if resource.startswith("//") else ""
    service = info.service or host or (f"{permission.partition('.')[0]}.googleapis.com" if "." in permission else "")
    if (service and not asked.is_own_service(service)) or not asked.is_own(info):
        return Fault.FINAL
    if not resource:
        return Fault.UNCLEAR
    if _RESOURCE_OF_A_MODEL.search(resource):
        return Fault.FORBIDDEN if _is_model(resource, asked.model) else Fault.FINAL
    return Fault.BLOCKED if _RESOURCE_OF_THE_PROJECT.search(resource) else Fault.FINAL


# -- What Google's sentences say ---------------------------------------------------------------------


def _words(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE | re.DOTALL)


def _opening(*patterns: str) -> re.Pattern[str]:
    """Match a message from its beginning: further behind may stand what the client wrote, repeated by Google."""
    return re.compile(
        r"\A(?:(?:permission|access) denied:? )?(?:please )?(?:(?:the|your|this|provided) )*(?:"
        + "|".join(patterns)
        + ")",
        re.IGNORECASE | re.DOTALL,
    )


_WHOM = r"(?:consumer|project|account|API key)(?: '[^']{0,200}'| [^\s'\"`]{1,100})?"
#: The account is disabled until a person does something about it; the value is shown to people.
_LOCKED_IN_WORDS: Sequence[tuple[re.Pattern[str], str]] = (
    (_opening(r"(?:API )?key\b[^\"'`]{0,40}\b(?:leaked|compromised)\b"), "API_KEY_LEAKED"),
    (_opening(r"API key (?:is |was )?(?:not valid|invalid|not found)\b"), "API_KEY_INVALID"),
    (_opening(r"API key (?:has |is )?expired\b"), "API_KEY_EXPIRED"),
    (_opening(rf"{_WHOM} (?:has been|is|was) (?:suspended|terminated|banned|deleted)\b"), "SUSPENDED"),
    (_opening(rf"{_WHOM} (?:has been|is|was) denied access\b"), "ACCESS_DENIED"),
    (_opening(r"(?:service|account)\b[^\"'`]{0,80}\bviolat\w+\b.{0,20}\bterms of service\b"), "TERMS_OF_SERVICE"),
    (_opening(r"(?:to continue,? (?:please )?)?verify (?:your account|(?:that )?it'?s you)\b"), "VALIDATION_REQUIRED"),
)
#: The account is refused for all models, and may be served again without anybody's doing.
_BLOCKED_IN_WORDS: Sequence[tuple[re.Pattern[str], str]] = (
    (
        _opening(
            r"(?:user |user's |current )?(?:location|country|region|territory) is not supported\b",
            r"(?:[\w ]{0,30}\bAPI (?:free tier )?|service )is not (?:available|supported) in your\b",
        ),
        "LOCATION_NOT_SUPPORTED",
    ),
    (
        _opening(
            r"API (?:method )?requires billing to be enabled\b",
            r"enable billing (?:on|for) (?:your |the |this )?project\b",
            r"billing (?:is|has been) (?:disabled|not enabled) (?:on|for|in) (?:your |the |this )?project\b",
            r"(?:project'?s? )?billing account\b[^\"'`]{0,40} (?:is|has been) (?:disabled|closed|suspended)\b",
            r"(?:prepayment|prepaid) credits? (?:are|is|have been|has been) (?:depleted|used up|exhausted)\b",
        ),
        "BILLING",
    ),
    (
        _opening(r"[\w .()-]{1,60} has not been used in project [^\s'\"`]{1,100} before or it is disabled\b"),
        "SERVICE_DISABLED",
    ),
    (
        _opening(
            r"requests (?:to this API|from this) [^\"'`]{1,300} are blocked\b",
            r"API key has an IP address restriction\b",
        ),
        "API_KEY_BLOCKED",
    ),
    (_opening(r"method doesn't allow unregistered callers\b"), "NO_CREDENTIAL"),
    (
        _opening(
            r"you (?:are|do)\b[^\"'`]{0,100}\bcode assist licen[cs]e\b", r"gemini code assist licen[cs]e is required\b"
        ),
        "NO_LICENCE",
    ),
)
#: Another API that has to be enabled, and another project's billing, are a tool's or a file's.
_SERVICE_IN_WORDS = re.compile(
    r"/apis/api/([a-z0-9.-]+\.googleapis\.com)/|\bto this API ([a-z0-9.-]+\.googleapis\.com)\b"
)
_PROJECT_IN_WORDS = re.compile(r"\bproject #?([a-z0-9:.-]{4,60}[a-z0-9])\b", re.IGNORECASE)
_BILLED_ELSEWHERE = _words(r"\bowning project\b", r"\bbucket\b", r"\brequester pays\b", r"\bgs://")
#: Something that a request names: a refusal of it says nothing of the account.
_NAMED = _words(
    r"\bor it may not exist\b",
    r"\bgs://",
    r"\b(?:input|source|the) files?\b",
    r"\bfiles?/",
    r"\bfile (?:search )?stores?\b",
    r"\bfileSearchStores?/",
    r"\bcached ?contents?\b",
    r"\b(?:corpus|corpora|documents?|datasets?|data ?stores?|search engine|index|indexes|bucket|objects?|urls?|uri)\b",
    r"\b(?:batch|batches|operation|interaction|session|agent|environment|voice|webhook|trigger|tuned ?models?)\b",
    r"\bendpoints?/",
)
#: Of these, what one account has and another has not.
_OWNED = _words(
    r"\bpermission to access the \w+",
    r"\bor it may not exist\b",
    r"\bcached ?content\w*\b.{0,40}\bnot found\b",
    r"\bnot found: cached ?content\b",
    r"\b(?:file|files|fileSearchStores|cachedContents|batches|operations|corpora)/\S{1,120} (?:is |was )?not found\b",
)
#: A model, as the thing that is refused.
_MODEL = _words(
    r"\bmodels/\S{1,200} (?:is|was) not (?:found|supported|available)\b",
    r"\bpublisher model\b",
    r"\bmodels?\b.{0,200}\b(?:not found|not exist|not available|not supported|unavailable|no longer available)\b",
    r"\bmodels?\b.{0,200}\b(?:deprecated|discontinued|retired|shut down|not have access|not allowed|not permitted)\b",
    r"\b(?:access to|use|call) (?:the |this )?(?:publisher )?model\b",
)
#: The two sentences that Google has for it.
_OF_A_MODEL = _opening(r"(?:tuned)?models/\S{1,200} (?:is|was) not (?:found|supported)\b", r"publisher model\b")
_PLACE_OR_PAY = _words(r"\b(?:location|country|region|territory|billing)\b")
_OF_A_KEY = _opening(r"API key\b")
#: Faults for which a 400 does not go to the client at once.
_NOT_THE_REQUEST = frozenset({Fault.LOCKED, Fault.BLOCKED, Fault.UNCLEAR})
_MODEL_NAMED = re.compile(r"\bmodels/([^\s,;`'\"]+)")
_KEYS_NOT_TAKEN = _words(r"\AAPI keys are not supported\b", r"\A[^\"'`]{0,80} does not support API keys\b")


def _read_account_words(error: GoogleError, asked: _Asked) -> Verdict | None:
    """Read what the sentences of a refusal say of the account; None where they say nothing of it."""
    message = error.message
    for pattern, reason in _LOCKED_IN_WORDS:
        if pattern.match(message):
            return Verdict(Fault.LOCKED, reason)
    for pattern, reason in _BLOCKED_IN_WORDS:
        if pattern.match(message):
            return Verdict(Fault.BLOCKED if _words_are_own(message, asked) else Fault.FINAL, reason)
    return None


def _read_subject(error: GoogleError, status: int, asked: _Asked) -> Verdict | None:
    """Read which thing, or which model, a refusal is about; None where it does not tell."""
    message, reason = error.message, error.status or f"HTTP_{status}"
    if not _OF_A_MODEL.match(message) and _NAMED.search(message):
        return Verdict(Fault.MISSING if _OWNED.search(message) else Fault.FINAL, reason)
    if _MODEL.search(message):
        if not _is_model(message, asked.model):
            return Verdict(Fault.FINAL, reason)
        return Verdict(Fault.NO_MODEL if status == 404 else Fault.FORBIDDEN, reason)
    return None


def _read_precondition(error: GoogleError, reason: str) -> Verdict | None:
    """Read a failed precondition whose sentence is not known: where the account is, or who pays, may be meant."""
    if _PLACE_OR_PAY.search(error.message) and not _NAMED.search(error.message):
        return Verdict(Fault.UNCLEAR, reason)
    return None


def _is_model(text: str, model: str) -> bool:
    """Tell whether a text names the model that was asked for, or none; a request may name others in its body."""
    named = _MODEL_NAMED.search(text)
    return named is None or not model or named[1].rstrip(".:").rpartition("/")[2] == model.rpartition("/")[2]


def _words_are_own(message: str, asked: _Asked) -> bool:
    """Tell whether a sentence about a service or a project may be about the account's own."""
    service = _SERVICE_IN_WORDS.search(message)
    if service and not asked.is_own_service(service[1] or service[2]):
        return False
    named = _PROJECT_IN_WORDS.search(message)
    if named and any(c.isdigit() or c == "-" for c in named[1]) and not asked.may_own(named[1]):
        return False
    return not _BILLED_ELSEWHERE.search(message)


# -- The verdict -------------------------------------------------------------------------------------


def classify(
    status: int,
    body: bytes,
    *,
    now: float,
    retry_after: str | None = None,
    kind: str = "api-key",
    project: str | None = None,
    model: str = "",
) -> Verdict:
    """
    Tell what an upstream's failure means.

    :param status: its HTTP status, 400 or more.
    :param body: its body, whole or cut; need not be JSON.
    :param now: seconds since the epoch, for times that the body states.
    :param retry_after: the value of its ``Retry-After`` header.
    :param kind: the kind of the account that was asked; words count only where they are about its own API.
    :param project: the account's own project, where it is known.
    :param model: the model that was asked for; words about another one are about the request.
    """
    error = read_error(body)
    if error is None:
        return _not_googles(status, now, retry_after)
    error = attrs.evolve(error, message=error.message[:MAX_READ])
    verdict = _verdict(error, status, now, retry_after, _Asked(kind, project, model))
    if verdict.fault in ABOUT_THE_REQUEST:  # the message may repeat what the request says
        return verdict
    return attrs.evolve(verdict, message=error.message[:MAX_MESSAGE], link=error.links[0] if error.links else None)


def _not_googles(status: int, now: float, retry_after: str | None) -> Verdict:
    """Judge an answer that is not in Google's words, by its status alone."""
    reason = f"HTTP_{status}"
    stated = _header_delay(retry_after, now)
    if status == 429:
        return Verdict(Fault.RATE, reason, _capped(UNSTATED_DELAY if stated is None else stated))
    if status in (413, 499, 501):
        return Verdict(Fault.FINAL, reason)
    return Verdict(Fault.ENDPOINT, reason, _capped(stated))


def _verdict(error: GoogleError, status: int, now: float, retry_after: str | None, asked: _Asked) -> Verdict:
    reason = error.reasons[0] if error.reasons else error.status or f"HTTP_{status}"
    if "MODEL_CAPACITY_EXHAUSTED" in error.reasons and status in (429, 503):
        return Verdict(Fault.CAPACITY, "MODEL_CAPACITY_EXHAUSTED", _capped(error.retry_delay))
    if status == 429:
        return _classify_429(error, reason, now, retry_after, asked)
    if status == 408 or (status >= 500 and status != 501):
        stated = [d for d in (error.retry_delay, _header_delay(retry_after, now)) if d is not None]
        return Verdict(Fault.ENDPOINT, reason, _capped(max(stated, default=None)))
    match status:
        case 400:
            told = _read_infos(error, asked)
            if told is None and (error.status == "FAILED_PRECONDITION" or _OF_A_KEY.match(error.message)):
                told = _read_account_words(error, asked) or _read_precondition(error, reason)
            return told if told is not None and told.fault in _NOT_THE_REQUEST else Verdict(Fault.FINAL, reason)
        case 401:
            if _KEYS_NOT_TAKEN.match(error.message):  # the method takes no key of anybody's
                return Verdict(Fault.FINAL, reason)
            return _read_infos(error, asked) or _read_account_words(error, asked) or Verdict(Fault.CREDENTIAL, reason)
        case 403:
            told = _read_infos(error, asked) or _read_account_words(error, asked)
            return told or _read_subject(error, status, asked) or Verdict(Fault.UNCLEAR, reason)
        case 404:
            told = _read_infos(error, asked) or _read_subject(error, status, asked)
            return told or Verdict(Fault.UNCLEAR, reason)
    return Verdict(Fault.FINAL, reason)


def _classify_429(error: GoogleError, reason: str, now: float, retry_after: str | None, asked: _Asked) -> Verdict:
    quotas = " ".join(f"{quota.quota_id} {quota.metric}" for quota in error.quotas)
    reset = _reset_delay(error.infos, now)
    stated = [d for d in (reset, error.retry_delay, _header_delay(retry_after, now)) if d is not None]
    if error.quotas and all(_of_a_tool(quota, asked) for quota in error.quotas):
        # a request without the tool is served all the same
        return Verdict(Fault.UNCLEAR, "QUOTA_OF_A_TOOL", _capped(max(stated, default=None)))
    if re.search(r"\blimit: 0\b", error.message):
        return Verdict(Fault.QUOTA, "QUOTA_IS_ZERO", MAX_COOLDOWN)
    if "PerDay" in quotas or "Daily" in quotas or "daily" in error.message.lower():
        # a daily failure still carries a short RetryInfo, which means nothing
        return Verdict(Fault.QUOTA, "DAILY_QUOTA", _capped(until_pacific_midnight(now)))
    if "QUOTA_EXHAUSTED" in error.reasons:
        delay = reset if reset is not None else error.retry_delay
        return Verdict(Fault.QUOTA, "QUOTA_EXHAUSTED", _capped(delay if delay is not None else MAX_COOLDOWN))
    if stated:
        return Verdict(Fault.RATE, reason, _capped(max(stated)))
    return Verdict(Fault.RATE, reason, PER_MINUTE_DELAY if "PerMinute" in quotas else UNSTATED_DELAY)


def _of_a_tool(quota: QuotaViolation, asked: _Asked) -> bool:
    """Tell whether a quota is another API's, or that of searches: a request without the tool does not need it."""
    host = quota.metric.partition("/")[0]
    if host.endswith(".googleapis.com") and not asked.is_own_service(host):
        return True
    return re.search(r"grounding|grounded|search", f"{quota.metric} {quota.quota_id}", re.IGNORECASE) is not None


def _header_delay(retry_after: str | None, now: float) -> float | None:
    return None if retry_after is None else parse_retry_after(retry_after, now)


def _reset_delay(infos: Sequence[ErrorInfo], now: float) -> float | None:
    """Read the wait that Code Assist states in an ErrorInfo's metadata."""
    for info in infos:
        delay = parse_duration(info.metadata.get("quotaResetDelay"))
        if delay is not None:
            return delay
        try:
            return seconds_until(datetime.fromisoformat(info.metadata.get("quotaResetTimeStamp", "")), now)
        except ValueError:
            continue
    return None


def _capped(delay: float | None) -> float | None:
    return None if delay is None else min(delay, MAX_COOLDOWN)
