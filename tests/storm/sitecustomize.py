"""With STORM_CLOCK, the clock of this process jumps by that many seconds and back, a few times a second."""

import os
import time

if jump := float(os.environ.get("STORM_CLOCK", "0")):
    _time, _localtime, _strftime = time.time, time.localtime, time.strftime

    def jumping():
        return _time() + (jump if int(time.monotonic() * 3) % 2 else 0)

    time.time = jumping
    time.strftime = lambda form, when=None: _strftime(form, when or _localtime(jumping()))
