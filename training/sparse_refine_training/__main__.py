"""`python3 -m sparse_refine_training`."""

import sys

from .cli import main

sys.exit(main())
