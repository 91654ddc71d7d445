"""
Load plugins, and refuse what would silently do nothing.

:func:`make_plugin_manager` loads the built-in plugins, the installed ones, those of a folder and those that a person
named.  How the gateway calls their hooks is :mod:`agm.plugins.hooks`'s.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import importlib.util
import inspect
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import pluggy

from agm import __version__, hookimpl, hookspecs
from agm.core.classify import Verdict
from agm.core.request import BUILT_IN_KINDS, Account, GatewayRequest, UpstreamKind, UpstreamRequest
from agm.plugins import builtin
from agm.plugins.kinds import check_kind

#: The attribute of a plugin by which it says which version of the hooks it was written for.
API_ATTRIBUTE = "agm_api_version"
#: The hooks, in the order in which a request meets them.
HOOKS: tuple[str, ...] = tuple(name for name in vars(hookspecs) if name.startswith("agm_"))
#: Hooks that may return an awaitable or a Deferred; all others decide at once.
MAY_AWAIT = frozenset(
    {
        "agm_accounts",
        "agm_started",
        "agm_look_up",
        "agm_answer_request",
        "agm_transform_request",
        "agm_attempt_finished",
        "agm_request_finished",
        "agm_alert",
        "agm_stopping",
    }
)
#: Hooks whose implementations each get what the one before returned; a wrapper has no place in them.
CHAINS = frozenset({"agm_transform_request", "agm_transform_event"})
#: Hooks without wrappers: those, the ones whose implementations are awaited one after the other, and the kinds, which
#: are asked for as soon as a plugin is loaded.
UNWRAPPED = CHAINS | {"agm_upstream_kinds", "agm_look_up", "agm_answer_request"}


#: Plugins that come with agm and are written as anybody's: by name, because nothing here imports what is above it.
DIALECTS = ("agm.dialects.openai", "agm.dialects.anthropic")


class PluginError(Exception):
    """A plugin cannot be used; the message names it and says why, in one line."""


@attrs.frozen
class Origin:
    """Where a plugin comes from: ``built-in``, ``installed``, ``file`` or ``module``; its version, if it has one."""

    kind: str
    where: str
    version: str | None


#: Loads a plugin, and says where it comes from.
Load = Callable[[], tuple[object, Origin]]


class KindHooks:
    """
    The hooks that a kind answers for its own accounts: it is asked behind all other plugins.

    :ivar of: the plugin whose kind it is.
    """

    def __init__(self, kind: UpstreamKind, of: object) -> None:
        self.kind, self.of = kind, of

    @hookimpl(trylast=True)
    def agm_wrap_request(self, request: GatewayRequest, account: Account, body: bytes) -> UpstreamRequest | None:
        """Return the request as the kind makes it."""
        wrap = self.kind.wrap
        return None if wrap is None or account.kind != self.kind.name else wrap(request, account, body)

    @hookimpl(trylast=True)
    def agm_classify_error(
        self, status: int, body: bytes, headers: Mapping[str, str], account: Account, request: GatewayRequest
    ) -> Verdict | None:
        """Return what the kind says."""
        read = self.kind.read_error
        if read is None or account.kind != self.kind.name:
            return None
        return read(status, body, headers, account, request)


class PluginManager(pluggy.PluginManager):
    """pluggy's manager, which also remembers where each plugin comes from, by name, and which kinds there are."""

    def __init__(self) -> None:
        super().__init__("agm")
        self.origins: dict[str, Origin] = {}
        #: All kinds of upstreams by name, and the plugins that those are of which are not built in.
        self.kinds: dict[str, UpstreamKind] = dict(BUILT_IN_KINDS)
        self.kind_plugins: dict[str, str] = {}
        self._in_use = False
        self.add_hookspecs(hookspecs)

    def use(self) -> None:
        """Say that the hooks are called from now on: what is registered later would be missing from some of them."""
        self._in_use = True

    def register(self, plugin: object, name: str | None = None) -> str | None:
        """As pluggy's.  :raises PluginError: once the gateway has been made."""
        if self._in_use:
            raise PluginError(
                f"plugin {name or name_of(plugin)} is registered too late: the gateway has been made. "
                "Name it in [plugins] load, or hand it to make_plugin_manager()"
            )
        return super().register(plugin, name)

    def add_hookcall_monitoring(self, before: Any, after: Any) -> Any:
        """
        Refuse it: the gateway binds arguments itself, so that pluggy would see some calls and miss others.

        :raises PluginError: always; `agm explain` and :meth:`agm.plugins.hooks.Hooks.recorded` tell the calls.
        """
        raise PluginError("agm calls hooks without pluggy's monitoring; agm explain shows what each plugin returned")

    def add(self, plugin: object, name: str, origin: Origin) -> None:
        """
        Register a plugin; the last one added is asked first.

        :raises PluginError: if it could not do what its author expects of it.
        """
        if self.is_registered(plugin):
            return
        if self.has_plugin(name):
            raise PluginError(f"plugin {name}: there is another plugin of this name; load one of them only")
        _check_version(plugin, name)
        _check_names(plugin, name)
        self._warn_of_old_names(plugin, name)
        try:
            self.register(plugin, name)
        except pluggy.PluginValidationError as e:
            raise PluginError(f"plugin {name}: {_arguments_refused(e, plugin)}") from e
        self.origins[name] = origin
        for caller in self.get_hookcallers(plugin) or ():
            for impl in caller.get_hookimpls():
                if impl.plugin is not plugin:
                    continue
                if caller.spec is not None:
                    _check_impl(impl, name, caller.name)
                elif not impl.optionalhook:  # of another name than its function: specname=…
                    raise PluginError(f"plugin {name}: there is no hook {caller.name}{_nearest(caller.name)}")
                if caller.name == "agm_upstream_kinds":
                    self._add_kinds(impl, name)

    def parse_hookimpl_opts(self, plugin: object, name: str) -> pluggy.HookimplOpts | None:
        """As pluggy's; a hook that has another name now is taken for that."""
        opts = super().parse_hookimpl_opts(plugin, name)
        if opts is not None and (renamed := hookspecs.RENAMED.get(opts["specname"] or name)) is not None:
            opts["specname"] = renamed[0]
        return opts

    def _warn_of_old_names(self, plugin: object, name: str) -> None:
        for attribute in dir(plugin):
            opts = super().parse_hookimpl_opts(plugin, attribute)
            old = attribute if opts is None else opts["specname"] or attribute
            if opts is not None and old in hookspecs.RENAMED:
                new, since = hookspecs.RENAMED[old]
                major = int(since.partition(".")[0]) + 1
                warnings.warn(
                    f"plugin {name}: {old} is called {new} since version {since} of the hooks; its old name ends with "
                    f"version {major}.0",
                    FutureWarning,
                    stacklevel=2,
                )

    def _add_kinds(self, impl: pluggy.HookImpl, plugin: str) -> None:
        """:raises PluginError: if it gives what is no kind, or one that there is already."""
        give: Callable[[], Any] = impl.function
        try:
            found = list(give())
            for kind in found:
                check_kind(kind)
        except Exception as e:
            raise PluginError(f"plugin {plugin}: agm_upstream_kinds failed: {last_line(e)}") from e
        for kind in found:
            if kind.name in self.kinds:
                whose = self.kind_plugins.get(kind.name)
                whose = "is built in" if whose is None else f"is one of plugin {whose}'s"
                raise PluginError(f"plugin {plugin}: the kind {kind.name} {whose}; give yours another name")
            self.kinds[kind.name], self.kind_plugins[kind.name] = kind, plugin
            self.register(KindHooks(kind, impl.plugin), f"{plugin}:{kind.name}")


