"""The tests themselves: none can hang."""

from __future__ import annotations


def test_every_test_has_a_time_limit(request):
    assert float(request.config.getini("timeout")) > 0
    marks = {item.nodeid: item.get_closest_marker("timeout") for item in request.session.items}
    unlimited = [name for name, mark in marks.items() if mark and not (mark.args or (mark.kwargs["timeout"],))[0] > 0]
    assert not unlimited
