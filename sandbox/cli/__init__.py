"""The command line behind `./blogstream`. Every command is a file; none is imported before it is called."""
