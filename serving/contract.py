"""The SageMaker container contract as data: header names, page sizes, limits, states of the wire.

Nothing here acts. Source of every figure: AWS's page on multi-model container APIs and botocore's model of
InvokeEndpoint, as gathered in the project's reference on the contract.
"""

from __future__ import annotations

import re

CUSTOM_ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
REQUEST_ID = "X-Request-Id"

# The platform forwards at most 1,024 characters of ASCII back to the client.
CUSTOM_ATTRIBUTES_MAX_CHARS = 1024

# AWS gives no page size; the other servers' default and cap.
PAGE_LIMIT_DEFAULT = 100
PAGE_LIMIT_MAX = 100

# BodyBlob.max of InvokeEndpoint.
INVOKE_BODY_MAX_BYTES = 6_291_456

# TargetModel is at most 1,024 characters; a file name's component at most 255 bytes.
MODEL_NAME_MAX_CHARS = 1024
MODEL_COMPONENT_MAX_BYTES = 255

# No control characters and no line breaks of any kind; what the names of files forbid is checked apart.
MODEL_NAME_PATTERN = re.compile("[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
