"""How it is spoken: the SageMaker routes and the management routes."""
