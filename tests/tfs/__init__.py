"""TensorFlow Serving's REST API, and SageMaker's TensorFlow container."""