def make_plugin_manager(
    modules: Iterable[str | object] = (),
    *,
    folder: Path | None = None,
    entry_points: bool = True,
    disable: Sequence[str] = (),
) -> PluginManager:
    """
    A plugin manager with the built-in plugins, then the installed ones by name, then the files of `folder` by name,
    then `modules` in their order.  Later ones are asked first.

    :param modules: dotted names, or plugins themselves: modules or objects with hooks.
    :param disable: names of plugins that are left out, and not even imported.
    :raises PluginError: if a plugin cannot be imported, or would not be called as its author expects, or if there is
        none of a name that is to be left out.
    """
    manager = PluginManager()
    known = []
    for name, load in _candidates(modules, folder, entry_points, manager.kinds):
        known.append(name)
        if name not in disable:
            plugin, origin = load()
            manager.add(plugin, name, origin)
    for name in disable:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]}?" if near else "; agm plugins lists them"
            raise PluginError(f"[plugins] disable: there is no plugin {name}{hint}")
    return manager


def _candidates(
    modules: Iterable[str | object], folder: Path | None, entry_points: bool, kinds: Mapping[str, UpstreamKind]
) -> Iterator[tuple[str, Load]]:
    """Each plugin by name, with the function that loads it."""
    for name, plugin in builtin.make_plugins(kinds):
        yield name, partial(_loaded, plugin, Origin("built-in", name, __version__))
    for name in DIALECTS:
        yield name, partial(_load_dialect, name)
    if entry_points:
        for point in sorted(importlib.metadata.entry_points(group="agm"), key=lambda p: (p.name, p.value)):
            yield point.name, partial(_load_installed, point)
    for path in () if folder is None else files_in(folder):
        name = f"agm_plugins.{path.stem}"
        yield name, partial(_load_file, name, path)
    for named in modules:
        if isinstance(named, str):
            yield named, partial(_load_module, named)
        else:
            yield name_of(named), partial(_loaded, named, Origin("module", name_of(named), _version(named)))


