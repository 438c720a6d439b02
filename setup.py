"""Package metadata. The documented install goes through the lock in docker/ (see README.md)."""

from pathlib import Path

from setuptools import find_packages, setup

SERVE = ["flask>=3.0", "gunicorn>=23", "werkzeug>=3.0"]
TENSORBOARD = ["tensorboardX>=2.6.5"]
TEST = [
    "atheris>=3.0; python_version >= '3.11' and sys_platform == 'linux' and platform_machine == 'x86_64'",
    "hypothesis",
    "moto>=5.2",
    "mypy>=1.13",
    "pytest>=8",
    "ruff>=0.8",
]

setup(
    name="gluonseg",
    version="0.1.0",
    description="An open, drop-in replacement for SageMaker's built-in Semantic Segmentation algorithm",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.15",
    package_dir={"": "src"},
    packages=find_packages("src"),
    package_data={"gluonseg": ["py.typed", "report/template/*", "sagemaker/user_site/*.py"]},
    install_requires=[
        "gluoncv==0.10.5.post0",
        "jinja2>=3.1",
        "mxnet==1.9.1",
        "numpy>=1.24",
        # Serving: the network is exported to ONNX, and runs there without MXNet.
        "onnx>=1.17",
        "onnxruntime>=1.20",
        "matplotlib>=3.8",
        "opencv-python-headless>=4.10",
        "pillow>=12.1",
        "requests>=2.31",
        "sagemaker-training>=5.1.4",
        "safetensors>=0.4",
        # mxnet and gluoncv import distutils, which setuptools carried until release 81.
        "setuptools<81",
        "tqdm>=4.66",
        *SERVE,
    ],
    extras_require={"tensorboard": TENSORBOARD, "test": [*TEST, *TENSORBOARD]},
    entry_points={"console_scripts": ["gluonseg=gluonseg.cli:main"]},
)
