"""What every room uses and no room is about: extras, files that are written whole, tensor files, ranks, quoting."""
