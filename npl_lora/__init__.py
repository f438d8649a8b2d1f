"""npl_lora: LoRA's forward and backward in NumPy, hand-written and proved, to check other implementations against."""

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """`npl_lora.check`, looked up when it is used: importing the package loads NumPy alone."""
    if name == "check":
        from .checking import check_anything

        return check_anything
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