def _loaded(plugin: object, origin: Origin) -> tuple[object, Origin]:
    return plugin, origin


def _load_dialect(name: str) -> tuple[object, Origin]:
    return _imported(name, partial(importlib.import_module, name)), Origin("built-in", name, __version__)


def _load_installed(point: importlib.metadata.EntryPoint) -> tuple[object, Origin]:
    plugin = _imported(point.name, point.load)
    distribution = point.dist
    version = None if distribution is None else distribution.version
    where = point.value if distribution is None else f"{point.value} of {distribution.name}"
    return plugin, Origin("installed", where, version)


def _load_file(name: str, path: Path) -> tuple[object, Origin]:
    module = _imported(str(path), partial(_run_file, name, path))
    return module, Origin("file", str(path), _version(module))


def _load_module(name: str) -> tuple[object, Origin]:
    module = _imported(name, partial(_module_named, name))
    return module, Origin("module", name, __version__ if name.startswith("agm.") else _version(module))


def name_of(plugin: object) -> str:
    """Return the name of a plugin that was handed over as an object."""
    return getattr(plugin, "__name__", None) or f"{type(plugin).__module__}.{type(plugin).__qualname__}"


def files_in(folder: Path) -> list[Path]:
    """
    Return the plugins of a folder, by name.

    :raises PluginError: if it cannot be read, or others than its owner can change what is in it.
    """
    try:
        found = sorted(path for path in folder.iterdir() if path.suffix == ".py" and not path.name.startswith("_"))
    except OSError as e:
        raise PluginError(f"[plugins] path: {folder} cannot be read: {e.strerror}") from e
    _check_modes("[plugins] path", folder, folder / "__pycache__", *found)
    return found


def _check_modes(what: str, *paths: Path) -> None:
    """:raises PluginError: if others than their owner can change files or folders that code is taken from."""
    found = [path for path in paths if path.exists() and path.stat().st_mode & 0o022]
    if found:
        named = ", ".join(map(str, found))
        cure = f"chmod go-w {shlex.join(map(str, found))}"
        raise PluginError(f"{what}: others than its owner can change {named}, and so what the gateway does; {cure}")


def _module_named(name: str) -> ModuleType:
    """
    Import a module, once it is known that nobody but its owner can change it, or the packages that it is in.

    :raises PluginError: if others can.
    """
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        part = ".".join(parts[:end])
        if part in sys.modules:
            continue
        try:
            spec = importlib.util.find_spec(part)  # which imports the packages that have been looked at
        except ModuleNotFoundError:
            break  # the import says what is missing
        if spec is not None and spec.origin is not None and spec.has_location:
            _check_modes(f"plugin {name}", *_code_of(Path(spec.origin)))
    return importlib.import_module(name)


