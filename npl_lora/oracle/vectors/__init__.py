"""Golden vectors: the cases and their right answers as files, for whoever does not speak Python.

    DIR/manifest.json                        what there is; its form is in manifest.schema.json beside it
    DIR/cases/<id>.safetensors               what a subject is given, as --exec gives it
    DIR/answers/<id>.safetensors             the right answers, float64, correctly rounded
    DIR/allowed/<id>.safetensors             under the same names: how far each number may be off

An implementation reads a case, writes its answers to RESULTS/<id>.safetensors, and is judged by `npl-lora vectors judge
DIR RESULTS`, or, number by number, by itself: |got - answer| <= allowed, NaN being neither. `judge` is stricter, for it
also measures how far right implementations really are off (see `tolerance.measured`), which no two machines do alike.

The same bytes come out everywhere: inputs are drawn from PCG64's raw stream (`contracts.draw.Draw`), answers are
correctly rounded (`high_precision`), what is allowed is rounded up to a few digits, and files are written in order.

Reading order: safetensors, writing, judging.
"""

from .judging import judge_vectors
from .writing import VectorsError, write_vectors

__all__ = ["VectorsError", "judge_vectors", "write_vectors"]
