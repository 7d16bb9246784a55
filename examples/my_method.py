"""A third-party plugin in full: a method and a metric. docs/plugins.md builds it step by step."""
# ruff: noqa: ANN001, ANN201

from plad_bench import Access, Method, MethodParams, Metric, Term, Text, TokenObjective, hookimpl, param


class MyKDParams(MethodParams):
    """Parameters of my-kd."""

    weight: float = param(0.5, ge=0, le=1, source="ours")
    """Share of KL(p||q); the rest goes to KL(q||p)."""


def loss(student, teacher, labels, params):
    """Return weight KL(p||q) + (1 - weight) KL(q||p) for each token, [N]; p is the teacher, q the student."""
    from plad_bench.learn.divergences import forward_kl, reverse_kl

    return params.weight * forward_kl(student, teacher) + (1 - params.weight) * reverse_kl(student, teacher)


@hookimpl
def plad_bench_methods():
    """Register my-kd."""
    yield Method(
        name="my-kd",
        summary="Both Kullback-Leibler divergences, on the task's references.",
        paper="none",
        title="An example",
        equation="weight KL(p || q) + (1 - weight) KL(q || p)",
        access=Access.LOGITS,
        params=MyKDParams,
        objective=TokenObjective(terms=(Term(loss=loss, text=Text.REFERENCE),)),
    )


def type_token(examples, params, scorers):
    """Return distinct words per word of each response; NaN where it is empty."""
    words = [example.response.lower().split() for example in examples]
    return [len(set(w)) / len(w) if w else float("nan") for w in words]


@hookimpl
def plad_bench_metrics():
    """Register type-token."""
    yield Metric(name="type-token", summary="Distinct words per word.", better=None, unit="%", score=type_token)
