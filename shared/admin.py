"""Run the operators' commands under their released name: `python -m shared.admin` is `python -m admin`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("admin", run_name="__main__", alter_sys=True)
