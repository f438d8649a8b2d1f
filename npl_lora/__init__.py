"""npl_lora: LoRA's forward and backward in NumPy, hand-written and proved, to check other implementations against."""

__version__ = "0.1.0"
