"""``lakebranch completion SHELL``: a completion script, made from the parser."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

BASH = """_lakebranch() {
    local current="${COMP_WORDS[COMP_CWORD]}" known=""
    case "${COMP_WORDS[*]:1:COMP_CWORD-1}" in
@CASES@
    esac
    COMPREPLY=($(compgen -W "$known" -- "$current"))
    [[ ${#COMPREPLY[@]} -gt 0 ]] || COMPREPLY=($(compgen -f -- "$current"))
}
complete -F _lakebranch lakebranch"""
ZSH = """#compdef lakebranch
_lakebranch() {
    local known=""
    case "${(j: :)words[2,CURRENT-1]}" in
@CASES@
    esac
    compadd -- ${=known} || _files
}
compdef _lakebranch lakebranch"""
FISH = """function __lakebranch_words
    switch (string join ' ' -- (commandline -opc)[2..-1])
@CASES@
    end
end
complete -c lakebranch -a '(__lakebranch_words)'"""
SHELLS = {
    "bash": (BASH, '    "{path}"*) known="{words}" ;;'),
    "zsh": (ZSH, '    "{path}"*) known="{words}" ;;'),
    "fish": (FISH, "    case '{path}*'\n        string split ' ' -- '{words}'"),
}


def declare(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    made = commands.add_parser(
        "completion",
        help="print a completion script for a shell",
        description='Print a completion script. bash, zsh: eval "$(lakebranch completion bash)" (or zsh) in the '
        "shell's start-up file; fish: lakebranch completion fish | source.",
    )
    made.add_argument("shell", choices=list(SHELLS))
    made.set_defaults(act=run)


def run(parsed: argparse.Namespace) -> int:
    """Print the script."""
    from pytest_lakebranch.cli import parser

    script, case = SHELLS[parsed.shell]
    known = sorted(_words(parser(), ()), key=lambda pair: -len(pair[0]))  # the longest path first: it is a prefix match
    cases = "\n".join(case.format(path=" ".join(path), words=" ".join(words)) for path, words in known)
    sys.stdout.write(script.replace("@CASES@", cases) + "\n")
    return 0


def _words(parser: argparse.ArgumentParser, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """For each command, named by the words that lead to it, what may follow it."""
    words: list[str] = []
    for action in parser._actions:
        words += [*action.option_strings, *(str(choice) for choice in action.choices or ())]
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                yield from _words(command, (*path, name))
    yield path, words
