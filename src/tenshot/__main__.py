"""The command `tenshot`: finds the verb, imports only what it needs, turns faults into exit codes."""

import os
import sys
from collections.abc import Sequence

from tenshot.output import lasting_output, printable, why_lost

VERBS = {
    "adapt": "adapt a source to your images (or --resume a run, or --dry-run to see what would happen)",
    "methods": "the table of methods: papers, what trains, what a step costs",
    "generate": "images from a model: one seed, one image",
    "sources": "what one can start from: embedded, or official to download and convert",
    "pretrain": "many images to a source of your own, from scratch or from another",
    "convert": "another program's checkpoint to a model file",
    "evaluate": "how near, how varied, how copied: a model's numbers against held-out images",
    "weights": "the weight files of the published metrics: which are there, where to get the others",
    "interpolate": "a smooth walk from seed to seed: a video, or a strip of its frames",
    "report": "a finished run as one page that opens offline, or several runs side by side",
    "export": "a finished generator as a file for use elsewhere, its pruned channels cut out (--compact)",
    "doctor": "what is wrong with an installation, a run's folder, a model file, or images",
    "bench": "a matrix of methods, domains and seeds: what has no result yet is run; tables of the results",
}

_WITH_BATCHES = ("adapt", "pretrain", "generate", "interpolate")

HELP = """\
usage: tenshot VERB [options]

A pretrained GAN and about ten images of a new domain in, a generator of that domain out.

verbs
{verbs}

try
  tenshot adapt examples/robots --out runs/robots      robots from faces, minutes on a laptop
  tenshot generate runs/robots --seeds 0-99 --out robots.zip
  tenshot evaluate runs/robots --real unseen_robots.zip  how near, how varied, how much copied
  tenshot interpolate runs/robots --pair faces64 --seeds 1,5,9 --out walk.mp4
  tenshot export runs/robots --compact --out compact.safetensors   pruned channels cut out for good
  tenshot adapt --resume runs/robots                   go on with a run that was stopped
  tenshot adapt my_images --steps 1000 --dap.prune-mass 0.02 --dry-run
  tenshot doctor runs/robots                           is it whole, and how does it go on?
  tenshot convert 550000.pt church256.safetensors      then: adapt ... --source church256.safetensors

  tenshot VERB --help       every option of a verb
  tenshot --version

exit codes: 0 done; 1 something given is wrong, told in a sentence; 2 a misspelt option; 130 stopped by Ctrl-C,
143 by SIGTERM: with a checkpoint, from which --resume goes on
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    with lasting_output():
        code = _run(given)
        if sys.stdout:
            sys.stdout.flush()
        if lost := why_lost(sys.stdout):
            code = code or 1
            if not isinstance(lost, BrokenPipeError):  # the reader, `head` perhaps, has seen enough
                print(f"{_name(given)}: cannot write the output: {lost.strerror}", file=sys.stderr)
    return code


def _name(given: list[str]) -> str:
    """The command, as far as it is a verb's."""
    return " ".join(["tenshot", *(verb for verb in given[:1] if verb in VERBS)])


def _at_home(argument: str) -> str:
    """`--out=~/x` and `'~/x'` as a shell expands `--out ~/x`."""
    flag, is_given, value = argument.partition("=")
    if flag.startswith("--") and is_given:
        return f"{flag}={os.path.expanduser(value)}"
    return os.path.expanduser(argument)


def _run(given: list[str]) -> int:
    if not given or given[0] in ("-h", "--help", "help"):
        print(HELP.format(verbs="\n".join(f"  {verb:<13}{line}" for verb, line in VERBS.items())), end="")
        return 0
    if given[0] in ("-V", "--version", "version"):
        from tenshot import __version__

        print(f"tenshot {__version__}")
        return 0
    verb, *rest = map(_at_home, given)
    if verb not in VERBS:
        import difflib

        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(VERBS)}"
        print(f"tenshot: there is no verb {verb!r}; {hint}", file=sys.stderr)
        return 2

    import importlib

    from tenshot.errors import TenshotError

    try:
        return importlib.import_module(f"tenshot.cli.{verb}").run(rest)
    except TenshotError as error:
        lines = [printable(line) for line in f"tenshot {verb}: {error}".split("\n")]  # files may have a say in it
        print("\n".join(lines), file=sys.stderr)
        return getattr(error, "exit_code", 1)
    except (MemoryError, RuntimeError) as error:
        from tenshot.recovery import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        fewer = "ask for fewer images at once (--batch), or " if verb in _WITH_BATCHES else ""
        print(f"tenshot {verb}: the memory ran out: {fewer}end other programs", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        print(f"tenshot {verb}: stopped", file=sys.stderr)
        return getattr(stop, "exit_code", 130)


if __name__ == "__main__":
    sys.exit(main())
