"""Try one handed-in exercise; tools/handout.py starts it, in a process of its own, because the code is not ours.

    python tools/judge.py job.json verdict.txt

The job names the course's imports, the definitions handed in, the function and its checker. Where there is no verdict the code
has ended Python, or it ran too long: then late.txt says where it was.
"""

import ast
import faulthandler
import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MEMORY = 4 * 2**30  # bytes


def limit(seconds: float) -> None:
    """End this process after some seconds, whatever it is doing, and refuse it more memory than a solution takes."""
    faulthandler.dump_traceback_later(seconds, exit=True, file=open("late.txt", "w"))  # noqa: SIM115, open to the end
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))


def judge(job: dict) -> str:
    """Return "passed", "failed: hint" or "not attempted"."""
    from diffmask_lite.course import exercises  # slow to import, so not part of the time limit

    check = getattr(exercises, job["checker"])  # now, before other code can replace it
    names: dict = {"__name__": "__main__"}
    for line in job["imports"]:
        exec(line, names)
    limit(job["seconds"])
    problem = ""
    for node in ast.parse(job["code"]).body:  # one by one: what a try-out lacks must not hide the answer
        try:
            exec(compile(ast.Module([node], []), "handed in", "exec"), names)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
    if job["function"] not in names:
        return f"failed: {job['function']} is not defined ({problem})"
    verdict = check(names[job["function"]])
    return f"failed: {verdict.hint}" if verdict.status == "failed" else verdict.status


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    source, target = map(Path, sys.argv[1:])
    try:
        text = judge(json.loads(source.read_text("utf-8")))
    except (SystemExit, KeyboardInterrupt) as stopped:
        text = f"failed: it stopped with {type(stopped).__name__}"
    except MemoryError:
        text = "failed: it took too much memory"
    target.write_text(text, "utf-8")
    os._exit(0)  # threads that the code left behind must not keep us
