"""The pages that say how to add something hold one complete example each, which is short and runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINES = {"add-a-mixer.md": 60, "add-a-backbone.md": 150}


def test_the_examples_are_short_and_run(tmp_path):
    for page, most in LINES.items():
        (code,) = re.findall(
            r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(encoding="utf-8"), flags=re.DOTALL
        )
        assert len(code.splitlines()) < most
        (tmp_path / f"{page}.py").write_text(code, encoding="utf-8")
    # In one process, which takes most of its time for imports; each as a script of its own.
    script = f"import runpy\nfor page in {list(LINES)}: runpy.run_path(page + '.py', run_name='__main__')"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
