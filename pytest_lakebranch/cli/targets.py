"""What may be compared, in words for the help: imported with every command, so it imports nothing."""

TARGET_HELP = (
    "base (built if it is not in the cache), source (the base before its migrations), a test, a branch or a layer as "
    "for `lakebranch open`, git:REVISION (the base as it was then), env:NAME (a server whose URL is in that variable), "
    "or a .json file that `lakebranch schema --json` wrote"
)
