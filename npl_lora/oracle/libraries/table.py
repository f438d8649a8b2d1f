"""The libraries that ship as subjects, one a row. Importing the table imports none of them."""

from .known import keras, loralib, mlx, peft, torchtune
from .library import Library

LIBRARIES: dict[str, Library] = {
    library.name: library
    for library in (
        Library("peft", ("peft", "torch", "transformers"), peft.VERDICTS),
        Library("loralib", ("loralib", "torch"), loralib.VERDICTS),
        Library("torchtune", ("torchtune", "torch", "torchao"), torchtune.VERDICTS, torchtune.BEYOND),
        Library("keras", ("keras", "torch"), keras.VERDICTS, keras.BEYOND),
        Library("mlx", ("mlx_lm", "mlx"), mlx.VERDICTS),
        Library("torch-compiled", ("torch",), slow=True, needs_compiler=True),
    )
}
