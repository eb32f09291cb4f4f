"""The middle of the import name `sagemaker_containers.beta.framework`; nothing is in it.

`from sagemaker_containers.beta import framework` works as it does with the real one.
"""
