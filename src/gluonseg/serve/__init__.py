"""The HTTP server that SageMaker hosting talks to."""
