"""
``agm explain``: what would happen to a request, decision by decision, without sending it.

A running gateway is asked, because only it knows which accounts rest and which conversation is served by whom.  Where
none runs, the gateway of the configuration is built in this process, by the same code, and explains.  It listens
nowhere and asks nobody for anything.  No credential is shown, because none is ever asked for.
"""

import argparse
import gc
import json
import os
import sys
import warnings
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agm.cli.account_status import STATES
from agm.cli.files import Refused
from agm.cli.running import add_options, find_running, json_text, printable
from agm.config import default, find, load
from agm.core.money import dollars

__all__ = ["add_parser", "readable", "run"]

_METHODS = (
    "generateContent",
    "streamGenerateContent",
    "countTokens",
    "embedContent",
    "batchEmbedContents",
    "predict",
    "interactions.create",
)
#: Lines of a body that are shown, and characters of each.
_LINES, _WIDTH = 40, 160


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``explain``."""
    what = "explain what would happen to a request, without sending it"
    parser = subparsers.add_parser(
        "explain",
        help=what,
        description=f"{what[0].upper()}{what[1:]}.",
        epilog="example:\n  agm explain gpt-4o-mini --stream --text 'Good morning' --key laptop",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("model", metavar="MODEL", help="the model, as a client names it")
    parser.add_argument("--method", choices=_METHODS, help="Google's method; default: generateContent")
    parser.add_argument(
        "--api-version",
        choices=("v1", "v1beta", "v1alpha", "v1beta1"),
        help="the version in its path; v1beta1 is a client's of Vertex AI; default: v1beta",
    )
    parser.add_argument("--stream", action="store_true", help="short for --method streamGenerateContent")
    parser.add_argument(
        "--dialect",
        metavar="NAME",
        help="the request is one of a client of another API, openai or anthropic: show what it is translated to",
    )
    parser.add_argument("--path", help="the path of that request; default: the dialect's usual one")
    parser.add_argument("--alt", choices=("sse", "json"), help="how a stream is to be framed; default: as configured")
    body = parser.add_mutually_exclusive_group()
    body.add_argument("--body", metavar="FILE|-", help="the request's JSON body; - is standard input")
    body.add_argument("--text", metavar="PROMPT", help="a body with this prompt; default: 'Hello'")
    parser.add_argument(
        "--key",
        metavar="NAME",
        help="the name of the client key that the request would use, of the configuration or of a plugin",
    )
    parser.add_argument(
        "--header", metavar="N:V", action="append", default=[], help="a header of the request; repeatable"
    )
    parser.add_argument(
        "--plugin", metavar="MODULE", action="append", default=[], help="load this plugin, too; implies --offline"
    )
    add_options(parser)
    parser.set_defaults(run=run, usage_error=parser.error)


def run(args: argparse.Namespace) -> int:
    """Explain; 0, or 1 if the request would be refused, or nothing can be said about it."""
    if args.dialect is not None and (args.method is not None or args.alt is not None):
        args.usage_error("--dialect: the request's path and body say what is called and how it is answered")
    if args.path is not None and args.dialect is None:
        args.usage_error("--path is of a request in a dialect; give --dialect, too")
    if args.dialect is not None:
        pass
    elif args.stream:
        if args.method not in (None, "streamGenerateContent"):
            args.usage_error(f"--stream is --method streamGenerateContent, not {args.method}")
        args.method = "streamGenerateContent"
    if args.alt is not None and args.method != "streamGenerateContent":
        args.usage_error("--alt is about a stream; give --stream, too")
    args.offline = args.offline or bool(args.plugin)
    question = _question(args)
    running = find_running(args, "explained as after a fresh start: no cooldowns, no conversations")
    found = _offline(args, question) if running is None else running.ask("/_agm/explain", question)
    print(json_text(found) if args.json else readable(found))
    return 1 if "error" in found else 0


# -- The question ------------------------------------------------------------------------------------


def _question(args: argparse.Namespace) -> bytes:
    """Return the JSON that ``POST /_agm/explain`` takes.  The body in it is what was given, byte for byte."""
    method = args.method or "generateContent"
    head: dict[str, object] = {"model": args.model, "method": method, "headers": dict(map(_header, args.header))}
    if args.api_version is not None:
        head["version"] = args.api_version
    if args.dialect is not None:
        head |= {"dialect": args.dialect, "path": args.path or ""}
    if args.alt is not None:
        head["query"] = {"alt": args.alt}
    if args.key is not None:
        head["key"] = args.key
    if args.body is not None:
        body = _read_body(args.body)
    elif args.dialect is not None:
        said = {"role": "user", "content": "Hello" if args.text is None else args.text}
        asked = {"model": args.model, "max_tokens": 1024, "messages": [said], "stream": args.stream}
        body = json.dumps(asked).encode("utf-8")
    else:
        body = json.dumps(_prompt(args.model, method, "Hello" if args.text is None else args.text)).encode("utf-8")
    return json.dumps(head).encode("utf-8")[:-1] + b',"body":' + body + b"}"


def _header(written: str) -> tuple[str, str]:
    name, colon, value = written.partition(":")
    if not colon or not name.strip():
        raise Refused("--header: write NAME:VALUE")  # without what was written: it may be a credential
    return name.strip(), value.strip()


def _read_body(name: str) -> bytes:
    try:
        body = sys.stdin.buffer.read() if name == "-" else Path(name).expanduser().read_bytes()
    except (OSError, ValueError) as failure:
        raise Refused(f"--body: {name} cannot be read: {getattr(failure, 'strerror', None) or failure}") from None
    try:
        json.loads(body)
    except (ValueError, RecursionError) as failure:
        raise Refused(f"--body: {name} is not JSON: {failure}") from None
    return body


def _prompt(model: str, method: str, text: str) -> dict[str, object]:
    """Return a body for a method with one text in it."""
    content = {"role": "user", "parts": [{"text": text}]}
    match method:
        case "embedContent":
            return {"content": content}
        case "batchEmbedContents":
            return {"requests": [{"model": f"models/{model}", "content": content}]}
        case "predict":
            return {"instances": [{"prompt": text}]}
        case "interactions.create":
            return {"model": model, "input": text}
    return {"contents": [content]}


# -- Without a running gateway -----------------------------------------------------------------------


def _offline(args: argparse.Namespace, question: bytes) -> dict[str, Any]:
    """Return the explanation of a gateway that is built for it, and thrown away."""
    with warnings.catch_warnings():
        # Accounts that a plugin would fetch from elsewhere are not fetched.
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        try:
            return _explained(args, question)
        except SystemExit as ended:  # as twistd would end: a plugin cannot be used, or the configuration's listeners
            raise Refused(str(ended.code)) from None
        finally:
            gc.collect()


def _explained(args: argparse.Namespace, question: bytes) -> dict[str, Any]:
    from agm.cli.reactor import installed
    from agm.config.listeners import Listener, auth_mode
    from agm.core.errors import GatewayError
    from agm.serving.assemble import make_gateway
    from agm.serving.explain import explain
    from agm.web.access import Access
    from agm.web.admin.explain import incoming, read_question
    from agm.web.root import make_site

    path = find(args.config, os.environ)
    config = default() if path is None else load(path, environ=os.environ)
    mode = auth_mode(config, [Listener.parse(description) for description in config.gateway.listen])
    reactor = installed()
    gateway = make_gateway(reactor, config, mode, plugins=args.plugin)
    if gateway.awaits_accounts:
        print("accounts that plugins fetch from elsewhere are missing", file=sys.stderr)
    try:
        asked = read_question(question)
        # only a site has what plugins add to it, dialects among them
        dialects = {} if asked.dialect is None else make_site(gateway, Access.configured(config.gateway, [])).dialects
        return _result(reactor, explain(gateway, incoming(gateway, asked, "explained", dialects)))
    except GatewayError as refusal:
        raise Refused(printable(refusal.message)) from None


def _result(reactor: Any, coroutine: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
    """Run a coroutine and return its result.  The reactor runs only if a plugin waits."""
    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

    outcome: list[dict[str, Any] | Failure] = []
    d = Deferred.fromCoroutine(coroutine)
    d.addBoth(outcome.append)
    if not outcome:
        d.addBoth(lambda _: reactor.stop())
        reactor.run()
    if not outcome:
        raise Refused("interrupted")
    if isinstance(outcome[0], Failure):
        outcome[0].raiseException()
    return outcome[0]


# -- For a person to read ----------------------------------------------------------------------------


def readable(found: Mapping[str, Any]) -> str:
    """Return an explanation as aligned text: a heading on the left, what there is to say beside it."""
    request = found["request"]
    sections: list[tuple[str, list[str]]] = [
        (
            "request",
            [f"{request['method']} of {request['model']}, {request['version']}, {_FRAMING[request['framing']]}"],
        ),
        ("client key", [_key(found)]),
    ]
    if found.get("budgets"):
        sections.append(("budgets", [_budget(it) for it in found["budgets"]]))
    if dialect := found.get("dialect"):
        sections += [("in " + dialect["name"], _body(dialect["body"])), ("translated", _body(dialect["translated"]))]
        if dialect["left_out"]:
            sections.append(("left out", dialect["left_out"]))
    if model := found.get("model"):
        change = model["served"] if model["served"] == model["asked"] else f"{model['asked']} → {model['served']}"
        sections.append(("model", [f"{change}: {model['reason']}{_by(model)}"]))
    if found.get("edited_by"):
        sections.append(("body edited", [f"by {', '.join(found['edited_by'])}"]))
    if "candidates" in found:
        sections.append(("candidates", [", ".join(found["candidates"]) or "none"]))
    if found.get("excluded"):
        sections.append(("excluded", _table([_excluded(each) for each in found["excluded"]])))
    if waits := found.get("waits"):
        sections.append(("waits", [_wait(waits)]))
    if account := found.get("account"):
        sections.append(("account", [f"{account['name']} ({account['kind']}): {account['reason']}{_by(account)}"]))
    if upstream := found.get("upstream"):
        sections += [
            ("upstream", [f"{upstream['method']} {upstream['url']}", f"built by {upstream['plugin']}"]),
            ("headers", _table([(f"{name}:", value) for name, value in upstream["headers"].items()])),
            ("body", _body(upstream["body"])),
        ]
    if error := found.get("error"):
        by = f"by plugin {found['refused_by']}: " if found.get("refused_by") else ""
        first, *rest = _refusal(error)
        sections.append(("refused", [by + first, *rest]))
    if found.get("plugins"):
        sections.append(("plugins", _table([(call["hook"], call["plugin"], _said(call)) for call in found["plugins"]])))
    return "\n".join(
        f"{heading if number == 0 else '':<13}{printable(line)}".rstrip()
        for heading, lines in sections
        for number, line in enumerate(lines)
    )


_FRAMING = {"unary": "answered whole", "sse": "streamed as events", "array": "streamed as a JSON array"}


def _key(found: Mapping[str, Any]) -> str:
    if found["client_key"] is not None:
        return str(found["client_key"])
    if found.get("client_key_required"):
        return "none given, but the gateway requires one, and its limits apply: name one with --key"
    return "none, and none is required"


def _budget(it: Mapping[str, Any]) -> str:
    amounts = f"{dollars(it['spent'])} of {dollars(it['limit'])} a {it['per']} spent"
    then = " (a warning only)" if it["then"] == "warn" else ""
    return f"{it['of']}: {amounts}{then}, anew in {_duration(it['seconds_left'])}"


def _by(part: Mapping[str, Any]) -> str:
    return f" [{part['plugin']}]" if part.get("plugin") else ""


def _excluded(exclusion: Mapping[str, Any]) -> tuple[str, ...]:
    wait = exclusion["retry_after"]
    left = "" if wait is None else f", {_duration(wait)} left"
    cause = (
        exclusion["reason"]
        if exclusion["cause"] in exclusion["reason"]
        else f"{STATES.get(exclusion['cause'], exclusion['cause'])}: {exclusion['reason']}"
    )
    said = f"; Google says: {exclusion['message']}" if exclusion.get("message") else ""
    link = f" ({exclusion['link']})" if exclusion.get("link") else ""
    return exclusion["account"], f"{cause}{left}{_by(exclusion)}{said}{link}"


def _wait(waits: Mapping[str, Any]) -> str:
    when = f"in {_duration(waits['seconds'])}" if waits["seconds"] else "at any moment"
    return f"for an account, expected {when}; {_duration(waits['at_most'])} at most"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s".replace(".0 ", " ")
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _table(rows: Iterable[Sequence[str]]) -> list[str]:
    """Rows as lines, each column as wide as its widest cell."""
    known = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*known, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in known]


def _body(body: object) -> list[str]:
    text = body if isinstance(body, str) else json.dumps(body, indent=2, ensure_ascii=False)
    lines = [line if len(line) <= _WIDTH else f"{line[:_WIDTH]}… ({len(line)} characters)" for line in text.split("\n")]
    if len(lines) > _LINES:
        lines[_LINES:] = [f"… ({len(lines) - _LINES} more lines; --json shows all)"]
    return lines


def _refusal(error: Mapping[str, Any]) -> list[str]:
    lines = [f"{error['code']} {error['status']}", str(error["message"])]
    for detail in error.get("details", ()):
        if "reason" in detail:
            lines[0] += f", {detail['reason']}"
        if "retryDelay" in detail:
            lines[0] += f", to be tried again in {detail['retryDelay']}"
    return lines


def _said(call: Mapping[str, Any]) -> str:
    """Describe what a plugin returned from a hook, in a few words."""
    said = call["said"]
    if isinstance(said, dict) and said.keys() == {"error", "message"} and isinstance(said["error"], int):
        return f"refused with {said['error']}: {said['message']}"
    if call["hook"] == "agm_transform_request":
        return "edited the body"
    if call["hook"] == "agm_wrap_request":
        return "built the request"
    if isinstance(said, dict):
        named = said.get("model") or said.get("account")
        if named is not None and set(said) <= {"model", "account", "reason"}:
            return f"{named}: {said['reason']}" if said.get("reason") else str(named)
        return "; ".join(f"without {name}: {reason}" for name, reason in said.items())
    return str(said)
