#!/usr/bin/env python3
"""What a long list of rules costs a call: 1,000 mixed rules, the one that matches last, against 1 rule.

Bar: at most 1.1x the cost of one. Client, gateway and endpoint are tasks of one thread, so nothing waits.
usage: bench/routes.py      env: CALLS=20000, and see harness.py
"""
import os, subprocess, sys
import harness as h

h.need("taskset")
calls = os.environ.get("CALLS", "2000" if h.QUICK else "20000")
sys.exit(subprocess.run(h.placed([h.built("examples/routes"), calls])).returncode)
