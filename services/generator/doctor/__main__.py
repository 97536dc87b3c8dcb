"""`python -m services.generator.doctor [--json]` checks the generator's set-up.

It calls the text model once, with a limit of a few output tokens. Exit codes: 0 all right, perhaps
with warnings; 1 a check failed; 2 wrong usage; 130 interrupted.
"""

import argparse
import asyncio
import sys

from services.generator.doctor.report import print_findings, run_checks, silence_logs


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m services.generator.doctor",
        description="Check the settings, PostgreSQL, Kafka and the AI providers.",
        allow_abbrev=False,
    )
    parser.add_argument("--json", dest="as_json", action="store_true", help="as JSON")
    arguments = parser.parse_args()
    silence_logs()
    try:
        return print_findings(asyncio.run(run_checks({})), as_json=arguments.as_json)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
