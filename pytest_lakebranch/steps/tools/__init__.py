"""Migration tools as they run in processes of their own, which import the application; see ``steps/toolbox.py``."""
