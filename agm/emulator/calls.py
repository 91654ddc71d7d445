"""A request as the surfaces see it, and the model call that it turns out to be.  Values only."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from agm.emulator.errors import Circumstances, Kind


@attrs.frozen
class Call:
    """
    One HTTP request: decoded path, the last value of each query parameter, headers by lower-case name.

    `base_url` is how the client reached the emulator, for the URLs that answers hold.
    """

    method: str
    path: str
    query: Mapping[str, str] = attrs.field(factory=dict)
    headers: Mapping[str, str] = attrs.field(factory=dict)
    body: bytes = b""
    base_url: str = "http://127.0.0.1:8046"

    @property
    def _alt(self) -> str:
        return self.query.get("$alt") or self.query.get("alt") or "json"

    @property
    def sse(self) -> bool:
        """Whether a stream was asked for as server-sent events."""
        return self._alt.partition(";")[0] == "sse"

    @property
    def enum_numbers(self) -> bool:
        """Whether enums are wanted as numbers."""
        return "enum-encoding=int" in self._alt.split(";")[1:]

    @property
    def pretty_print(self) -> bool:
        """Whether unary JSON is to be pretty-printed, which is Google's default."""
        return self.query.get("prettyPrint", "true") != "false"


@attrs.frozen
class Target:
    """The model call that a path stands for: kind, version, model, method, and where Vertex AI has them, the place."""

    kind: Kind
    version: str
    model: str
    method: str
    project: str | None = None
    location: str = "global"

    @property
    def streaming(self) -> bool:
        """Whether the method streams."""
        return self.method == "streamGenerateContent"

    def about(self, project: str, now: float) -> Circumstances:
        """Return the details that an error of this call mentions."""
        return Circumstances(
            kind=self.kind,
            version=self.version,
            model=self.model,
            method=self.method,
            project=self.project or project,
            location=self.location,
            now=now,
        )
