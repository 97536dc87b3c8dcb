"""The commands of `./blogstream`: one module each, imported only when the command runs."""
