"""A contract for import-linter beside its own: no two modules import each other, not even for the type checker."""

from __future__ import annotations

from typing import Any

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


class NoMutualImports(Contract):
    """Refuse each pair of modules that import each other, but those in ``owed``, which have to be there."""

    type_name = "no_mutual_imports"
    owed = fields.SetField(subfield=fields.StringField(), required=False, default=set())

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        """Find the pairs, each written as ``one <-> other`` in the order of the alphabet."""
        found = {
            f"{one} <-> {other}"
            for one in graph.modules
            for other in graph.find_modules_directly_imported_by(one)
            if one < other and one in graph.find_modules_directly_imported_by(other)
        }
        owed: Any = self.owed
        unwanted, settled = sorted(found - owed), sorted(owed - found)
        return ContractCheck(kept=not unwanted and not settled, metadata={"unwanted": unwanted, "settled": settled})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Print what is there and must not be, and what is listed and no longer there."""
        for pair in check.metadata["unwanted"]:
            output.print_error(f"these import each other: {pair}")
        for pair in check.metadata["settled"]:
            output.print_error(f"no longer import each other; remove from owed: {pair}")
