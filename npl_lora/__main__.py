"""python -m npl_lora: the same as npl-lora."""

import sys

from npl_lora.cli import main

if __name__ == "__main__":
    sys.exit(main())
