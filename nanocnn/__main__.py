"""python -m nanocnn VERB"""

import sys

from nanocnn.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
