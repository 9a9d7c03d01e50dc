import importlib

import pytest


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Many small operators on few cores: torch's own threads only wait for one another."""
    importlib.import_module("torch").set_num_threads(1)
