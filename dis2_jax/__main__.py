"""``python -m dis2_jax`` is ``dis2``."""

import sys

from dis2_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
