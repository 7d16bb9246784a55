"""The plugin contract: claims about components, which tests and `plad-bench check-plugin` verify."""

from plad_bench.conformance.claims import Verdict
from plad_bench.conformance.components import broken, kind_of, verdicts

__all__ = ["Verdict", "broken", "kind_of", "verdicts"]
