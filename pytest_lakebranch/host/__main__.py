"""``python -m pytest_lakebranch.host RUN_DIRECTORY``: started by the controller, or a worker that needs a branch."""

from pytest_lakebranch.host.server import main

main()
