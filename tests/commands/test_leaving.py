"""The scripts end without taking the process apart, but with all that was to be done at the end."""

import subprocess
import sys

import pytest

CODE = """
import atexit, os, sys, threading, time, weakref
from nanocnn.system.startup import leave

class Kept: pass
kept = Kept()
weakref.finalize(kept, print, "finalized")
atexit.register(print, "at the end", file=sys.stderr)
class Loud:
    def __del__(self): print("taken apart")
loud = Loud()
"""
THREAD = """
threading.Thread(target=lambda: (time.sleep(0.3), print("worked"))).start()
"""


@pytest.mark.parametrize("code", [0, 3, 143])
def test_what_was_asked_for_is_done_and_nothing_is_lost(code):
    text = f"{CODE}\nsys.stdout.write('no line')\nleave({code})"
    done = subprocess.run([sys.executable, "-c", text], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, "at the end\n")
    assert done.stdout == "no line" + "finalized\n"


def test_a_profile_of_a_script_is_not_lost(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("from nanocnn.system.startup import leave\nleave(3)")
    command = [sys.executable, "-m", "cProfile", str(script)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert "function calls" in done.stdout, done.stderr


def test_a_thread_at_work_is_waited_for():
    text = f"{CODE}{THREAD}\nleave(2)"
    done = subprocess.run([sys.executable, "-c", text], check=False, capture_output=True, text=True)
    assert done.returncode == 2 and "worked" in done.stdout and "finalized" in done.stdout
