"""Write tests/oracle/vectors.json: the SHA-256 of what `npl-lora vectors write DIR --contract NAME` writes, for each
contract.

    python tests/oracle/record_vectors.py

Whoever adds a case or a fault runs it again; nothing else may change a digest.
"""

import hashlib
import json
import tempfile
from pathlib import Path

from npl_lora.oracle import CONTRACTS
from npl_lora.oracle.vectors import write_vectors

RECORD = Path(__file__).with_name("vectors.json")


def digest(folder: Path) -> str:
    """Of the names and the bytes of all files in a folder."""
    whole = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            whole.update(f"{path.relative_to(folder).as_posix()} {len(data)}\n".encode() + data)
    return whole.hexdigest()


def written(contract: str) -> str:
    """The digest of a contract's vectors, written anew."""
    with tempfile.TemporaryDirectory() as folder:
        write_vectors(Path(folder), contract=contract)
        return digest(Path(folder))


if __name__ == "__main__":
    RECORD.write_text(json.dumps({contract: written(contract) for contract in CONTRACTS}, indent=1) + "\n")
