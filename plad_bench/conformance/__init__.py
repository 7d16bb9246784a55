"""What the harness expects of any component, as claims that tests and `plad-bench check-plugin` hold it against."""

from plad_bench.conformance.claims import Verdict
from plad_bench.conformance.components import broken, kind_of, verdicts

__all__ = ["Verdict", "broken", "kind_of", "verdicts"]
