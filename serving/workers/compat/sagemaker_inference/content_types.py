"""The media types of the toolkit, under its names.

They are spelled here and not taken from the dialect, so that importing a script costs nothing. It knows no bodies:
`decoder` and `encoder` read and write them. People's scripts compare a Content-Type or an Accept with these.
"""

JSON = "application/json"
CSV = "text/csv"
OCTET_STREAM = "application/octet-stream"
ANY = "*/*"
NPY = "application/x-npy"
NPZ = "application/x-npz"
UTF8_TYPES = [JSON, CSV]
