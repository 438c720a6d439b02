"""The /opt/ml training contract, on top of the sagemaker-training toolkit."""
