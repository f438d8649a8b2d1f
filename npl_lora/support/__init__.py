"""Small tools that every package uses: optional packages, atomic writes, tensor files, ranks, quoting, array types."""
