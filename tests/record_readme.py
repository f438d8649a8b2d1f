"""Write what README.md shows of `npl-lora check` and of the libraries, and examples/conformance.md.

    python tests/record_readme.py

README.md holds our_layers.py, two layers in torch, and names a function with a fault. They are checked. What
`npl-lora check` prints goes between the `<!-- layers -->` markers (where torch is installed) and the `<!-- check -->`
markers, and the pictures that `--html` draws of dB go into examples/check.svg. The table between the `<!-- matrix -->`
markers and conformance.md are made from examples/conformance.json.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from npl_lora.oracle.libraries.matrix import document, summary

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "examples" / "check.svg"
WRONG = "examples/my_lora_with_a_fault.py"
COMMAND = f"npl-lora check {WRONG} --html report.html"
BETWEEN = re.compile(r"(?<=<!-- check -->\n).*?(?=<!-- /check -->)", re.S)
LAYERS = re.compile(r"(?<=<!-- layers -->\n).*?(?=<!-- /layers -->)", re.S)
MATRIX = re.compile(r"(?<=<!-- matrix -->\n).*?(?=<!-- /matrix -->)", re.S)

_COLUMN, _MARGIN, _TOP, _ZOOM = 184, 24, 66, 2  # pixels, and how much larger than on the page
_FIGURE = re.compile(r'<figure><svg width="(\d+)" height="(\d+)">(.*?)</svg><figcaption>(.*?)</figcaption></figure>')
_CASE = re.compile(r"<p>Numbers of (\S+)\. ")


def shown(readme: str, name: str) -> str:
    """A file that README.md shows."""
    (code,) = re.findall(rf"^```python\n(# {re.escape(name)}\n.*?)^```", readme, flags=re.M | re.S)
    return code


def check_layers(code: str) -> tuple[int, str]:
    """The exit status, and what is printed when our_layers.py with this code is checked."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "our_layers.py").write_text(code, encoding="utf-8")
        command = [sys.executable, "-m", "npl_lora", "check", "our_layers.py"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ | {"COLUMNS": "120"})
        return done.returncode, done.stdout


def check(code: str) -> tuple[int, str, str]:
    """The exit status, what is printed when the function's file with this code is checked, and the page."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / WRONG
        file.parent.mkdir()
        file.write_text(code, encoding="utf-8")
        command = [sys.executable, "-m", "npl_lora", *COMMAND.split()[1:]]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ | {"COLUMNS": "120"})
        return done.returncode, done.stdout, (Path(folder) / "report.html").read_text(encoding="utf-8")


def block(printed: str) -> str:
    """The printed text as Markdown."""
    lines = [line.rstrip() for line in printed.strip().splitlines()]
    return "\n".join(["", "```text", *lines, "```", "", ""])


def picture(page: str) -> str:
    """The page's figures in a row, each under its caption."""
    figures, (case,) = _FIGURE.findall(page), _CASE.findall(page)
    bottom = _TOP + _ZOOM * max(int(height) for _, height, _, _ in figures)
    size = f'width="{2 * _MARGIN + len(figures) * _COLUMN}" height="{bottom + 2 * _MARGIN}"'
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="Helvetica, Arial, sans-serif">']
    lines.append(f'<rect {size} rx="8" fill="#fff"/>')
    for i, (width, height, cells, caption) in enumerate(figures):
        name, shape = re.fullmatch(r"(.*) (\(.*\))", caption).groups()
        frame = f'<rect width="{width}" height="{height}" fill="none" stroke="#ccc"/>'
        lines.append(f'<g transform="translate({_MARGIN + i * _COLUMN} 0)">')
        lines.append(f'<text y="32" font-size="14" fill="#222">{name}</text>')
        lines.append(f'<text y="52" font-size="12" fill="#777">{shape}</text>')
        lines.append(f'<g transform="translate(0 {_TOP}) scale({_ZOOM})">{cells}{frame}</g></g>')
    note = f"{case}. Blue is below zero, red above, white zero or allowed."
    lines.append(f'<text x="{_MARGIN}" y="{bottom + 28}" font-size="12" fill="#777">{note}</text>')
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    readme, examples = ROOT / "README.md", ROOT / "examples"
    text = readme.read_text(encoding="utf-8")
    if find_spec("torch"):
        layers = block(check_layers(shown(text, "our_layers.py"))[1])
        text = LAYERS.sub(lambda _: layers, text)
    _, printed, page = check((ROOT / WRONG).read_text(encoding="utf-8"))
    recorded = json.loads((examples / "conformance.json").read_text(encoding="utf-8"))
    text = BETWEEN.sub(lambda _: block(printed), text)
    readme.write_text(MATRIX.sub(lambda _: summary(recorded), text), encoding="utf-8")
    PICTURE.write_text(picture(page), encoding="utf-8")
    (examples / "conformance.md").write_text(document(recorded), encoding="utf-8")
