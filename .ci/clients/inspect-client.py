"""Inspect AI before a server of albedo: `inspect eval` of a task of two samples.

Arguments: the routes' URL, the program, a folder for what is written.
"""

import os
import pathlib
import subprocess
import sys

from inspect_ai import __version__
from inspect_ai.log import list_eval_logs, read_eval_log

TASK = '''
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import includes
from inspect_ai.solver import generate, system_message


@task
def repairs():
    samples = [
        Sample(input="ballotbox: test_votes fails", target="THOUGHT"),
        Sample(input="spantime: test_parse fails", target="a text that no reply has"),
    ]
    return Task(
        dataset=samples, solver=[system_message("You repair small Python projects."), generate()], scorer=includes()
    )
'''

url, _, work = sys.argv[1:]
folder = pathlib.Path(work)
(folder / "repairs.py").write_text(TASK)
logs = folder / "logs"
subprocess.run(
    ["inspect", "eval", "repairs.py", "--model", "openai-api/albedo/king", "--log-dir", str(logs), "--display", "none",
     "--temperature", "0", "--max-tokens", "64", "--seed", "7", "--no-fail-on-error"],
    cwd=folder,
    env={**os.environ, "ALBEDO_BASE_URL": url, "ALBEDO_API_KEY": "none"},
    check=True,
)
(info,) = list_eval_logs(str(logs))
log = read_eval_log(info)
assert log.status == "success", log.error
assert len(log.samples) == 2 and not any(sample.error for sample in log.samples)
for sample in log.samples:
    assert sample.output.completion and sample.output.usage.output_tokens > 0, sample.output
    assert sample.output.choices[0].stop_reason in ("stop", "max_tokens"), sample.output
scores = [sample.scores["includes"].value for sample in log.samples]
assert scores[1] == "I", scores
print(f"Inspect AI {__version__}: a task of two samples succeeds, scored {scores}")