def _code_of(file: Path) -> Sequence[Path]:
    """Return a module's file and, unless an installation is in it, its folder."""
    cache = file.parent / "__pycache__"
    return [file] if file.parent.name in ("site-packages", "dist-packages") else [file.parent, cache, file]


def _run_file(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None, "a path that ends in .py has a loader"
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # as import does: dataclasses and pickles look there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _imported(name: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except PluginError:
        raise
    except (Exception, SystemExit) as e:
        raise PluginError(f"plugin {name} cannot be imported: {last_line(e)}") from e


def _version(module: object) -> str | None:
    version = getattr(module, "__version__", None)
    return version if isinstance(version, str) else None


def last_line(error: BaseException) -> str:
    """Return the last line of a traceback."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def _check_version(plugin: object, name: str) -> None:
    """Refuse a plugin that says that it was written for hooks which are not these."""
    wanted = getattr(plugin, API_ATTRIBUTE, None)
    if wanted is None:
        return
    found = re.fullmatch(r"([0-9]{1,4})\.([0-9]{1,4})", str(wanted))
    if found is None:
        raise PluginError(f"plugin {name}: {API_ATTRIBUTE} = {wanted!r}; write it as {hookspecs.API_VERSION!r}")
    major, minor = (int(number) for number in hookspecs.API_VERSION.split("."))
    if (int(found[1]), int(found[2])) > (major, minor):
        cure = "upgrade agm"
    elif int(found[1]) < major:
        cure = "upgrade the plugin; docs/upgrading.md says what differs"
    else:
        return
    has = f"this agm has {hookspecs.API_VERSION}"
    raise PluginError(f"plugin {name}: it was written for version {wanted} of the hooks, and {has}; {cure}")


def _check_names(plugin: object, name: str) -> None:
    """Refuse what pluggy would pass over: a misspelt hook, or one without its mark."""
    for attribute in dir(plugin):
        if not attribute.startswith("agm_"):
            continue
        value = getattr(plugin, attribute)
        if not inspect.isroutine(value):
            continue
        marked = getattr(value, "agm_impl", None)
        if marked is not None and (marked["optionalhook"] or marked["specname"]):
            continue
        if attribute in hookspecs.RENAMED and marked is not None:
            continue
        if attribute not in HOOKS:
            raise PluginError(f"plugin {name}: there is no hook {attribute}{_nearest(attribute)}")
        if marked is None:
            raise PluginError(f"plugin {name}: {attribute} is not marked with @agm.hookimpl, so it would not be called")


def _nearest(hook: str) -> str:
    near = difflib.get_close_matches(hook, HOOKS, 1)
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(HOOKS)}"


def _arguments_refused(error: pluggy.PluginValidationError, plugin: object) -> str:
    for hook in HOOKS:
        function = getattr(plugin, hook, None)
        if function is None:
            continue
        known = list(inspect.signature(getattr(hookspecs, hook)).parameters)
        for argument in inspect.signature(function).parameters:
            if argument not in known:
                near = difflib.get_close_matches(argument, known, 1)
                hint = f"; did you mean {near[0]}?" if near else f"; it has {', '.join(known)}"
                return f"{hook} has no argument {argument}{hint}"
    return str(error).splitlines()[0]


def _check_impl(impl: pluggy.HookImpl, name: str, hook: str) -> None:
    if hook in UNWRAPPED and (impl.wrapper or impl.hookwrapper):
        what, cure = ("is a chain and", "edit") if hook in CHAINS else ("is awaited plugin by plugin and", "answer")
        raise PluginError(f"plugin {name}: {hook} {what} takes no wrapper; {cure} in a plain implementation")
    if inspect.isgeneratorfunction(impl.function) and not (impl.wrapper or impl.hookwrapper):
        raise PluginError(f"plugin {name}: {hook} yields, as a wrapper does; mark it with @hookimpl(wrapper=True)")
    if hook not in MAY_AWAIT and inspect.iscoroutinefunction(impl.function):
        raise PluginError(f"plugin {name}: {hook} is a synchronous hook and cannot be an async def")
