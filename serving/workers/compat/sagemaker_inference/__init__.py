"""The import name `sagemaker_inference`, which people's inference.py files expect: our own, of the same interface.

It knows what scripts take from the toolkit: types, decoder, encoder, errors, the default handler, small helpers. It
has no model server in it. It is the last entry of a worker's path, so that a toolkit which a model brings or an image
has goes first; `workers.process_setup` puts it there.
Standard library alone at import, CPython 3.9 on: numpy and the dialect's defaults are imported where a call needs them.
"""
