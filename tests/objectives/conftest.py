import pytest


@pytest.fixture(autouse=True)
def _only_built_in(only_built_in_objectives):
    # classes that other tests define would make names ambiguous here
    pass
