import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # tests

from oracle.reasons.run import main

main()
