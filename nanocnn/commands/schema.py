"""Write configs/schema.json anew, by which editors complete and check the configs of this clone.

python -m nanocnn.commands.schema
"""

import json

from nanocnn.config.load import CONFIGS, json_schema
from nanocnn.networks.model_file import load_networks, shipped_model_file


def main() -> None:
    schema = json_schema(load_networks(shipped_model_file()))
    (CONFIGS / "schema.json").write_text(json.dumps(schema, indent=1) + "\n")


if __name__ == "__main__":
    main()
