"""`python -m torch_accel doctor`: is everything well, and how fast is it?"""

import argparse
import sys


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m torch_accel", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser(
        "doctor", help="versions, instruction sets, threads, memory and a self-test"
    )
    commands.add_parser("isas", help="the values of ACCEL_ISA that this machine can run")
    arguments = parser.parse_args()

    from torch_accel import doctor

    if arguments.command == "isas":
        print(*doctor.instruction_sets())
        return 0
    return doctor.run()


if __name__ == "__main__":
    sys.exit(main())
