"""A model whose initialize raises."""


class TritonPythonModel:
    def initialize(self, args):
        raise RuntimeError("no luck today")

    def execute(self, requests):
        return []
