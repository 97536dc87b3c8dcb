"""Runs `python -m admin` under its released name, `python -m shared.admin`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("admin", run_name="__main__", alter_sys=True)
