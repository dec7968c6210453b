#!/usr/bin/env python3
"""Activation of a hello module: from a base receiving the change to the first routed 200, its artefact cached.

Bar: p99 of 100 at most 20 ms.
usage: bench/activation.py      env: COUNT=100, and see harness.py
"""
import os, subprocess, sys
import harness as h

h.need("taskset")
artifacts = h.ROOT / "examples" / "hello" / "artifacts"
command = [h.built("examples/activation"), *(str(artifacts / f"hello-v{n}.wasm") for n in (1, 2)), os.environ.get("COUNT", "100")]
sys.exit(subprocess.run(command).returncode)
