"""Empty: the older toolkit downloads, installs and imports people's modules with it, which here the server has done.

Scripts import it beside `worker` and `encoders` and use it when they train; what they would look for is an
AttributeError that names it.
"""
