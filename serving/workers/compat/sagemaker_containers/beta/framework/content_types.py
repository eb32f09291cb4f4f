"""The media types of the older toolkit, under its names; npz came after it.

It knows no bodies: `encoders` reads and writes them. People's scripts compare a Content-Type or an Accept with these.
"""

JSON = "application/json"
CSV = "text/csv"
OCTET_STREAM = "application/octet-stream"
ANY = "*/*"
NPY = "application/x-npy"
UTF8_TYPES = [JSON, CSV]
