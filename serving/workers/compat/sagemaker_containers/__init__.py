"""The import name `sagemaker_containers`, the toolkit before `sagemaker_inference`, which older scripts expect.

All of its interface is in `beta.framework`. It is the last entry of a worker's path, so that one which a model brings
or an image has goes first; `workers.process_setup` puts it there.
"""
