"""nanocnn VERB: what can be done besides training and testing."""

import sys
from collections.abc import Sequence
from importlib import import_module

from nanocnn.system.errors import UserError, did_you_mean, exit_code
from nanocnn.system.output import deliver
from nanocnn.system.signals import exit_on_signal
from nanocnn.system.startup import refuse_several_processes

VERBS = {  # verb -> what it does; its module has the same name
    "cache": "show the decoded images that runs have kept, or remove them",
    "check-data": "look at the images before training: a page of what is in them",
    "export": "write a trained network as one file for other programs, with its resizing inside",
    "find-lr": "find a learning rate for a config, and draw the loss over it",
    "look": "look at what a trained network does: filters, what excites them, where it looks",
    "page": "make a page that runs a trained network in the browser",
    "photos": "from a folder of pictures to a judged classifier, in one command",
    "layers": "print the layer table of a config's network",
    "predict": "say what is in pictures, by a trained network",
}
USAGE = f"""usage: nanocnn VERB [argument ...]

What can be done besides training (python train.py) and testing (python test.py):

{chr(10).join(f"  {verb:<10} {what}" for verb, what in VERBS.items())}

examples:
  nanocnn check-data my/pictures
  nanocnn find-lr --config mnist.yaml
  nanocnn layers --config vgg11.yaml
  nanocnn look --ckpt runs/mine
  nanocnn predict --ckpt runs/mine pictures/
  nanocnn cache my --clear
  nanocnn VERB --help
"""


def run(arguments: Sequence[str]) -> None:
    """Do what the command line says. Raises UserError where that is nothing known."""
    if not arguments or arguments[0] in ("-h", "--help"):
        deliver(USAGE)
        return
    if arguments[0] == "--version":
        import nanocnn

        deliver(f"nanocnn {nanocnn.__version__}\n")
        return
    verb, *rest = arguments
    if verb in ("train", "test"):
        raise UserError(f"nanocnn {verb}: no verb but a script of a clone; type python {verb}.py")
    if verb not in VERBS:
        raise UserError(f"nanocnn {verb}: no such verb{did_you_mean(verb, VERBS)}")
    refuse_several_processes(f"nanocnn {verb}")
    import_module(f"nanocnn.commands.{verb.replace('-', '_')}").main(rest)


def main() -> int:
    exit_on_signal()
    return exit_code(lambda: run(sys.argv[1:]))
